"""How the compiling process is started, and what is made of the compiler's figures."""

import json
import subprocess
import sys
import types

import pytest

from vit_jax.config import load
from vit_jax.plan import compile as compiling
from vit_jax.plan import worker
from vit_jax.plan.topology import parse

ANSWER = {
    "memory_gib": 1.0,
    "limit_gib": None,
    "fits": True,
    "rematerialized": 0,
    "collectives": [],
    "flops": 7,
    "kernels": ["splash_mha_fwd"],
    "compile_seconds": 1.0,
}


def compile_with(monkeypatch, answer, code=0):
    """What comes of a process that answers so, and how it was started."""
    seen = {}

    def run(command, **settings):
        seen.update(settings, command=command)
        out = f"a warning\n{json.dumps(answer)}\n" if answer else ""
        return subprocess.CompletedProcess(command, code, out, "first\nthe reason\n")

    monkeypatch.setattr(subprocess, "run", run)
    config = load("configs/vit_s16_i1k.py")
    return compiling.compile_step(config, parse("v5e-8")), seen


def test_the_process_has_what_libtpu_reads_when_it_is_loaded(monkeypatch):
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v6e-64")  # of the machine it is run on
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    found, seen = compile_with(monkeypatch, dict(ANSWER))
    assert found.flops == 7 and found.kernels == ("splash_mha_fwd",)
    assert seen["command"] == [sys.executable, "-m", "vit_jax.plan.worker"]
    for name, value in {
        "JAX_PLATFORMS": "cpu",  # not the accelerators of this machine, if any
        "TPU_SKIP_MDS_QUERY": "1",  # no metadata server to wait for
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # or a second process aborts on a lock
    }.items():
        assert seen["env"][name] == value
    assert "XLA_FLAGS" not in seen["env"]  # of this machine's CPU
    task = json.loads(seen["input"])
    assert task["topology"] == "v5e:2x4"
    assert task["config"]["model"]["variant"] == "S/16"


def test_a_process_that_ends_says_why(monkeypatch):
    with pytest.raises(compiling.CompileError, match=r"ended \(134\): the reason"):
        compile_with(monkeypatch, None, code=134)
    with pytest.raises(compiling.CompileError, match="ValueError: no such thing"):
        compile_with(monkeypatch, {"error": "ValueError: no such thing"})


def test_needed_memory_is_not_what_the_compiler_calls_the_peak():
    memory = types.SimpleNamespace(
        argument_size_in_bytes=100,
        output_size_in_bytes=90,
        alias_size_in_bytes=80,  # of the outputs, that lie where arguments were
        temp_size_in_bytes=40,
        generated_code_size_in_bytes=5,
        peak_memory_in_bytes=30,  # which leaves the arguments out
    )
    assert worker.needed(memory) == 100 + 90 - 80 + 40 + 5
