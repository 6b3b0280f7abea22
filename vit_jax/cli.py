"""The `vit-jax` command: dispatch, one-line errors and exit codes; no logic.

Exit codes: 0 done, 1 training diverged, 2 a mistake in the call, the config or the
data, 130 interrupted.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

from absl import logging

from vit_jax import __version__

TRAIN_EXAMPLES = """\
  --config.KEY=VALUE    replaces a field, any number of times; configs/base.py
                        lists them, e.g. --config.optim.learning_rate=3e-4

examples:
  vit-jax train --config=configs/digits.py
  vit-jax train --config=configs/vit_s16_i1k.py:B/16 --workdir=runs/b16 \\
      --config.train.batch_size=4096 --config.mesh.fsdp=8
  vit-jax train --config=configs/digits.py --workdir=runs/short \\
      --config.train.duration.steps=200

The same command again resumes where the work directory left off.
"""
EVALUATE_EXAMPLES = """\
examples:
  vit-jax evaluate --workdir=runs/digits
  vit-jax evaluate --workdir=runs/digits --step=best
"""
PREPARE_EXAMPLES = """\
examples:
  vit-jax prepare digits
  vit-jax prepare cifar10 --data_dir=/data/tfds
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line, without the `--config.KEY=VALUE` overrides."""
    parser = argparse.ArgumentParser(
        prog="vit-jax",
        description="Pre-train Vision Transformers in JAX.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, text: str, examples: str) -> argparse.ArgumentParser:
        return verbs.add_parser(
            name,
            help=text,
            description=text,
            epilog=examples,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    train = verb("train", "Train a config, or resume it.", TRAIN_EXAMPLES)
    train.add_argument(
        "--config",
        required=True,
        metavar="FILE[:ARG]",
        help="a config file; ARG goes to its get_config, e.g. the size",
    )
    train.add_argument(
        "--workdir",
        metavar="DIR",
        help="where the run lives (default: runs/NAME OF THE CONFIG)",
    )

    evaluate = verb(
        "evaluate", "Run the evaluations of a work directory.", EVALUATE_EXAMPLES
    )
    evaluate.add_argument("--workdir", required=True, metavar="DIR")
    evaluate.add_argument(
        "--step", default="latest", metavar="N|best|latest", help="which checkpoint"
    )

    prepare = verb(
        "prepare", "Prepare a data set in ArrayRecord format.", PREPARE_EXAMPLES
    )
    prepare.add_argument("name", metavar="NAME", help="digits, or a TFDS name")
    prepare.add_argument(
        "--data_dir",
        metavar="DIR",
        help="default: $TFDS_DATA_DIR or ~/tensorflow_datasets",
    )
    return parser


def run_train(options: argparse.Namespace, overrides: list[str]) -> int:
    """Loads the config, trains, prints how it ended."""
    from vit_jax import config as configs

    config = configs.load(options.config, overrides)
    name = pathlib.PurePath(options.config.partition(":")[0]).stem
    workdir = options.workdir or os.path.join("runs", name)
    from vit_jax.report.summary import summary
    from vit_jax.train import NonFiniteError, train

    try:
        result = train(config, workdir)
    except NonFiniteError as error:
        print(f"vit-jax: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            f"\ninterrupted; the same command resumes from the last checkpoint in "
            f"{workdir}",
            file=sys.stderr,
        )
        return 130
    print(summary(result))
    return 0


def run_evaluate(options: argparse.Namespace, overrides: list[str]) -> int:
    """Evaluates a checkpoint and prints a line per evaluator."""
    from vit_jax.evaluate import evaluate

    step, results = evaluate(options.workdir, step=options.step)
    print(f"step {step}")
    for name, value in results.items():
        print(f"  {name:24} {value:.6g}")
    return 0


def run_prepare(options: argparse.Namespace, overrides: list[str]) -> int:
    """Prepares a data set."""
    from vit_jax.data.prepare import prepare

    prepare(options.name, dir=options.data_dir)
    return 0


VERBS = {"train": run_train, "evaluate": run_evaluate, "prepare": run_prepare}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb; a user's mistake ends in one message and exit code 2."""
    parser = build_parser()
    arguments = list(sys.argv[1:] if argv is None else argv)
    overrides = [word for word in arguments if word.startswith("--config.")]
    options, unknown = parser.parse_known_args(
        [word for word in arguments if word not in overrides]
    )
    if options.verb != "train":
        unknown += overrides
    if unknown:
        parser.error(
            f"unknown argument {unknown[0]!r}; see vit-jax {options.verb} --help"
        )
    logging.set_verbosity(logging.ERROR)  # libraries' remarks are not for the user
    try:
        return VERBS[options.verb](options, overrides)
    except ValueError as error:
        if not is_users_mistake(error):
            raise
        print(f"vit-jax: {error}", file=sys.stderr)
        return 2


def is_users_mistake(error: Exception) -> bool:
    """Whether an error's message is meant for the user, without a traceback."""
    from vit_jax.checkpoint import CheckpointError
    from vit_jax.config import ConfigError
    from vit_jax.data.tfds import DataError

    return isinstance(error, (CheckpointError, ConfigError, DataError))


if __name__ == "__main__":
    sys.exit(main())
