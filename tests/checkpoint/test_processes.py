"""Two processes save and restore together, and agree on what is damaged."""

import json
import socket
import subprocess
import sys
import textwrap

from tests import training

RUN = """
    import json, pathlib, sys
    import jax
    rank, port, folder = int(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
    jax.config.update("jax_platforms", "cpu")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
    import numpy as np
    from jax.experimental import multihost_utils
    from jax.sharding import NamedSharding, PartitionSpec
    from vit_jax.checkpoint import CheckpointError, Checkpoints

    mesh = jax.make_mesh((2,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))
    whole = {"w": np.arange(24, dtype=np.float32).reshape(4, 6), "b": np.float32(3)}
    specs = {"w": PartitionSpec("a"), "b": PartitionSpec()}

    def place(step, specs=specs):
        return {
            name: jax.make_array_from_callback(
                array.shape, NamedSharding(mesh, specs[name]),
                lambda index, array=array: array[index] + np.float32(step))
            for name, array in whole.items()
        }

    def abstract(specs):
        return {
            name: jax.ShapeDtypeStruct(
                array.shape, array.dtype, sharding=NamedSharding(mesh, specs[name]))
            for name, array in whole.items()
        }

    def right(state, step):
        shards = [(name, s) for name in state for s in state[name].addressable_shards]
        return all((s.data == whole[name][s.index] + step).all() for name, s in shards)

    said, out = [], {}
    checkpoints = Checkpoints(folder, say=said.append)
    for step in (1, 2):
        checkpoints.save(step, place(step), {"val/loss": step / 2})
        checkpoints.wait()
    across = {"w": PartitionSpec(None, "a"), "b": PartitionSpec()}
    step, state, evaluations = checkpoints.restore_latest(abstract(across))
    out["whole"] = [step, right(state, step), evaluations]
    multihost_utils.sync_global_devices("restored")
    if rank == 0:
        files = sorted((folder / "2" / "state").rglob("d/*"), key=lambda f: f.stat().st_size)
        for file in files:
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 4
            file.write_bytes(data)
    multihost_utils.sync_global_devices("damaged")
    step, state, evaluations = checkpoints.restore_latest(abstract(specs))
    out["damaged"] = [step, right(state, step), evaluations]
    out["said"] = said
    try:
        checkpoints.restore_latest({"w": abstract(specs)["w"]})
    except CheckpointError as error:
        out["structure"] = str(error)
    out["steps"] = sorted(p.name for p in folder.iterdir())
    multihost_utils.sync_global_devices("end")
    checkpoints.close()
    print("RESULT" + json.dumps(out), flush=True)
"""


def test_two_processes(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = textwrap.dedent(RUN)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(port), str(tmp_path / "c")],
            env=training.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        texts = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    results = [
        json.loads(line.removeprefix("RESULT"))
        for text in texts
        for line in text.splitlines()
        if line.startswith("RESULT")
    ]
    assert len(results) == 2, texts
    for result in results:
        assert result["whole"] == [2, True, {"val/loss": 1.0}]
        assert result["damaged"] == [1, True, {"val/loss": 0.5}]
        assert "b: saved float32[], wanted not" in result["structure"]
        assert result["steps"] == ["1", "quarantine"]
    assert len(results[0]["said"]) == 1 and results[1]["said"] == []
    assert "moved to" in results[0]["said"][0]
