"""A sweep as SkyPilot managed jobs: one task file, launched once for each trial."""

import argparse
import shlex
from typing import Any

from vit_jax.sweep.ranges import SweepError
from vit_jax.sweep.rendered import Batch, Rendered, needs_bucket

_LAUNCH = """\
#!/bin/bash
# A managed job for each trial; SkyPilot starts it again where it was preempted.
set -euo pipefail
cd "$(dirname "${{BASH_SOURCE[0]}}")"
for index in $(seq 0 {last}); do
  sky jobs launch --yes --detach-run --name {name}-"$index" \\
    --env TRIAL_INDEX="$index" skypilot.yaml
done
"""


def render(batch: Batch, options: argparse.Namespace) -> Rendered:
    """The task and a script that launches it for every trial."""
    import yaml

    needs_bucket(batch, "skypilot")
    if batch.parallel:
        raise SweepError(
            "--parallel: SkyPilot runs as many jobs at a time as its controller allows"
        )
    if not options.accelerators:
        raise SweepError("--backend=skypilot needs --accelerators, such as H100:1")
    launch = _LAUNCH.format(last=batch.count - 1, name=batch.name)
    files = {
        "skypilot.yaml": yaml.safe_dump(task(batch, options), sort_keys=False),
        "skypilot.sh": launch,
    }
    return Rendered(files, ["bash", "skypilot.sh"])


def task(batch: Batch, options: argparse.Namespace) -> dict[str, Any]:
    """The task as plain data."""
    words = shlex.join(["vit-jax", *batch.arguments("@")])
    resources: dict[str, Any] = {"accelerators": options.accelerators}
    if options.image:
        resources["image_id"] = f"docker:{options.image}"
    if options.spot:
        resources["use_spot"] = True
    return {
        "name": batch.name,
        "resources": resources,
        "envs": {"TRIAL_INDEX": "0"},
        "setup": options.setup,
        "run": words.replace("--index=@", '--index="$TRIAL_INDEX"') + "\n",
    }
