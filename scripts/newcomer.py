"""A newcomer's path, timed: clone, install, train, export, open in timm.

    python scripts/newcomer.py --place=/tmp/newcomer

Clones this repository's last commit into the place, and runs there what README says
before "The verbs", copied from it: all but `make test` and the accelerator's part of
JAX. Data and compiled programs are made anew, too. Prints seconds by block, and those
of the CPU. It downloads what `make install` and `pip install timm` do (torch: some GB).
"""

import argparse
import os
import pathlib
import re
import resource
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
LEFT_OUT = ("make test", "pip install -e")


def blocks(text: str) -> list[str]:
    """README's commands in the order in which a newcomer meets them."""
    path = text[text.index("## Quick start") : text.index("## The verbs")]
    found = re.findall(r"^```bash\n(.*?)^```$", path, re.S | re.M)
    kept = [
        "".join(
            line for line in block.splitlines(True) if not line.startswith(LEFT_OUT)
        )
        for block in found
    ]
    return [block for block in kept if block.strip()]


def clean(place: pathlib.Path) -> dict[str, str]:
    """The environment of somebody who has nothing yet."""
    ours = ("PYTHONPATH", "VIRTUAL_ENV", "XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    env = {name: value for name, value in os.environ.items() if name not in ours}
    return env | {
        "TFDS_DATA_DIR": str(place / "data"),
        "XDG_CACHE_HOME": str(place / "cache"),
    }


def main() -> int:
    """Runs the path; its exit code is that of the first command that fails."""
    parser = argparse.ArgumentParser(description="A newcomer's path, timed.")
    parser.add_argument("--place", required=True, help="a folder that is not there")
    place = pathlib.Path(parser.parse_args().place).absolute()
    place.mkdir(parents=True)
    begin = time.perf_counter()
    clone = place / "vit_jax"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    entered = ""  # what the shell of the reader has been told
    for block in blocks((clone / "README.md").read_text()):
        print(f"{time.perf_counter() - begin:7.0f} s  {block.splitlines()[0]}")
        sys.stdout.flush()
        if block.startswith("source"):
            entered += block
            continue
        shell = ["bash", "-c", f"set -e\n{entered}{block}"]
        done = subprocess.run(shell, cwd=clone, env=clean(place))
        if done.returncode:
            return done.returncode
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall, cpu = time.perf_counter() - begin, used.ru_utime + used.ru_stime
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"{wall:7.0f} s  in timm; {cpu:.0f} s of CPU; {os.cpu_count()} cores, {load=}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
