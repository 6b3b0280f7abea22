"""A sweep as a Slurm array: a task for each trial, on a file system that all share."""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Sequence

from vit_jax import storage
from vit_jax.sweep.ranges import SweepError
from vit_jax.sweep.rendered import Batch, Rendered

# Slurm warns a batch script so many seconds before its time is over.
_WARNED_SECONDS = 120

_SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}{limit}
#SBATCH --ntasks=1
#SBATCH --output={logs}/slurm-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@{seconds}
{options}
# SIGTERM (scancel, preemption) is passed on, so that the trial saves. SIGUSR1 comes
# before the time limit: the trial saves, and the task is queued again.
cd {folder}
{command} &
trial=$!
again=
trap 'again=1; kill -TERM "$trial" 2>/dev/null' USR1
trap 'kill -TERM "$trial" 2>/dev/null' TERM INT
wait "$trial"
code=$?
while kill -0 "$trial" 2>/dev/null; do  # a signal ends a wait early
  wait "$trial"
  code=$?
done
if [ -n "$again" ] && [ "$code" -eq 143 ]; then
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"""


def render(batch: Batch, options: argparse.Namespace) -> Rendered:
    """The batch script, and how to submit it.

    Raises:
      SweepError: sbatch would not take it.
    """
    logs = os.getcwd() if storage.is_bucket(batch.workdir) else batch.workdir
    _check(logs, options.sbatch)
    words = [sys.executable, "-m", "vit_jax.cli", *batch.arguments("@")]
    command = shlex.join(words).replace("--index=@", '--index="$SLURM_ARRAY_TASK_ID"')
    script = _SCRIPT.format(
        name=batch.name,
        last=batch.count - 1,
        limit=f"%{batch.parallel}" if batch.parallel else "",
        logs=logs,
        seconds=_WARNED_SECONDS,
        options="".join(f"#SBATCH {option}\n" for option in options.sbatch),
        folder=shlex.quote(os.getcwd()),
        command=command,
    )
    return Rendered({"slurm.sh": script}, ["sbatch", "slurm.sh"])


def _check(logs: str, given: Sequence[str]) -> None:
    """Refuses what sbatch would not read, or would read as another array."""
    if re.search(r"[\s\"'%\\]", logs):
        raise SweepError(
            f"{logs}: sbatch takes no blanks, quotes, % or backslashes in a path; use "
            "another --workdir"
        )
    for option in given:
        if not option.startswith("-") or "\n" in option:
            raise SweepError(
                f"--sbatch={option!r} is no option of sbatch, such as "
                "--sbatch=--gres=gpu:1"
            )
        if re.match(r"--array\b|-a", option):
            raise SweepError(
                f"--sbatch={option}: the array is the sweep's; --parallel=N limits it"
            )
