"""Writes what a scheduler needs to run a sweep's unfinished trials, and submits it."""

import argparse
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from vit_jax import storage
from vit_jax.sweep import gke, skypilot, slurm, trials
from vit_jax.sweep.ranges import SweepError
from vit_jax.sweep.rendered import Batch, Rendered, compact
from vit_jax.sweep.trials import Trial

RENDERERS = {"slurm": slurm.render, "gke": gke.render, "skypilot": skypilot.render}


def hand_over(
    workdir: Any, chosen: Sequence[Trial], options: argparse.Namespace
) -> int:
    """Renders, says what to run, and runs it where that is asked for."""
    unfinished = [trial for trial in chosen if not trials.result_of(workdir, trial)]
    if not unfinished:
        print(f"all {len(chosen)} trials are over", file=sys.stderr)
        return 0
    rendered = render(os.fspath(workdir), unfinished, options)
    for name, content in rendered.files.items():
        path = output_folder(workdir) / name
        path.write_text(content)
        if name.endswith(".sh"):
            path.chmod(0o755)
        print(f"wrote {path} ({len(unfinished)} trials)")
    command = [
        str(output_folder(workdir) / w) if w in rendered.files else w
        for w in rendered.submit
    ]
    if not options.submit:
        print(f"submit it with --submit, or: {' '.join(command)}")
        return 0
    return 1 if subprocess.run(command, check=False).returncode else 0


def check(workdir: Any, chosen: Sequence[Trial], options: argparse.Namespace) -> None:
    """Whether a backend can take a sweep, before anything is written.

    Raises:
      SweepError: it cannot, or its tool is not here.
    """
    tool = render(os.fspath(workdir), chosen, options).submit[0]
    if options.submit and shutil.which(tool) is None:
        raise SweepError(
            f"{tool} is not installed here; without --submit the files are written, to "
            "be submitted where it is"
        )


def output_folder(workdir: Any) -> pathlib.Path:
    """Where rendered files go: beside the sweep, or here if it is in a bucket."""
    return pathlib.Path.cwd() if storage.is_bucket(workdir) else pathlib.Path(workdir)


def render(
    workdir: str, unfinished: Sequence[Trial], options: argparse.Namespace
) -> Rendered:
    """The files for a backend.

    Raises:
      SweepError: the backend cannot run this sweep, or needs something else.
    """
    numbers = compact([trial.number for trial in unfinished])
    about = hashlib.sha256(f"{workdir} {numbers}".encode()).hexdigest()[:6]
    stem = re.sub(r"[^a-z0-9]+", "-", pathlib.PurePath(workdir).name.lower()).strip("-")
    batch = Batch(
        name=f"sweep-{stem[:36] or 'trials'}-{about}",
        workdir=workdir,
        numbers=numbers,
        count=len(unfinished),
        parallel=options.parallel,
        retries=options.retries,
    )
    return RENDERERS[options.backend](batch, options)
