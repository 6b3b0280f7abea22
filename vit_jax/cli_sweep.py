"""The `sweep` verb: its arguments, and who does what is asked for."""

import argparse

ACTIONS = ("run", "status", "results", "run-trial")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `vit-jax sweep`."""
    add = parser.add_argument
    add(
        "action",
        nargs="?",
        default="run",
        choices=ACTIONS,
        metavar="ACTION",
        help="run (the default), status, results, or run-trial (one, for a scheduler)",
    )
    add("--workdir", metavar="DIR", help="where the sweep lives")
    add("--config", metavar="FILE[:ARG]", help="the config that trials change")
    _add_trials(parser)
    _add_local(parser)
    _add_schedulers(parser)
    shown = parser.add_argument_group("status and results")
    add = shown.add_argument
    add("--watch", action="store_true", help="status: until all trials are over")
    add("--json", action="store_true", help="print JSON")
    add(
        "--csv",
        nargs="?",
        const="-",
        metavar="FILE",
        help="CSV, printed or into a file",
    )
    add("--limit", type=int, default=40, metavar="N", help="rows of the table")
    add("--plots", action="store_true", help="results: draw DIR/figures/*.png")


def _add_trials(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("which trials").add_argument
    add(
        "--set",
        nargs="+",
        action="extend",
        metavar="KEY=A,B,...",
        help="values of a config key; tuples in quotes, separated by ;  "
        "ranges: uniform(0,1) loguniform(1e-4,1e-2) integers(1,9) choice(a,b)",
    )
    add(
        "--combine",
        default="product",
        choices=("product", "zip", "chain"),
        help="how the keys of --set go together (chain: one is changed at a time)",
    )
    add("--sweep", metavar="FILE", help=".py with get_sweep(), .json or .yaml")
    add("--samples", type=int, metavar="N", help="draw so many trials from ranges")
    add("--sweep_seed", type=int, default=0, metavar="N", help="of what is drawn")
    add("--metric", metavar="NAME", help="default: checkpoint.best of the config")
    add("--mode", choices=("max", "min"), help="default: min of what ends in loss")
    add("--dry_run", action="store_true", help="check and list; write nothing")
    add = parser.add_argument_group("adaptive search (Optuna)").add_argument
    add("--search", choices=("tpe", "random"), help="propose trials by results")
    add(
        "--prune",
        default="none",
        choices=("none", "median", "halving"),
        help="stop trials that fall behind",
    )
    add("--prune_after", type=int, metavar="STEPS", help="default: a quarter of them")


def _add_local(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("running").add_argument
    add(
        "--backend",
        default="local",
        choices=("local", "slurm", "gke", "skypilot"),
        help="local runs trials here; the others write files for a scheduler",
    )
    add("--parallel", type=int, metavar="N", help="trials at a time (default: 1)")
    add("--cores", default="", metavar="0,1:2,3", help="a set of cores for each")
    add("--devices", default="", metavar="0:1", help="a set of devices for each")
    add(
        "--retries",
        type=int,
        default=2,
        metavar="N",
        help="of a trial that fails, anew whenever it got further (default: 2)",
    )
    add("--retry_failed", action="store_true", help="try failed trials again")


def _add_schedulers(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("schedulers").add_argument
    add("--submit", action="store_true", help="hand the files over as well")
    add(
        "--sbatch",
        action="append",
        default=[],
        metavar="OPTION",
        help="slurm: for a #SBATCH line, such as --sbatch=--gres=gpu:1",
    )
    add("--image", metavar="IMAGE", help="gke, skypilot: container with vit-jax[gcs]")
    add(
        "--limits",
        action="append",
        default=[],
        metavar="KEY=N",
        help="gke: resources of a pod, such as nvidia.com/gpu=1",
    )
    add(
        "--node_selector",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="gke: label of the nodes",
    )
    add("--service_account", metavar="NAME", help="gke: that may use the bucket")
    add("--accelerators", metavar="NAME:N", help="skypilot: such as H100:1")
    add("--spot", action="store_true", help="skypilot: on preemptible machines")
    add(
        "--setup",
        default="pip install 'vit-jax[gcs]'",
        metavar="COMMAND",
        help="skypilot: installs vit-jax there",
    )
    add = parser.add_argument_group("run-trial").add_argument
    add("--index", type=int, metavar="N", help="of the trial, from 0")
    add("--of", default="", metavar="0-11,14", help="numbers of the batch's trials")


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Does what is asked for."""
    if options.action == "run":
        from vit_jax.sweep.drive import drive

        return drive(options, overrides)
    if options.action == "run-trial":
        from vit_jax.sweep.one import run_trial

        return run_trial(options)
    from vit_jax.sweep import show

    return {"status": show.status, "results": show.results}[options.action](options)
