"""Schedules against formulas written by hand, step by step."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import schedules

PEAK, TOTAL, WARMUP = 3e-3, 1000, 100
SHAPES = ("cosine", "linear", "rsqrt", "constant")


def build(name, **changes):
    settings = dict(
        name=name,
        peak=PEAK,
        total_steps=TOTAL,
        warmup_steps=WARMUP,
        cooldown_steps=200 if name == "wsd" else 0,
        final=0.0,
        timescale=50,
    )
    return schedules.build(**(settings | changes))


def expected(name, step, *, cooldown=0, final=0.0, timescale=50):
    """Big_vision's form: shape times warmup times cooldown, here down to `final`."""
    progress = min(max((step - WARMUP) / (TOTAL - WARMUP), 0.0), 1.0)
    share = {
        "cosine": final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)),
        "linear": final + (1 - final) * (1 - progress),
        "rsqrt": 1 / math.sqrt(1 + max(step - WARMUP, 0) / timescale),
        "wsd": 1.0,
        "constant": 1.0,
    }[name]
    if cooldown and share > final:
        left = min(1.0, max(TOTAL - step, 0) / cooldown)
        share = final + (share - final) * left
    return PEAK * share * min(1.0, step / WARMUP)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("cooldown", [0, 300])
@pytest.mark.parametrize("final", [0.0, 0.01, 0.5])
def test_equals_the_formula_at_every_step(name, cooldown, final):
    schedule = build(name, cooldown_steps=cooldown, final=final)
    steps = np.arange(TOTAL + 50)
    values = jax.vmap(schedule)(jnp.asarray(steps))
    wanted = [
        expected(name, min(step, TOTAL), cooldown=cooldown, final=final)
        if name != "rsqrt" or cooldown
        else expected(name, step, final=final)
        for step in steps
    ]
    if name == "rsqrt" and cooldown:  # where it lies below `final` it stays below
        values, wanted = values[: TOTAL + 1], wanted[: TOTAL + 1]
    np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-6 * PEAK)


def test_wsd_is_stable_then_falls_to_final():
    schedule = build("wsd", cooldown_steps=200, final=0.1)
    got = [float(schedule(step)) for step in (0, 50, 100, 500, 800, 900, 1000)]
    wanted = [0.0, PEAK / 2, PEAK, PEAK, PEAK, PEAK * 0.55, PEAK * 0.1]
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_warmup_begins_at_zero_and_joins_at_the_peak(name):
    schedule = build(name)
    assert float(schedule(0)) == 0.0
    np.testing.assert_allclose(schedule(1), PEAK / WARMUP, rtol=1e-6)
    np.testing.assert_allclose(schedule(WARMUP), PEAK, rtol=1e-6)


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_no_warmup_begins_at_the_peak(name):
    np.testing.assert_allclose(build(name, warmup_steps=0)(0), PEAK, rtol=1e-6)


@pytest.mark.parametrize("name", schedules.SCHEDULES)
@pytest.mark.parametrize("cooldown", [1, 7, 300])
def test_cooldown_ends_at_final_and_its_last_update_is_not_zero(name, cooldown):
    schedule = build(name, cooldown_steps=cooldown)
    assert float(schedule(TOTAL)) == pytest.approx(0.0, abs=1e-12)
    assert float(schedule(TOTAL - 1)) > 0.0


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_is_continuous(name):
    steps = jnp.arange(TOTAL + 1)
    values = jax.vmap(build(name, cooldown_steps=100, timescale=1000))(steps)
    jumps = np.abs(np.diff(values))
    assert jumps.max() <= PEAK / 100 * 1.05  # the slope of warmup and cooldown


def test_cooldown_is_exact_at_the_end_of_a_long_run():
    schedule = build("wsd", total_steps=1_000_000, cooldown_steps=50_000)
    np.testing.assert_allclose(schedule(999_999), PEAK / 50_000, rtol=1e-6)


def test_cooldown_never_raises_the_rate():
    schedule = build("rsqrt", cooldown_steps=500, final=0.9)
    values = jax.vmap(schedule)(jnp.arange(WARMUP, TOTAL + 1))
    assert (np.diff(values) <= 0).all()


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_runs_under_jit_and_as_a_python_number(name):
    schedule = build(name)
    for step in (0, 37, WARMUP, 999):
        traced = jax.jit(schedule)(jnp.int32(step))
        np.testing.assert_allclose(traced, schedule(step), rtol=1e-5, atol=1e-9)


def test_a_run_that_is_all_warmup():
    schedule = build("cosine", total_steps=100)
    np.testing.assert_allclose(schedule(99), PEAK * 0.99, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(name="cosin"), "'cosin' is unknown; known: cosine, linear, rsqrt"),
        (dict(warmup_steps=900, cooldown_steps=101), "do not fit in a run of 1000"),
        (dict(warmup_steps=-1), "do not fit"),
        (dict(name="wsd", cooldown_steps=0), "needs a cooldown"),
        (dict(name="rsqrt", timescale=0), "timescale must be positive"),
    ],
)
def test_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**(dict(name="cosine") | changes))
