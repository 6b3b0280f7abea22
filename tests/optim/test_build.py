"""Optimizers against numpy implementations, masks by path, and build's errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import base
from vit_jax import optim

ADAMW = dict(
    name="adamw",
    learning_rate=0.02,
    weight_decay=0.1,
    decay_mask="kernels",
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    mu_dtype="float32",
    nu_dtype="float32",
    clip_norm=0.0,
    layer_decay=1.0,
)
SGD = dict(
    name="sgd",
    learning_rate=0.05,
    momentum=0.9,
    nesterov=False,
    mu_dtype="float32",
    weight_decay=0.1,
    decay_mask="kernels",
    clip_norm=0.0,
    layer_decay=1.0,
)
SCHEDULE = dict(
    name="cosine", warmup_steps=2, cooldown_steps=0, final=0.0, timescale=10_000
)
CONSTANT = SCHEDULE | dict(name="constant", warmup_steps=0)
STEPS = 6

# Path to [shape, in "kernels", in "matrices"].
LEAVES = {
    "encoder/cls": ((1, 1, 4), False, True),
    "encoder/position_embedding": ((1, 9, 4), False, True),
    "encoder/embedding/kernel": ((2, 2, 3, 4), True, True),
    "encoder/embedding/bias": ((4,), False, False),
    "encoder/blocks/attention/query/kernel": ((3, 4, 2, 2), True, True),
    "encoder/blocks/attention/query/bias": ((3, 2, 2), False, False),
    "encoder/blocks/attention_norm/scale": ((3, 4), False, False),
    "encoder/blocks/mlp/hidden/kernel": ((3, 4, 8), True, True),
    "encoder/blocks/mlp/hidden/bias": ((3, 8), False, False),
    "encoder/pooling/attention/query/bias": ((2, 2), False, False),
    "encoder/pooling/probe": ((1, 1, 4), False, True),
    "encoder/norm/scale": ((4,), False, False),
    "encoder/head/kernel": ((4, 5), True, True),
    "encoder/head/bias": ((5,), False, False),
}


def nest(flat):
    tree = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def flatten(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def random_flat(seed):
    rng = np.random.default_rng(seed)
    return {
        path: rng.standard_normal(shape).astype(np.float32)
        for path, (shape, *_) in LEAVES.items()
    }


def run(section, schedule=SCHEDULE, *, gradients=random_flat, steps=STEPS):
    """Parameters after some steps of our optimizer, and the schedule."""
    tx, rate = optim.build(section, schedule_section=schedule, total_steps=STEPS)
    params = nest({path: jnp.asarray(p) for path, p in random_flat(0).items()})
    state = tx.init(params)

    @jax.jit
    def step(params, state, gradient):
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for index in range(steps):
        params, state = step(params, state, nest(gradients(index + 1)))
    return flatten(params), rate, state


def rates(peak):
    """The cosine with a warmup of 2, written out."""
    progress = [max(0, step - 2) / (STEPS - 2) for step in range(STEPS)]
    return [
        peak * min(1, step / 2) * 0.5 * (1 + np.cos(np.pi * p))
        for step, p in enumerate(progress)
    ]


def clip(gradients, norm):
    total = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients.values()))
    scale = min(1.0, norm / total) if norm else 1.0
    return {path: g * scale for path, g in gradients.items()}


def numpy_adamw(section, steps):
    params = {path: p.astype(np.float64) for path, p in random_flat(0).items()}
    first = {path: np.zeros_like(p) for path, p in params.items()}
    second = {path: np.zeros_like(p) for path, p in params.items()}
    b1, b2 = section["b1"], section["b2"]
    for t, rate in enumerate(rates(section["learning_rate"])[:steps], start=1):
        for path, g in clip(random_flat(t), section["clip_norm"]).items():
            first[path] = b1 * first[path] + (1 - b1) * g
            second[path] = b2 * second[path] + (1 - b2) * g * g
            m, v = first[path] / (1 - b1**t), second[path] / (1 - b2**t)
            decay = section["weight_decay"] * path.endswith("/kernel")
            params[path] = params[path] * (1 - rate * decay)
            params[path] = params[path] - rate * m / (np.sqrt(v) + section["eps"])
    # p * (1 - rate * decay) - rate * u is p - rate * (u + decay * p) exactly.
    return params


def numpy_sgd(section, steps):
    params = {path: p.astype(np.float64) for path, p in random_flat(0).items()}
    velocity = {path: np.zeros_like(p) for path, p in params.items()}
    momentum = section["momentum"]
    for t, rate in enumerate(rates(section["learning_rate"])[:steps], start=1):
        for path, g in clip(random_flat(t), section["clip_norm"]).items():
            velocity[path] = momentum * velocity[path] + g
            update = velocity[path]
            if section["nesterov"]:
                update = g + momentum * velocity[path]
            decay = section["weight_decay"] * path.endswith("/kernel")
            params[path] = params[path] - rate * (update + decay * params[path])
    return params


def assert_equal(got, wanted):
    assert got.keys() == wanted.keys()
    for path in wanted:
        np.testing.assert_allclose(
            got[path], wanted[path], rtol=1e-5, atol=2e-6, err_msg=path
        )


@pytest.mark.parametrize("steps", [1, 2, STEPS])
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_adamw_equals_numpy(steps, clip_norm):
    section = ADAMW | dict(clip_norm=clip_norm)
    assert_equal(run(section, steps=steps)[0], numpy_adamw(section, steps))


@pytest.mark.parametrize("steps", [1, 2, STEPS])
@pytest.mark.parametrize(
    "changes",
    [{}, dict(clip_norm=1.0), dict(nesterov=True), dict(momentum=0.0)],
    ids=["momentum", "clip", "nesterov", "plain"],
)
def test_sgd_equals_numpy(steps, changes):
    section = SGD | changes
    assert_equal(run(section, steps=steps)[0], numpy_sgd(section, steps))


def test_sgd_decay_does_not_enter_the_momentum():
    zeros = {path: np.zeros(shape, np.float32) for path, (shape, *_) in LEAVES.items()}
    params, *_ = run(SGD, CONSTANT, gradients=lambda _: zeros, steps=3)
    path = "encoder/head/kernel"
    wanted = random_flat(0)[path] * (1 - 0.05 * 0.1) ** 3
    np.testing.assert_allclose(params[path], wanted, rtol=1e-6)


def test_equals_big_vision_whose_weight_decay_is_not_scaled_by_the_rate():
    """`wd=1e-4, lr=1e-3` there is `weight_decay=0.1` here."""
    section = ADAMW | dict(learning_rate=1e-3, weight_decay=0.1, clip_norm=1.0)
    ours, rate, _ = run(section)
    theirs = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(b1=0.9, b2=0.95, eps=1e-8),
        optax.scale(1e-3),
        optax.add_decayed_weights(1e-4, mask=optim.mask("kernels")),
        optax.scale_by_schedule(lambda step: rate(step) / 1e-3),
        optax.scale(-1.0),
    )
    params = nest({path: jnp.asarray(p) for path, p in random_flat(0).items()})
    state = theirs.init(params)
    for index in range(STEPS):
        updates, state = theirs.update(nest(random_flat(index + 1)), state, params)
        params = optax.apply_updates(params, updates)
    assert_equal(ours, flatten(params))


@pytest.mark.parametrize("name", ["kernels", "matrices", "all"])
def test_decay_masks_by_path(name):
    wanted = {
        path: {"kernels": kernel, "matrices": matrix, "all": True}[name]
        for path, (_, kernel, matrix) in LEAVES.items()
    }
    tree = nest({path: jnp.zeros(shape) for path, (shape, *_) in LEAVES.items()})
    assert flatten(optim.mask(name)(tree)) == wanted


@pytest.mark.parametrize("section", [ADAMW, SGD], ids=["adamw", "sgd"])
@pytest.mark.parametrize("name", ["kernels", "matrices", "all"])
def test_only_masked_parameters_decay(section, name):
    section = section | dict(decay_mask=name)
    decayed, *_ = run(section, CONSTANT, steps=1)
    plain, *_ = run(section | dict(weight_decay=0.0), CONSTANT, steps=1)
    for path, (_, kernel, matrix) in LEAVES.items():
        decays = {"kernels": kernel, "matrices": matrix, "all": True}[name]
        factor = section["learning_rate"] * section["weight_decay"] * decays
        np.testing.assert_allclose(
            decayed[path], plain[path] - factor * random_flat(0)[path], atol=1e-6
        )
        assert (decayed[path] != plain[path]).any() == decays


def test_clipping_limits_the_norm_over_all_parameters():
    section = SGD | dict(clip_norm=0.5, weight_decay=0.0, momentum=0.0)
    params, rate, _ = run(section, CONSTANT, steps=1)
    start = random_flat(0)
    squares = [((params[path] - start[path]) ** 2).sum() for path in start]
    np.testing.assert_allclose(np.sqrt(sum(squares)), 0.5 * rate(0), rtol=1e-4)


def test_clipping_leaves_small_gradients_alone():
    section = SGD | dict(clip_norm=1e6)
    assert_equal(run(section)[0], run(SGD)[0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_mu_dtype_is_of_the_first_moment_alone(dtype):
    *_, state = run(ADAMW | dict(mu_dtype=dtype), steps=1)
    adam = next(part for part in state if isinstance(part, optax.ScaleByAdamState))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(adam.mu)} == {dtype}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(adam.nu)} == {"float32"}


def test_schedule_is_the_rate_that_is_used():
    _, rate, _ = run(ADAMW, steps=1)
    wanted = rates(ADAMW["learning_rate"])
    got = [float(rate(step)) for step in range(STEPS)]
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("section", "schedule", "message"),
    [
        (ADAMW | dict(name="adam"), SCHEDULE, "'adam' is unknown; known: adamw, sgd, "),
        ({}, SCHEDULE, "None is unknown"),
        (ADAMW | dict(momentum=0.9), SCHEDULE, r"\(adamw\) has no key momentum"),
        (
            {k: v for k, v in ADAMW.items() if k != "b1"} | dict(beta1=0.9),
            SCHEDULE,
            r"\(adamw\) lacks b1 and has no key beta1",
        ),
        (
            {k: v for k, v in SGD.items() if k != "learning_rate"},
            SCHEDULE,
            r"\(sgd\) lacks learning_rate",
        ),
        (
            SGD | dict(learning_rate_schedule=optax.constant_schedule(0.1)),
            SCHEDULE,
            "has no key learning_rate_schedule",
        ),
        (ADAMW, SCHEDULE | dict(peak=1.0), "section schedule has no key peak"),
        (ADAMW, dict(name="cosine"), "schedule lacks cooldown_steps, final, timescale"),
        (ADAMW, SCHEDULE | dict(name="step"), "schedule.name 'step' is unknown"),
        (ADAMW | dict(decay_mask="bias"), SCHEDULE, "known: kernels, matrices, all"),
        (ADAMW | dict(mu_dtype="int8"), SCHEDULE, "known: float32, bfloat16"),
        (SGD | dict(clip_norm=-1.0), SCHEDULE, "clip_norm must be positive"),
        (ADAMW | dict(nu_dtype="int8"), SCHEDULE, "known: float32, bfloat16"),
        (ADAMW | dict(layer_decay=1.1), SCHEDULE, r"layer_decay must be in \(0, 1\]"),
        (
            ADAMW | dict(b1=1.0, eps=0.0),
            SCHEDULE,
            r"b1 must be in \[0, 1\), got 1.0; o",
        ),
        (SGD | dict(momentum=float("nan")), SCHEDULE, r"momentum must be in \[0, 1\)"),
        (dict(name="muon"), SCHEDULE, r"\(muon\) lacks adam_rate, adam_weight_decay, "),
        (dict(base.muon(iterations=0)), SCHEDULE, "iterations must be at least 1"),
        (dict(base.lamb(trust_mask="norms")), SCHEDULE, "trust_mask 'norms' is unkn"),
        (dict(base.lars(trust_coefficient=0.0)), SCHEDULE, "coefficient must be posi"),
        (dict(base.adafactor(b2_cap=0.0)), SCHEDULE, r"b2_cap must be in \(0, 1\]"),
        (dict(base.adafactor(min_factored=0)), SCHEDULE, "min_factored must be at l"),
        (dict(base.lion(weight_decay=1.0, b2=-1.0)), SCHEDULE, "optim.b2 must be in"),
    ],
)
def test_errors(section, schedule, message):
    with pytest.raises(ValueError, match=message):
        optim.build(section, schedule_section=schedule, total_steps=STEPS)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_sections_of_the_base_config_have_the_right_keys(name):
    section = getattr(base, name)()
    assert section.name == name
    tx, rate = optim.build(dict(section), schedule_section=SCHEDULE, total_steps=STEPS)
    assert callable(tx.init)
    assert callable(tx.update)
    np.testing.assert_allclose(rate(2), section.learning_rate, rtol=1e-6)
