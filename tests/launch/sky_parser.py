"""SkyPilot's own parser, in whatever Python has it."""

import subprocess

import pytest

from vit_jax.launch import checks

needs_sky = pytest.mark.skipif(
    checks.sky_python() is None,
    reason=f"no SkyPilot here; {checks.SKY_PYTHON} may name a Python that has it",
)
# Of several files, in one process: its import takes seconds.
PARSE = """
import sys
import sky

for path in sys.argv[1:]:
    try:
        task = sky.Task.from_yaml(path)
        (one,) = task.resources
        print(task.num_nodes, dict(one.accelerators), one.use_spot, task.envs)
    except Exception as error:
        print("refused", str(error).replace(chr(10), " "))
"""


def read(paths):
    """A line for each file: nodes, accelerators, spot, variables; or "refused" and why."""
    done = subprocess.run(
        [checks.sky_python(), "-c", PARSE, *paths],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()
