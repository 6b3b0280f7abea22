"""Compiled programs are kept between runs, in a folder of the user's own.

JAX's own variables come first: ``JAX_COMPILATION_CACHE_DIR`` names another folder, and
``JAX_ENABLE_COMPILATION_CACHE=false`` keeps nothing.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
from collections.abc import Callable

import jax

MAX_BYTES = 4 * 2**30  # the programs of a small model take 1 MB
MIN_SECONDS = 0.1  # of compilation; JAX's own 1.0 is long for a small model


def enable(say: Callable[[str], object]) -> None:
    """Turns on JAX's cache of compiled programs; call it before anything is compiled.

    The folder is ``$XDG_CACHE_HOME/vit_jax/CPU`` (default: ``~/.cache``). Programs are
    code: it is used only if it belongs to this user. A folder that cannot be used is
    said in one line and changes nothing else.

    Args:
      say: prints a line.
    """
    decided = getattr(jax.config, "jax_compilation_cache_dir")  # noqa: B009
    enabled = getattr(jax.config, "jax_enable_compilation_cache")  # noqa: B009
    if decided or not enabled:
        return
    try:
        folder = default_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to another user")
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} cannot be written")
        prune(folder, MAX_BYTES)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        say(
            f"compiled programs are not kept: {error}; JAX_COMPILATION_CACHE_DIR names "
            "another folder"
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)


def default_folder() -> pathlib.Path:
    """Where programs for this kind of CPU are kept.

    A home may be on several machines, and JAX's keys do not tell their CPUs apart: a
    program for one could end another with an illegal instruction.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = (
        pathlib.Path(given) if os.path.isabs(given) else pathlib.Path.home() / ".cache"
    )
    return base / "vit_jax" / f"compiled-{cpu()}"


def cpu() -> str:
    """A short name of what this CPU can execute."""
    features = platform.processor()
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        # x86 says "flags", Arm "Features"; every core says the same.
        found = [line for line in lines if line.startswith(("flags", "Features"))]
        features = found[0] if found else features
    digest = hashlib.sha256(" ".join(sorted(features.split())).encode())
    return f"{platform.machine()}-{digest.hexdigest()[:8]}"


def prune(folder: pathlib.Path, max_bytes: int) -> None:
    """Deletes what was not used for longest, where more than ``max_bytes`` are kept.

    JAX's own limit needs a lock, and stops writing after a process was killed between
    two of its files.
    """
    entries = []
    for path in folder.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # another process prunes
            status = path.stat()
            entries.append((status.st_atime, status.st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= max_bytes:
            break
        path.unlink(missing_ok=True)
        total -= size
