"""Memory that steps on a CPU free stays in the process, and only there."""

import os
import platform
import subprocess
import sys

import jax
import pytest

from vit_jax import host_memory

PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
from vit_jax import host_memory

if "keep" in sys.argv:
    host_memory.keep_freed()

@jax.jit
def step(x):
    wide = x @ jnp.ones((8, 4096))  # 48 MiB, more than glibc ever keeps by itself
    return jnp.sin(wide) @ jnp.ones((4096, 8))

x = jnp.ones((3072, 8))
for _ in range(10):
    step(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):
    step(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_faults(*arguments):
    """Pages that the system had to provide in thirty steps."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory"
)
def test_steps_share_their_memory():
    # 48 MiB are 12,288 pages. A step may begin before the last one's memory is free, so
    # that a second or third such piece is taken once.
    assert count_faults() > 30 * 12_000
    assert count_faults("keep") < 5 * 12_500


def test_nothing_is_changed_where_devices_are_not_cpus(monkeypatch):
    def refuse(*_):
        raise AssertionError("the C library was told something")

    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(host_memory.ctypes, "CDLL", refuse)
    host_memory.keep_freed()


def test_a_c_library_without_it_changes_nothing(monkeypatch):
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda _: object())
    host_memory.keep_freed()
