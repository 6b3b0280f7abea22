"""Shares of cores and devices."""

import glob

import pytest

from vit_jax.sweep import places
from vit_jax.sweep.places import Place, parse_sets, shares
from vit_jax.sweep.ranges import SweepError


def test_sets_are_numbers_and_spans():
    assert parse_sets("0,1:2,3", "--cores") == [(0, 1), (2, 3)]
    assert parse_sets("0-3|4-7", "--cores") == [(0, 1, 2, 3), (4, 5, 6, 7)]
    for wrong in ("", "a", "0,", "3-1", "0:0", "0::1"):
        with pytest.raises(SweepError, match="--cores"):
            parse_sets(wrong, "--cores")


def test_shares_are_equal():
    assert shares([0, 1, 2, 3, 4], 2) == [(0, 1), (2, 3)]
    assert shares([0], 2) == []


@pytest.fixture
def machine(monkeypatch):
    """Eight cores, four NVIDIA devices."""
    monkeypatch.setattr(places, "available_cores", lambda: list(range(8)))
    there = {"/dev/nvidia[0-9]*": [f"/dev/nvidia{n}" for n in range(4)]}
    monkeypatch.setattr(glob, "glob", lambda pattern: there.get(pattern, []))
    return there


def test_the_machine_is_dealt_out(machine):
    assert places.places(None, environment={}) == [Place()]
    assert places.places(2, environment={}) == [
        Place((0, 1, 2, 3), (0, 1)),
        Place((4, 5, 6, 7), (2, 3)),
    ]
    assert places.places(2, environment={"CUDA_VISIBLE_DEVICES": "3,1"}) == [
        Place((0, 1, 2, 3), (3,)),
        Place((4, 5, 6, 7), (1,)),
    ]
    assert places.places(2, environment={"JAX_PLATFORMS": "cpu"})[0].devices == ()
    chosen = places.places(None, "0:1", "2:3", environment={})
    assert chosen == [Place((0,), (2,)), Place((1,), (3,))]


def test_what_does_not_fit_is_refused(machine):
    with pytest.raises(SweepError, match="but 4 devices; use --parallel=4"):
        places.places(5, environment={})
    with pytest.raises(SweepError, match="3 trials at a time need as many sets"):
        places.places(3, "0:1", environment={})
    with pytest.raises(SweepError, match="no core 9; it has 0,1,2"):
        places.places(None, "0:9", environment={})
    with pytest.raises(SweepError, match="at least 1"):
        places.places(-1, environment={})
    machine["/dev/accel[0-9]*"] = ["/dev/accel0"]
    with pytest.raises(SweepError, match="chips of their own"):
        places.places(2, environment={})


def test_devices_are_shown_by_variables():
    shown = Place((), (2, 3)).environment()
    assert shown["CUDA_VISIBLE_DEVICES"] == shown["TPU_VISIBLE_CHIPS"] == "2,3"
    assert shown["TPU_CHIPS_PER_PROCESS_BOUNDS"] == "1,2,1"
    assert Place().environment() == {}
