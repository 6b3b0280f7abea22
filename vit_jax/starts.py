"""What each start of a run leaves for its readers, in ``starts.json``.

The command, the machine and the versions it ran with, and how it ended. A start that
was killed has no end. Nothing here is needed to resume, so nothing here ends a run.
"""

import contextlib
import datetime
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

from vit_jax import storage
from vit_jax.config_json import versions
from vit_jax.lock import LockLostError
from vit_jax.writers import first_line

NAME = "starts.json"
KEPT = 50  # of a run that is restarted for weeks, the newest
VARIABLES = (  # that change what is computed, or how; none names a host or a secret
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_ENABLE_X64",
    "JAX_PLATFORMS",
    "LIBTPU_INIT_ARGS",
    "NVIDIA_TF32_OVERRIDE",
    "XLA_FLAGS",
)

Start = dict[str, Any]


@contextlib.contextmanager
def noted(workdir: Any, start: Mapping[str, Any]) -> Iterator[None]:
    """Notes a start, and how the block ended.

    Args:
      workdir: of the run, an etils path; its lock is held.
      start: what the run knows of itself, such as ``command`` and ``total_steps``.
    """
    mine = environment() | dict(start) | {"at": now()}
    earlier = read_text(_text(workdir))[1 - KEPT :]
    _write(workdir, [*earlier, mine])
    try:
        yield
    except LockLostError:
        raise  # nothing may be written there any more
    except BaseException as error:
        signal = getattr(error, "signal", 0)
        how = {"how": "signal", "signal": int(signal)} if signal else {"how": "failed"}
        ended = how | {"at": now(), "message": first_line(error)}
        _write(workdir, [*earlier, mine | {"ended": ended}])
        raise
    ended = {"how": "finished", "at": now()}
    _write(workdir, [*earlier, mine | {"ended": ended}])


def read_text(text: str) -> list[Start]:
    """The starts that a ``starts.json`` holds, oldest first; none if it is damaged."""
    with contextlib.suppress(ValueError):
        saved = json.loads(text)
        found = saved.get("starts") if isinstance(saved, dict) else None
        if isinstance(found, list):
            return [start for start in found if isinstance(start, dict)]
    return []


def now() -> str:
    """The time in UTC, such as ``2026-05-04T03:02:01Z``."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def environment() -> Start:
    """What this process runs with; no host, no user, no path."""
    found: Start = {
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
        "variables": {n: os.environ[n] for n in VARIABLES if os.environ.get(n)},
    }
    revision = git_revision(pathlib.Path(__file__).resolve().parents[1])
    return found | ({"git": revision} if revision else {})


def git_revision(folder: pathlib.Path) -> str:
    """The commit of a checkout, ``"... with changes"`` where there are any, or ""."""
    if not (folder / ".git").exists():  # an installed package is in nobody's checkout
        return ""

    def git(*words: str) -> str:
        call = ["git", "-C", str(folder), *words]
        return subprocess.run(
            call, capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _text(workdir: Any) -> str:
    with contextlib.suppress(Exception):  # of a file system or a service
        return (workdir / NAME).read_text()
    return ""


def _write(workdir: Any, starts: list[Start]) -> None:
    with contextlib.suppress(Exception):  # a full disk: the run has other worries
        storage.write_text(workdir / NAME, json.dumps({"starts": starts}, indent=1))
