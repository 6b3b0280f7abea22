"""Where a step's time goes: each part of it timed by itself, beside the whole.

A part is compiled alone, forward and backward, on arrays of the step's sizes; its time
counts as often as the step has it. What is left of the step is what the parts do not
have alone: the loop over layers, copies between them, recomputation. It is negative
where the compiler joins parts that were timed apart.
"""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmark_steps.cells import Cell
from benchmark_steps.clock import Contender, Samples, normal
from benchmark_steps.ours import (
    build_optimizer,
    build_prepare,
    init_objective,
    random_batch,
)
from vit_jax import train_state
from vit_jax.models.attention import attend
from vit_jax.models.layers import ACTIVATIONS
from vit_jax.objectives.base import Objective, merge, split
from vit_jax.train_step import build_train_step


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of the step.

    Args:
      contender: runs it once.
      count: how often a step has it.
      flops: of its matrix products, one run.
    """

    contender: Contender
    count: int
    flops: float = 0.0


@dataclasses.dataclass(frozen=True)
class Line:
    """A row of the table, in seconds of a step; ``floor`` is its products' at peak."""

    name: str
    count: int
    seconds: float
    floor: float

    @property
    def above(self) -> float:
        """Seconds that products at the peak's rate would not take."""
        return self.seconds - self.floor


@dataclasses.dataclass(frozen=True)
class Table:
    """Parts, the whole step, and the whole in its three phases."""

    parts: list[Line]
    rest: Line
    whole: Line
    phases: list[Line]


def _run(name: str, function: Callable[..., Any], *arguments: Any) -> Contender:
    """A function, compiled alone, as a contender."""
    compiled = jax.jit(function)
    last: list[Any] = [None]

    def start() -> None:
        last[0] = compiled(*arguments)

    def wait() -> None:
        jax.block_until_ready(last[0])

    return Contender(name, start, wait)


def _both_ways(function: Callable[..., jax.Array]) -> Callable[..., Any]:
    """The function and its gradient in every argument but the last, the cotangent."""

    def run(*arguments: Any) -> Any:
        *inputs, cotangent = arguments
        outputs, backward = jax.vjp(function, *inputs)
        return outputs, backward(cotangent)

    return run


def _module(module: Any) -> tuple[Callable[..., Any], Any]:
    """A module as a function of its parameters, and those."""
    graphdef, state = nnx.split(module)
    return (
        lambda params, *inputs: nnx.merge(graphdef, params)(*inputs),
        nnx.to_pure_dict(state),
    )


