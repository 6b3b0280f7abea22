"""Curves from rows: thinned without losing a peak, gaps kept, time by step."""

import math
import random

from tests.report import made_runs
from vit_jax.report.series import clock, curves, rounded, thin


def test_of_a_step_that_was_logged_twice_the_later_value_counts():
    rows = [
        {"step": 1, "train/loss": 3.0},
        {"step": 2, "train/loss": 9.0, "val/accuracy": 0.5},
        {"step": 2, "train/loss": 2.0},
    ]
    found = curves(rows)
    assert found["train/loss"] == [(1, 3.0), (2, 2.0)]
    assert found["val/accuracy"] == [(2, 0.5)]


def test_what_is_not_finite_is_a_gap_and_what_is_no_number_is_nothing():
    rows = [
        {"step": 1, "a": None, "b": "text"},
        {"step": 2, "a": math.inf, "b": [1]},
        {"step": 3, "a": 1, "b": {}},
    ]
    assert curves(rows) == {"a": [(1, None), (2, None), (3, 1.0)]}


def test_a_short_curve_stays_as_it_is():
    points = [(step, float(step)) for step in range(2000)]
    assert thin(points) is points


def test_a_long_curve_keeps_its_peaks_its_ends_and_a_gap():
    random.seed(0)
    points = [(step, random.random()) for step in range(100_000)]
    points[31_415] = (31_415, 50.0)
    points[27_182] = (27_182, -50.0)
    points[60_000] = (60_000, None)
    kept = thin(points)
    assert 1990 <= len(kept) <= 2002
    assert kept[0] == points[0] and kept[-1] == points[-1]
    assert {points[31_415], points[27_182], points[60_000]} <= set(kept)
    steps = [step for step, _ in kept]
    assert steps == sorted(set(steps))
    assert set(kept) <= set(points)


def test_a_curve_of_gaps_alone_is_thinned_as_well():
    assert len(thin([(step, None) for step in range(10_000)])) < 2003


def test_the_clock_goes_forward_and_is_short():
    rows = [{"step": n, **made_runs.row(n, n * 2.0)} for n in range(1, 5001)]
    rows.append({"step": 5000, **made_runs.row(5000, 3.0)})  # damaged
    times = clock(rows)
    assert len(times) <= 502
    assert times[0] == (1, 4.0 + 2.0 + 1.0)
    assert times[-1] == (5000, 4.0 + 10_000.0 + 1.0)
    assert times == sorted(times) and len({s for s, _ in times}) == len(times)
    assert clock([{"step": 1, "train/loss": 1.0}]) == []


def test_numbers_are_short():
    assert rounded(0.123456789) == 0.123457
    assert rounded(128.0) == 128 and isinstance(rounded(128.0), int)
    assert rounded(None) is None
    assert rounded(-1.23456789e-12) == -1.23457e-12
