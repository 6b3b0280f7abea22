"""Evaluators in two processes: the same results as in one."""

import json
import socket
import subprocess
import sys

import pytest

from tests import training
from tests.evals import worker


@pytest.mark.slow
def test_two_processes_measure_as_one():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.evals.worker", coordinator, "2", str(rank)],
            env=training.environment() | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        done = [process.communicate(timeout=900) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], done
    two = json.loads(done[0][0].splitlines()[-1])
    one = worker.measure(2)
    assert two.keys() == one.keys()
    for name, results in one.items():
        # Of the probes: sums over the rows are added up in another order.
        assert two[name] == pytest.approx(results, rel=1e-4), name
        exact = [key for key in results if key.endswith(("accuracy", "shot", "top5"))]
        assert {key: two[name][key] for key in exact} == {
            key: results[key] for key in exact
        }
