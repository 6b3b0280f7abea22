"""The `launch` verb: a job for a pod, a cluster or a cloud."""

import argparse
import os
import shlex
import sys

from vit_jax.launch.targets import TARGETS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `vit-jax launch`."""
    parser.add_argument(
        "target", choices=list(TARGETS), metavar="TARGET", help=", ".join(TARGETS)
    )
    for name, metavar, text in (
        ("config", "FILE[:ARG]", "as of train"),
        ("workdir", "DIR", "where the run lives: gs://BUCKET/PATH, or of Slurm a path"),
        ("topology", "NAME", "v5e-256 or v5e:16x16, v5p-128, h100:8x8 (hosts x GPUs)"),
    ):
        parser.add_argument(f"--{name}", required=True, metavar=metavar, help=text)
    for name, text in (
        ("slices", "as N*v5e:16x16"),
        ("hosts", "refuse unless the topology has so many"),
        ("chips", "likewise"),
    ):
        parser.add_argument(f"--{name}", type=int, metavar="N", help=text)
    parser.add_argument("--name", help="of the job; default: the config's")
    parser.add_argument("--output", metavar="DIR", help="default: launch/NAME")
    parser.add_argument(
        "--code",
        default="wheel",
        metavar="CODE",
        help="wheel (of this checkout, the default), FILE.whl, git+URL@REVISION, or "
        "the VERSION of a published one",
    )
    for name, metavar, text in (
        ("env", "NAME=VALUE", "a variable of the run; written to files"),
        ("secret", "NAME", "a variable whose value the target knows"),
        ("extra", "--OPTION=VALUE", "for the target's tool, as it is"),
    ):
        parser.add_argument(
            f"--{name}",
            action="append",
            default=[],
            metavar=metavar,
            help=f"{text}; any number of times",
        )
    parser.add_argument("--spot", action="store_true", help="cheaper, taken away")
    parser.add_argument(
        "--retries",
        type=int,
        default=3,
        metavar="N",
        help="failures after which it starts again; preemptions do not count",
    )
    parser.add_argument(
        "--force", action="store_true", help="although it does not fit the memory"
    )
    parser.add_argument(
        "--submit", action="store_true", help="have the target's tool take it"
    )
    _add_target_options(parser)


def _add_target_options(parser: argparse.ArgumentParser) -> None:
    """Each once; several targets may have it."""
    added = set()
    for target, described in TARGETS.items():
        group = parser.add_argument_group(target)
        for name, text in described.options.items():
            if name not in added:
                group.add_argument(f"--{name}", metavar=name.upper(), help=text)
            added.add(name)


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Renders a job, says what and where, and submits it if asked to."""
    from vit_jax.plan.topology import parse

    place = parse(options.topology, slices=options.slices)
    # Before JAX: no accelerator of this machine is needed, or touched.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    from vit_jax.launch import launch, submit

    names = {name for target in TARGETS.values() for name in target.options}
    written = launch.write(
        launch.Call(
            target=options.target,
            config=options.config,
            overrides=overrides,
            workdir=options.workdir,
            topology=place,
            name=options.name,
            output=options.output,
            code=options.code,
            env=options.env,
            secrets=options.secret,
            options={name: getattr(options, name) for name in names},
            extra=options.extra,
            spot=options.spot,
            retries=options.retries,
            hosts=options.hosts,
            chips=options.chips,
            force=options.force,
            submit=options.submit,
        )
    )
    _report(written)
    if not options.submit:
        print("next:")
        for command in written.rendered.submit:
            print(f"  {shlex.join(command)}")
        return 0
    sys.stdout.flush()
    if code := submit.submit(written.rendered):
        tool = written.rendered.submit[0][0]
        print(f"vit-jax: {tool} ended with code {code}", file=sys.stderr)
        return 1
    return 0


def _report(written) -> None:
    """What was written and checked."""
    from vit_jax.launch.job import summary

    job, rendered = written.job, written.rendered
    print(f"{job.name}: {summary(job)}")
    print(f"  {written.plan}")
    print(f"  code: {job.code.origin}")
    for name in [*rendered.files, *(job.files if rendered.ships else ())]:
        print(f"  wrote {job.output / name}")
    for line in written.checked:
        print(f"  checked: {line}")
    for line in written.unchecked:
        print(f"  not checked: {line}")
    for line in written.notes:
        print(f"  note: {line}")
