"""Where a ViT looks: its blocks' softmax weights, rollout and reach; the MAP probe's.

Attention kernels do not return their weights, so they are computed again here, from the
tokens that go into each block.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vit_jax.models.attention import Attention
from vit_jax.models.vit import ViT

Weigh = Callable[[Any, jax.Array], jax.Array]


def attention_weights(
    model: ViT, images: Float[Array, "B H W C"]
) -> Float[Array, "L B A N N"]:
    """The weights of every block: by layer, image, head, query and key.

    Each row sums to 1, in float32 whatever the model computes in. Together they take
    ``4 L B A N^2`` bytes: 22 MB an image for a B/16 at 224 pixels, half a GB for an
    L/16 at 384. `attention_rollout` holds one layer's at a time.

    Raises:
      ValueError: the model does not take images of this size.
    """
    weigh, layers, inputs = _stack(model, images)
    return jax.vmap(weigh)(layers, inputs)


def rollout(weights: Float[Array, "L B A N N"]) -> Float[Array, "B N N"]:
    """How much of every input token there is in every output token (arXiv 2005.00928).

    Heads are averaged, the residual counts for half, and the layers are multiplied. Row
    ``i`` says where token ``i`` has its content from, and sums to 1.
    """

    def step(rolled: jax.Array, layer: jax.Array) -> tuple[jax.Array, None]:
        return _roll(rolled, layer), None

    _, batch, _, num_tokens, _ = weights.shape
    return jax.lax.scan(step, _identity(batch, num_tokens), weights)[0]


def attention_rollout(
    model: ViT, images: Float[Array, "B H W C"]
) -> Float[Array, "B N N"]:
    """`rollout` of `attention_weights`, layer by layer: ``4 B A N^2`` bytes of weights.

    Raises:
      ValueError: the model does not take images of this size.
    """
    weigh, layers, inputs = _stack(model, images)

    def step(rolled: jax.Array, layer: tuple) -> tuple[jax.Array, None]:
        return _roll(rolled, weigh(*layer)), None

    return jax.lax.scan(step, _identity(*inputs.shape[1:3]), (layers, inputs))[0]


def attention_distance(
    model: ViT, images: Float[Array, "B H W C"]
) -> Float[Array, "L A"]:
    """How far each head of each block looks, in pixels (arXiv 2010.11929, Figure 7).

    The distance between the middle of a patch and those that it attends to, weighted by
    attention, on average over patches and images. Tokens of the prefix have no place
    and are left out, on both sides. One layer's weights are held at a time.

    Raises:
      ValueError: the model does not take images of this size.
    """
    weigh, layers, inputs = _stack(model, images)
    grid, prefix = model.grid_of(images), model.num_prefix
    high, wide = (
        side // count for side, count in zip(images.shape[1:3], grid, strict=True)
    )
    places = jnp.stack(
        [axis.reshape(-1) for axis in jnp.mgrid[: grid[0], : grid[1]]], axis=1
    ) * jnp.asarray([high, wide], jnp.float32)  # [N, 2]
    distances = jnp.linalg.norm(places[:, None] - places[None], axis=-1)  # [N, N]

    def step(_: None, layer: tuple) -> tuple[None, jax.Array]:
        weights = weigh(*layer)[:, :, prefix:, prefix:]  # [B, A, N, N]
        far = (weights * distances).sum(axis=-1) / weights.sum(axis=-1)
        return None, far.mean(axis=(0, 2))

    return jax.lax.scan(step, None, (layers, inputs))[1]


def pooling_weights(
    model: ViT, images: Float[Array, "B H W C"]
) -> Float[Array, "B A N"]:
    """What the probe of a MAP head (arXiv 2106.04560) gives each token, by head.

    Each row sums to 1; float32.

    Raises:
      ValueError: the model pools in another way, or does not take images of this size.
    """
    if model.pooling is None:
        raise ValueError(
            f"model.pool is {model.settings.pool!r}; only 'map' has a probe"
        )
    tokens = model.tokens(images)
    probe = model.pooling.probe[...].astype(tokens.dtype)
    probe = jnp.broadcast_to(probe, (len(tokens), *probe.shape[1:]))
    return _weights(model.pooling.attention, probe, tokens)[:, :, 0]


def content_map(model: ViT, images: Float[Array, "B H W C"]) -> Float[Array, "B h w"]:
    """What each patch gives to the pooled features: the rollout as a map an image.

    It is the row of CLS, or the mean over the rows of patches where there is none; of
    a model with a MAP head, what its probe attends to.

    Raises:
      ValueError: the model does not take images of this size.
    """
    prefix = model.num_prefix
    if model.pooling is not None:
        maps = pooling_weights(model, images).mean(axis=1)[:, prefix:]
    else:
        rolled = attention_rollout(model, images)[:, :, prefix:]
        if model.settings.cls_token:
            maps = rolled[:, 0]
        else:
            maps = rolled[:, prefix:].mean(axis=1)
    return maps.reshape(len(images), *model.grid_of(images))


def _stack(model: ViT, images: jax.Array) -> tuple[Weigh, Any, jax.Array]:
    """``weigh(layer, tokens)``, and all layers and the tokens into each, stacked."""
    grid, embedded = model.grid_of(images), model.embed(images)
    _, outputs = model.encode(embedded, intermediates=True, grid=grid)
    inputs = jnp.concatenate([embedded[None], outputs[:-1]])
    rotate = model._rotation(embedded.shape[1] - model.num_prefix, grid, None)
    graphdef, layers = nnx.split(model.blocks)

    def weigh(layer: Any, tokens: jax.Array) -> jax.Array:
        block: Any = nnx.merge(graphdef, layer)
        normed = block.attention_norm(tokens)
        return _weights(block.attention, normed, normed, rotate)

    return weigh, nnx.to_pure_dict(layers), inputs


def _weights(
    attention: Attention,
    inputs: Float[Array, "B T D"],
    context: Float[Array, "B S D"],
    rotate: Callable[[jax.Array], jax.Array] | None = None,
) -> Float[Array, "B A T S"]:
    """The weights inside of ``attention(inputs, context, rotate=rotate)``."""
    queries, keys = attention.query(inputs), attention.key(context)
    if attention.query_norm is not None and attention.key_norm is not None:
        queries, keys = attention.query_norm(queries), attention.key_norm(keys)
    if rotate is not None:
        queries, keys = rotate(queries), rotate(keys)
    logits = jnp.einsum(
        "btad,bsad->bats", queries, keys, preferred_element_type=jnp.float32
    )
    return jax.nn.softmax(logits / queries.shape[-1] ** 0.5)


def _identity(batch: int, num_tokens: int) -> Float[Array, "B N N"]:
    """Before the first layer, every token is itself."""
    return jnp.broadcast_to(jnp.eye(num_tokens), (batch, num_tokens, num_tokens))


def _roll(
    rolled: Float[Array, "B N N"], weights: Float[Array, "B A N N"]
) -> Float[Array, "B N N"]:
    """One more layer, on top of those before."""
    mixed = (weights.mean(axis=1) + jnp.eye(rolled.shape[-1])) / 2.0
    return jnp.matmul(mixed, rolled, precision="highest")
