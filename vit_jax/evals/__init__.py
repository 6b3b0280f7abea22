"""Evaluators by name; adding one is a file and an entry here."""

from collections.abc import Callable

from vit_jax.evals.base import Evaluator
from vit_jax.evals.classification import Classification

EVALUATORS: dict[str, Callable[..., Evaluator]] = {"classification": Classification}
