"""Operations of matrix products in a program, found by walking its jaxpr."""

import math

import jax
from jax.extend import core


def of(function, *arguments):
    """Multiply-adds times two of every product that a function computes."""
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr):
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            summed = math.prod(shape[axis] for axis in contracted)
            total += 2 * summed * math.prod(equation.outvars[0].aval.shape)
        times = equation.params.get("length", 1) if _scans(equation) else 1
        total += times * sum(map(_count, _inner(equation)))
    return total


def _scans(equation):
    return equation.primitive.name == "scan"


def _inner(equation):
    """The programs within an equation."""
    for value in equation.params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, core.ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, core.Jaxpr):
                yield each
