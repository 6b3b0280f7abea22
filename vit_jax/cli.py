"""The `vit-jax` command: dispatch, one-line errors and exit codes; no logic.

Exit codes: 0 done, 2 a mistake in the call, the config or the data; those of training
are in `cli_train`.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence

from absl import logging

from vit_jax import (
    __version__,
    cli_launch,
    cli_plan,
    cli_recipes,
    cli_report,
    cli_status,
    cli_sweep,
    cli_train,
)
from vit_jax.cli_errors import is_users_mistake
from vit_jax.cli_help import EXAMPLES


def build_parser() -> argparse.ArgumentParser:
    """The command line, without the `--config.KEY=VALUE` overrides."""
    parser = argparse.ArgumentParser(
        prog="vit-jax",
        description="Pre-train Vision Transformers in JAX.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        return verbs.add_parser(
            name,
            help=text,
            description=text,
            epilog=EXAMPLES[name],
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    cli_train.add_arguments(verb("train", "Train a config, or resume it."))

    cli_sweep.add_arguments(verb("sweep", "Train many variants of a config."))

    cli_plan.add_arguments(verb("plan", "What a config needs on chips not there."))

    cli_launch.add_arguments(verb("launch", "Render a job for a pod or cluster."))

    cli_recipes.add_arguments(verb("recipes", "List the recipes, or explain one."))

    cli_status.add_arguments(verb("status", "What runs are doing, and how far."))
    cli_report.add_arguments(verb("report", "One HTML file about one or more runs."))

    evaluate = verb("evaluate", "Run the evaluations of a work directory.")
    evaluate.add_argument("--workdir", required=True, metavar="DIR")
    evaluate.add_argument(
        "--step", default="latest", metavar="N|best|latest", help="which checkpoint"
    )
    evaluate.add_argument(
        "evaluations",
        nargs="*",
        metavar="NAME",
        help="of the run's, or classification, knn, fewshot, linear_probe, "
        "reconstruction, imagenet_v2, ...; default: all of the run's",
    )

    prepare = verb("prepare", "Prepare a data set in ArrayRecord format.")
    add_prepared(prepare)
    add_weights_verbs(verb)
    return parser


def add_prepared(prepare: argparse.ArgumentParser) -> None:
    """What is prepared, from what, and where."""
    prepare.add_argument(
        "name",
        metavar="NAME",
        help="digits, a TFDS name, folder:PATH (a folder per class) or idx:PATH",
    )
    prepare.add_argument(
        "--data_dir",
        metavar="DIR",
        help="default: $TFDS_DATA_DIR or ~/tensorflow_datasets",
    )
    prepare.add_argument(
        "--name",
        dest="new_name",
        metavar="NAME",
        help="what a set made from folder:PATH or idx:PATH is called",
    )
    prepare.add_argument(
        "--convert",
        action="store_true",
        help="write a set that is there in TFRecord as ArrayRecord",
    )
    prepare.add_argument(
        "--output",
        metavar="DIR",
        help="data directory for what --convert writes (default: beside the TFRecord)",
    )


def add_weights_verbs(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The verbs that read and write weights."""
    export = verb("export", "Write a run's weights for others.")
    export.add_argument("--workdir", required=True, metavar="DIR")
    add_written(export)
    add_step(export)
    convert = verb("convert", "Weights from one format to another.")
    convert.add_argument(
        "source", metavar="SRC", help="a file, folder or work directory"
    )
    convert.add_argument("output", metavar="DST", help="a new file or folder")
    add_written(convert, output=False)
    add_read(convert)
    predict = verb("predict", "Classify images, draw attention.")
    source = predict.add_mutually_exclusive_group(required=True)
    source.add_argument("--workdir", metavar="DIR", help="of a run")
    source.add_argument("--weights", metavar="PATH", help="any readable checkpoint")
    add_step(predict)
    add_read(predict)
    predict.add_argument("images", nargs="+", metavar="IMAGE")
    predict.add_argument(
        "--top", type=int, default=5, metavar="N", help="classes shown"
    )
    predict.add_argument("--batch_size", type=int, default=64, metavar="N")
    predict.add_argument("--features", metavar="FILE.npz", help="also write features")
    predict.add_argument("--attention", metavar="FILE.png", help="also draw attention")


def add_written(parser: argparse.ArgumentParser, *, output: bool = True) -> None:
    """Arguments of what is written."""
    parser.add_argument(
        "--to",
        required=True,
        metavar="FORMAT",
        help="npz, big_vision, timm, huggingface, stablehlo, savedmodel, onnx, litert",
    )
    if output:
        parser.add_argument(
            "--output", required=True, metavar="PATH", help="a new path"
        )
    parser.add_argument(
        "--single_file",
        action="store_true",
        help="stablehlo: parameters inside the program, not beside it",
    )
    parser.add_argument(
        "--licence", default="", metavar="NAME", help="for the model card, e.g. mit"
    )


