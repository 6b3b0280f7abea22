"""Means in chunks: the numbers of one call over all tokens, in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.models import tiny
from vit_jax.objectives.chunks import chunked_mean

ROWS, TOKENS, WIDTH, CLASSES = 3, 10, 5, 7
RNG = np.random.default_rng(0)
FEATURES = jnp.asarray(RNG.normal(size=(ROWS, TOKENS, WIDTH)), jnp.float32)
CODES = RNG.integers(0, CLASSES, (ROWS, TOKENS))
WEIGHTS = RNG.uniform(size=(ROWS, TOKENS)).astype(np.float32)
MASK = RNG.uniform(size=(ROWS, TOKENS)) < 0.4
HEAD = jnp.asarray(RNG.normal(size=(WIDTH, CLASSES)), jnp.float32)


def loss_fn(head, features, codes):
    logits = features @ head
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, codes)
    return losses, {"accuracy": logits.argmax(-1) == codes}


def in_chunks(chunk, weights=None):
    """``(head, features) -> (loss, metrics)``."""

    def run(head, features):
        return chunked_mean(
            lambda features, codes: loss_fn(head, features, codes),
            features,
            jnp.asarray(CODES),
            None if weights is None else jnp.asarray(weights),
            chunk=chunk,
        )

    return run


def at_once(weights):
    """The same written out, all tokens together."""
    weights = np.ones((ROWS, TOKENS)) if weights is None else weights

    def run(head, features):
        losses, metrics = loss_fn(head, features, CODES)
        return jax.tree.map(
            lambda values: jnp.sum(values * weights) / np.sum(weights),
            (losses, metrics),
        )

    return run


@pytest.mark.parametrize(
    ("chunk", "weights"),  # 4: the last chunk is not full
    [(1, None), (4, MASK), (4, None), (5, WEIGHTS), (10, MASK), (99, WEIGHTS)],
)
def test_values_and_gradients_are_those_of_one_call(chunk, weights):
    def grads(run):
        run = jax.value_and_grad(run, argnums=(0, 1), has_aux=True)
        return tiny.jit(run)(HEAD, FEATURES)

    found, expected = grads(in_chunks(chunk, weights)), grads(at_once(weights))
    assert float(expected[0][1]["accuracy"]) not in (0.0, 1.0)
    jax.tree.map(
        # Sums of 30 float32 numbers of about 1, in another order.
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        found,
        expected,
    )


def test_means_are_those_of_numpy():
    loss, metrics = tiny.jit(in_chunks(3, WEIGHTS))(HEAD, FEATURES)
    logits = np.asarray(FEATURES, np.float64) @ np.asarray(HEAD, np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    losses = -np.take_along_axis(log_p, CODES[..., None], -1)[..., 0]
    np.testing.assert_allclose(loss, np.average(losses, weights=WEIGHTS), rtol=1e-5)
    correct = np.average(logits.argmax(-1) == CODES, weights=WEIGHTS)
    np.testing.assert_allclose(metrics["accuracy"], correct, rtol=1e-5)


def test_nothing_weighs_nothing():
    run = jax.value_and_grad(in_chunks(4, np.zeros_like(WEIGHTS)), has_aux=True)
    (loss, _), grad = tiny.jit(run)(HEAD, FEATURES)
    assert float(loss) == 0.0
    np.testing.assert_array_equal(grad, jnp.zeros_like(HEAD))


def test_trees_of_features_and_targets():
    scale = RNG.uniform(size=(ROWS, TOKENS, 1)).astype(np.float32)
    pixels = RNG.normal(size=(ROWS, TOKENS, WIDTH)).astype(np.float32)

    def squared(features, targets):
        error = features["tokens"] * features["scale"] - targets["pixels"]
        return jnp.square(error).mean(axis=-1)

    found = chunked_mean(
        squared,
        {"tokens": FEATURES, "scale": jnp.asarray(scale)},
        {"pixels": jnp.asarray(pixels)},
        jnp.asarray(MASK),
        chunk=4,
    )
    expected = np.square(np.asarray(FEATURES) * scale - pixels).mean(-1)[MASK].mean()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def compiled(rows, tokens, classes, chunk, mesh=None):
    """The gradient's program for a head of many classes."""

    def loss(head, features, codes):
        return chunked_mean(
            lambda features, codes: loss_fn(head, features, codes)[0],
            features,
            codes,
            chunk=chunk,
        )

    def place(*axes):
        return None if mesh is None else NamedSharding(mesh, PartitionSpec(*axes))

    shape = jax.ShapeDtypeStruct
    return (
        jax.jit(jax.grad(loss, argnums=(0, 1)))
        .lower(
            shape((WIDTH, classes), jnp.float32, sharding=place()),
            shape(
                (rows, tokens, WIDTH), jnp.float32, sharding=place("data", "sequence")
            ),
            shape((rows, tokens), jnp.int32, sharding=place("data", "sequence")),
        )
        .compile(compiler_options=tiny.FAST)
    )


def temporaries(*sizes):
    return compiled(*sizes).memory_analysis().temp_size_in_bytes


def test_the_logits_of_a_chunk_exist_at_a_time():
    rows, tokens, classes = 4, 64, 512
    logits = 4 * rows * tokens * classes  # bytes
    whole = temporaries(rows, tokens, classes, tokens)
    assert whole > 0.9 * logits
    for chunk in (4, 16):
        in_chunks = temporaries(rows, tokens, classes, chunk)
        # Logits, their gradient and one between, features and codes in another order,
        # and the head's gradient.
        others = 4 * (4 * rows * tokens * WIDTH + 2 * WIDTH * classes)
        assert in_chunks < 3.1 * logits * chunk / tokens + others, chunk


def test_rows_and_tokens_stay_where_they_are():
    mesh = jax.make_mesh(
        (4, 2), ("data", "sequence"), axis_types=(jax.sharding.AxisType.Auto,) * 2
    )
    single, sharded = (compiled(8, 64, 512, 8, mesh=mesh) for mesh in (None, mesh))
    whole, share = (
        program.memory_analysis().temp_size_in_bytes for program in (single, sharded)
    )
    head = 4 * WIDTH * 512  # its gradient is whole everywhere
    assert share - 2 * head < 0.2 * (whole - 2 * head)
    rng = np.random.default_rng(1)
    arguments = (
        rng.normal(size=(WIDTH, 512)).astype(np.float32),
        rng.normal(size=(8, 64, WIDTH)).astype(np.float32),
        rng.integers(0, 512, (8, 64), dtype=np.int32),
    )
    results = [
        program(*jax.device_put(arguments, program.input_shardings[0]))
        for program in (single, sharded)
    ]
    jax.tree.map(
        # Sums of 512 float32 numbers in another order.
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7),
        *jax.device_get(results),
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(chunk=0), "chunk must be at least 1 token, got 0"),
        (dict(targets=jnp.zeros((ROWS, 3))), r"same \[B, N\], got \(3, 3\), \(3, 10"),
        (dict(targets=jnp.zeros((ROWS,))), r"same \[B, N\], got \(3,\), \(3, 10"),
        (
            dict(loss_fn=lambda features, targets: features),
            r"loss_fn must have a value for each token, \(3, 5\); it has the shape "
            r"\(3, 5, 5\)",
        ),
    ],
)
def test_what_does_not_fit(changes, message):
    arguments = dict(
        loss_fn=lambda features, targets: targets,
        features=FEATURES,
        targets=jnp.asarray(CODES),
        chunk=5,
    )
    with pytest.raises(ValueError, match=message):
        chunked_mean(**(arguments | changes))
