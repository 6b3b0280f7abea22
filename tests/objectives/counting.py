"""An independent count of operations: what a traced program's products say."""

import math

import jax


def product_flops(function, *arguments):
    """Operations of every `dot_general` that a function runs, loops multiplied out."""
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr):
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            left, right = (value.aval.shape for value in equation.invars)
            (sums, _), (batch, _) = equation.params["dimension_numbers"]
            # [b, m, k] x [b, k, n]: the sizes multiply to b k times b k m n.
            sizes = math.prod(left) * math.prod(right)
            total += 2 * sizes // math.prod(left[axis] for axis in (*sums, *batch))
            continue
        times = equation.params.get("length", 1)
        for inner in _inner(equation.params):
            total += times * _count(inner)
    return total


def _inner(params):
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if hasattr(each, "eqns"):
                yield each
            elif hasattr(each, "jaxpr"):
                yield each.jaxpr