def add_step(parser: argparse.ArgumentParser) -> None:
    """Arguments that pick the parameters of a run."""
    parser.add_argument("--step", default="latest", metavar="N|best|latest")
    parser.add_argument(
        "--ema", action="store_true", help="the parameters' moving average"
    )


def add_read(parser: argparse.ArgumentParser) -> None:
    """Arguments for what a file does not say, or should be changed."""
    for name, text in (
        ("num_heads", "attention heads, where the file does not say"),
        ("num_classes", "another number of classes: a new head of zeros; 0: no head"),
    ):
        parser.add_argument(f"--{name}", type=int, metavar="N", help=text)
    parser.add_argument(
        "--image_size", type=image_size, metavar="N|HxW", help="input size in pixels"
    )


def image_size(text: str) -> tuple[int, int]:
    """Height and width from ``"224"`` or ``"192x320"``."""
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdigit() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is not N or HxW, such as 192x320")
    return int(sides[0]), int(sides[-1])


def run_evaluate(options: argparse.Namespace, overrides: list[str]) -> int:
    """Evaluates a checkpoint and prints a line per evaluator."""
    from vit_jax import compilation_cache
    from vit_jax.devices import open_devices
    from vit_jax.evaluate import evaluate

    compilation_cache.enable(_note)
    open_devices()
    step, results = evaluate(
        options.workdir,
        step=options.step,
        names=options.evaluations,
        overrides=overrides,
    )
    print(f"step {step}")
    for name, value in results.items():
        print(f"  {name:24} {value:.6g}")
    return 0


def run_prepare(options: argparse.Namespace, overrides: list[str]) -> int:
    """Prepares a data set."""
    from vit_jax.data.prepare import prepare

    try:
        prepare(
            options.name,
            dir=options.data_dir,
            new_name=options.new_name,
            convert=options.convert,
            output=options.output,
        )
    except KeyboardInterrupt:
        print(
            "\ninterrupted; nothing half-written is read, and the same command starts "
            "again",
            file=sys.stderr,
        )
        return 130
    return 0


def run_export(options: argparse.Namespace, overrides: list[str]) -> int:
    """Writes a run's weights in another format."""
    from vit_jax.weights.export import export

    export(
        options.workdir,
        options.output,
        to=options.to,
        single_file=options.single_file,
        licence=options.licence,
        step=options.step,
        ema=options.ema,
    )
    return 0


def run_convert(options: argparse.Namespace, overrides: list[str]) -> int:
    """Writes any readable weights in another format."""
    from vit_jax.weights.export import export

    export(
        options.source,
        options.output,
        to=options.to,
        single_file=options.single_file,
        licence=options.licence,
        num_heads=options.num_heads,
        num_classes=options.num_classes,
        image_size=options.image_size,
    )
    return 0


def run_predict(options: argparse.Namespace, overrides: list[str]) -> int:
    """Classifies images."""
    from vit_jax import compilation_cache
    from vit_jax.devices import open_devices
    from vit_jax.predict import predict

    compilation_cache.enable(_note)
    open_devices()
    predict(
        options.workdir or options.weights,
        options.images,
        top=options.top,
        batch_size=options.batch_size,
        features=options.features,
        attention=options.attention,
        step=options.step,
        ema=options.ema,
        num_heads=options.num_heads,
        num_classes=options.num_classes,
        image_size=options.image_size,
    )
    return 0


def _note(line: str) -> None:
    """A remark beside the results on standard output."""
    print(f"vit-jax: {line}", file=sys.stderr)


VERBS = {
    "train": cli_train.run,
    "sweep": cli_sweep.run,
    "plan": cli_plan.run,
    "launch": cli_launch.run,
    "recipes": cli_recipes.run,
    "status": cli_status.run,
    "report": cli_report.run,
    "evaluate": run_evaluate,
    "prepare": run_prepare,
    "export": run_export,
    "convert": run_convert,
    "predict": run_predict,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb; a user's mistake ends in one message and exit code 2."""
    parser = build_parser()
    arguments = list(sys.argv[1:] if argv is None else argv)
    overrides = [word for word in arguments if word.startswith("--config.")]
    options, unknown = parser.parse_known_args(
        [word for word in arguments if word not in overrides]
    )
    options.words = arguments
    if options.verb not in ("train", "sweep", "plan", "launch"):
        allowed = "--config.evals." if options.verb == "evaluate" else "\0"
        unknown += [word for word in overrides if not word.startswith(allowed)]
    if unknown:
        parser.error(
            f"unknown argument {unknown[0]!r}; see vit-jax {options.verb} --help"
        )
    logging.set_verbosity(logging.ERROR)  # libraries' remarks are not for the user
    try:
        code = VERBS[options.verb](options, overrides)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # what reads the output, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except ValueError as error:
        if not is_users_mistake(error):
            raise
        print(f"vit-jax: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
