"""Saves leave nothing behind in memory."""

import gc
import sys

import tensorstore

from tests.checkpoint import steps
from vit_jax.checkpoint import Checkpoints, leaks

SAVES = 12


def test_a_save_leaves_no_python_objects_behind(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    gc.freeze()  # what other tests left need not be looked through each time
    blocks = []
    for step in range(SAVES):
        checkpoints.save(step, steps.state_of(1), {})
        checkpoints.wait()
        gc.collect()
        blocks.append(sys.getallocatedblocks())
    checkpoints.close()
    gc.unfreeze()
    # Caches fill up at first. With what tensorstore keeps it is 350 a save for ever.
    later = blocks[SAVES // 2 :]
    assert later[-1] - later[0] < 150 * len(later), blocks


def test_orbax_gets_the_specification_it_would_have_got():
    assert leaks.avoid()
    assert leaks.avoid()  # again changes nothing
    from orbax.checkpoint._src.serialization import tensorstore_utils

    given = {"driver": "file", "path": "/some/folder/"}
    ours = tensorstore_utils.ts.KvStore.Spec(given)
    assert type(ours) is not tensorstore.KvStore.Spec
    assert ours.to_json() == tensorstore.KvStore.Spec(given).to_json() == given
    assert tensorstore_utils.ts.Context is tensorstore.Context


def test_stores_are_opened_as_before(tmp_path):
    assert leaks.avoid()
    from orbax.checkpoint._src.serialization import tensorstore_utils

    path = f"{tmp_path}/"
    spec = tensorstore_utils.ts.KvStore.Spec({"driver": "file", "path": path})
    store = tensorstore_utils.ts.KvStore.open(spec).result()
    store.write("key", b"value").result()
    assert (tmp_path / "key").read_bytes() == b"value"


def test_another_orbax_is_left_alone(monkeypatch):
    monkeypatch.setattr(leaks, "_MODULE", "orbax.checkpoint.no_such_module")
    assert not leaks.avoid()