def build_parts(cell: Cell) -> list[Part]:
    """The parts of a ViT's step that are timed by themselves."""
    objective = merge(*init_objective(cell, jax.random.key(0)), {})
    encoder = objective.encoder
    depth, width = encoder.depth, encoder.width
    heads, dtype = encoder.num_heads, jnp.dtype(cell.dtype)
    block_def, blocks = nnx.split(encoder.blocks)
    first = jax.tree.map(lambda leaf: leaf[0], nnx.to_pure_dict(blocks))
    block: Any = nnx.merge(block_def, first)
    tokens = encoder.num_prefix + encoder.grid[0] * encoder.grid[1]
    rows = cell.batch * tokens
    stream = normal(1, (cell.batch, tokens, width), dtype)
    hidden = normal(2, (cell.batch, tokens, encoder.mlp_dim), dtype)
    per_head = normal(3, (cell.batch, tokens, heads, width // heads), dtype)

    def dense(name: str, module: Any, inputs: Any, outputs: Any, count: int) -> Part:
        run, params = _module(module)
        # Three products: forward, and the gradients of weights and of inputs.
        flops = 6.0 * rows * params["kernel"].size
        return Part(_run(name, _both_ways(run), params, inputs, outputs), count, flops)

    def attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return attend(query, key, value, implementation=cell.attention)

    norm, norm_params = _module(block.attention_norm)
    gelu = ACTIVATIONS[encoder.settings.activation]
    heads_in = (per_head, per_head + 1, per_head - 1, per_head)
    return [
        dense("query, key, value", block.attention.query, stream, per_head, 3 * depth),
        dense("attention output", block.attention.out, per_head, stream, depth),
        dense("MLP, first layer", block.mlp.hidden, stream, hidden, depth),
        dense("MLP, second layer", block.mlp.out, hidden, stream, depth),
        Part(
            _run("attention, softmax", _both_ways(attention), *heads_in),
            depth,
            12.0 * rows * tokens * width,
        ),
        Part(
            _run("LayerNorm", _both_ways(norm), norm_params, stream, stream),
            2 * depth + 1,
        ),
        Part(_run("GELU", _both_ways(gelu), hidden, hidden), depth),
        # Forward one sum, backward one more.
        Part(_run("residual sums", jnp.add, stream, stream + 1), 4 * depth),
        *_ends(cell, objective, stream),
        Part(_update(objective), 1),
    ]


def _ends(cell: Cell, objective: Any, stream: jax.Array) -> list[Part]:
    """What comes before and after the blocks, and the batch's preparation."""
    encoder = objective.encoder
    batch = {name: jnp.asarray(rows) for name, rows in random_batch(cell).items()}
    prepare = build_prepare(cell, flip=False)
    key = jax.random.key(0)
    prepared = jax.jit(prepare)(batch, key)
    graphdef, state = nnx.split(encoder)
    params = nnx.to_pure_dict(state)
    blocks = params.pop("blocks")

    def whole(ends: Any) -> Any:
        return nnx.merge(graphdef, {**ends, "blocks": blocks})

    def embed(ends: Any, images: jax.Array, cotangent: jax.Array) -> Any:
        outputs, backward = jax.vjp(lambda ends: whole(ends).embed(images), ends)
        return outputs, backward(cotangent.astype(outputs.dtype))

    def head(ends: Any, tokens: jax.Array, labels: jax.Array) -> Any:
        def loss(ends: Any, tokens: jax.Array) -> jax.Array:
            logits = whole(ends).logits(tokens)
            return -(jax.nn.log_softmax(logits) * labels).sum(axis=-1).mean()

        return jax.value_and_grad(loss, argnums=(0, 1))(ends, tokens)

    patches = cell.batch * encoder.grid[0] * encoder.grid[1]
    images, labels = prepared["images"], prepared["labels"]
    return [
        Part(_run("preparing the batch", prepare, batch, key), 1),
        Part(
            _run("patch embedding", embed, params, images, stream),
            1,
            # No gradient of the images is asked for.
            4.0 * patches * encoder.embedding.kernel[...].size,
        ),
        Part(
            _run("pooling, head, loss", head, params, stream, labels),
            1,
            6.0 * cell.batch * encoder.head.kernel[...].size,
        ),
    ]


class Quadratic(Objective):
    """Half the sum of squares of the parameters: a loss that costs little."""

    def __init__(self, inner: Objective):
        self.inner = inner

    def loss(self, batch: Any, *, key: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        leaves = jax.tree.leaves(nnx.to_pure_dict(nnx.state(self.inner)))
        squares = jnp.stack([jnp.vdot(leaf, leaf) for leaf in leaves])
        return 0.5 * squares.sum(), {}


def _update(objective: Any) -> Contender:
    """The train step around a loss that costs little: optimizer, norms, checks."""
    graphdef, params, _ = split(Quadratic(objective))
    tx = build_optimizer()
    step = build_train_step(
        graphdef, tx, prepare_batch=lambda batch, key: batch, accumulate=1, ema=0.0
    )
    compiled = jax.jit(step, donate_argnums=0)
    # A copy: the state is given away, and others have these arrays too.
    own = jax.tree.map(jnp.copy, params)
    now = [train_state.create(own, tx, with_ema=False)]
    key = jax.random.key(0)

    def start() -> None:
        now[0], _ = compiled(now[0], {}, {}, key)

    def wait() -> None:
        jax.block_until_ready(now[0])

    return Contender("optimizer, norms, checks", start, wait)


def build_phases(cell: Cell) -> list[Contender]:
    """The loss alone, and with its gradient."""
    graphdef, params = init_objective(cell, jax.random.key(0))
    batch = {name: jnp.asarray(rows) for name, rows in random_batch(cell).items()}
    key = jax.random.key(0)
    prepare = build_prepare(cell, flip=False)

    def loss(params: Any, batch: Any) -> Any:
        return merge(graphdef, params, {}).loss(prepare(batch, key), key=key)[0]

    return [
        _run("forward", loss, params, batch),
        _run("forward and backward", jax.value_and_grad(loss), params, batch),
    ]


def tabulate(
    samples: Samples,
    parts: Sequence[Part],
    *,
    whole: str,
    step_flops: float,
    peak: float,
) -> Table:
    """The table from seconds of single runs.

    Args:
      samples: of the parts, both phases and the whole step.
      parts: of `build_parts`.
      whole: name of the step's contender.
      step_flops: of the model, one step.
      peak: operations a second of matrix products, in the same run.
    """
    middle = {name: statistics.median(times) for name, times in samples.items()}
    lines = [
        Line(
            part.contender.name,
            part.count,
            part.count * middle[part.contender.name],
            part.count * part.flops / peak,
        )
        for part in parts
    ]
    floor = step_flops / peak
    step = Line("whole step", 1, middle[whole], floor)
    rest = Line(
        "rest: loop, copies; less what is fused",
        1,
        step.seconds - sum(line.seconds for line in lines),
        floor - sum(line.floor for line in lines),
    )
    forward, both = middle["forward"], middle["forward and backward"]
    phases = [
        Line("forward", 1, forward, floor / 3),
        Line("backward", 1, both - forward, 2 * floor / 3),
        Line("update (step less both)", 1, step.seconds - both, 0.0),
    ]
    return Table(lines, rest, step, phases)
