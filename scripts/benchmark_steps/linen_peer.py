"""A plain Flax Linen ViT as most JAX code writes it, with optax.adamw under jit.

Blocks one by one, `nn.MultiHeadDotProductAttention`, a convolution for the patches, the
state donated. It computes the same function as ours and starts from the same weights.
"""

import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmark_steps.cells import Cell
from benchmark_steps.clock import Contender
from benchmark_steps.ours import OPTIM, normalised, program_bytes


class MlpBlock(nn.Module):
    """Two dense layers with a GELU between them."""

    mlp_dim: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        x = nn.Dense(self.mlp_dim, dtype=self.dtype)(x)
        return nn.Dense(width, dtype=self.dtype)(nn.gelu(x))


class EncoderBlock(nn.Module):
    """Pre-norm attention and MLP."""

    num_heads: int
    mlp_dim: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.LayerNorm(dtype=self.dtype)(x)
        x = x + nn.MultiHeadDotProductAttention(self.num_heads, dtype=self.dtype)(y, y)
        y = nn.LayerNorm(dtype=self.dtype)(x)
        return x + MlpBlock(self.mlp_dim, self.dtype)(y)


class LinenViT(nn.Module):
    """Images to logits."""

    patch_size: tuple[int, int]
    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    num_classes: int
    pool: str
    dtype: Any

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = nn.Conv(
            self.width,
            self.patch_size,
            strides=self.patch_size,
            padding="VALID",
            dtype=self.dtype,
            name="embedding",
        )(images)
        x = x.reshape(x.shape[0], -1, self.width)
        if self.pool == "cls":
            cls = self.param("cls", nn.initializers.zeros, (1, 1, self.width))
            cls = jnp.tile(cls.astype(x.dtype), (x.shape[0], 1, 1))
            x = jnp.concatenate([cls, x], axis=1)
        positions = self.param(
            "pos_embedding", nn.initializers.normal(0.02), (1, *x.shape[1:])
        )
        x = x + positions.astype(x.dtype)
        for layer in range(self.depth):
            x = EncoderBlock(
                self.num_heads, self.mlp_dim, self.dtype, name=f"encoderblock_{layer}"
            )(x)
        x = nn.LayerNorm(dtype=self.dtype, name="encoder_norm")(x)
        x = x[:, 0] if self.pool == "cls" else x.mean(axis=1)
        return nn.Dense(self.num_classes, name="head")(x.astype(jnp.float32))


def build_model(cell: Cell) -> LinenViT:
    """The module of a cell."""
    chosen = cell.settings
    sizes = ("patch_size", "width", "depth", "mlp_dim", "num_heads", "num_classes")
    return LinenViT(
        **{name: chosen[name] for name in sizes},
        pool=cell.pool,
        dtype=jnp.dtype(cell.dtype),
    )


def from_ours(params: dict[str, Any], depth: int) -> dict[str, Any]:
    """Our encoder's parameters under Linen's names, copied."""
    blocks = params["blocks"]
    theirs: dict[str, Any] = {
        "embedding": params["embedding"],
        "pos_embedding": params["position_embedding"],
        "encoder_norm": params["norm"],
        "head": params["head"],
    }
    if "cls" in params:
        theirs["cls"] = params["cls"]
    for layer in range(depth):
        block = jax.tree.map(lambda leaf, layer=layer: leaf[layer], blocks)
        theirs[f"encoderblock_{layer}"] = {
            "LayerNorm_0": block["attention_norm"],
            "MultiHeadDotProductAttention_0": block["attention"],
            "LayerNorm_1": block["mlp_norm"],
            "MlpBlock_0": {
                "Dense_0": block["mlp"]["hidden"],
                "Dense_1": block["mlp"]["out"],
            },
        }
    return jax.tree.map(jnp.array, theirs)


def build_linen(
    cell: Cell, params: dict[str, Any], batch: dict[str, np.ndarray]
) -> Contender:
    """A contender that starts from our parameters; its first step is run here.

    It gets images that are normalised already.
    """
    begun = time.perf_counter()
    model = build_model(cell)
    tx = optax.adamw(
        OPTIM["learning_rate"],
        b1=OPTIM["b1"],
        b2=OPTIM["b2"],
        eps=OPTIM["eps"],
        weight_decay=OPTIM["weight_decay"],
    )
    images = jnp.asarray(normalised(batch))
    labels = jnp.asarray(batch["label"])

    def step(params: Any, opt_state: Any, images: Any, labels: Any) -> Any:
        def loss_fn(params: Any) -> jax.Array:
            logits = model.apply({"params": params}, images)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean()

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    theirs = from_ours(params, cell.settings["depth"])
    now: dict[str, Any] = {"params": theirs, "opt_state": jax.jit(tx.init)(theirs)}
    compiling = time.perf_counter()
    compiled = (
        jax.jit(step, donate_argnums=(0, 1))
        .lower(now["params"], now["opt_state"], images, labels)
        .compile()
    )
    compile_seconds = time.perf_counter() - compiling

    def start() -> None:
        now["params"], now["opt_state"], now["loss"] = compiled(
            now["params"], now["opt_state"], images, labels
        )

    def wait() -> None:
        jax.block_until_ready(now)

    start()
    wait()
    size = program_bytes(compiled)
    facts = {
        "compile_seconds": compile_seconds,
        "first_step_seconds": time.perf_counter() - begun,
        "program_gib": None if size is None else size / 2**30,
    }
    return Contender("linen", start, wait, facts, lambda: float(now["loss"]))
