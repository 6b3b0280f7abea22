"""Evaluators by name; adding one is a file and an entry here."""

from typing import Any

from vit_jax.evals.base import Context, Evaluator
from vit_jax.evals.classification import Classification
from vit_jax.evals.fewshot import FewShot
from vit_jax.evals.knn import KNN
from vit_jax.evals.linear_probe import LinearProbe
from vit_jax.evals.reconstruction import Reconstruction

__all__ = ["EVALUATORS", "Context", "Evaluator"]

EVALUATORS: dict[str, Any] = {
    "classification": Classification,
    "fewshot": FewShot,
    "knn": KNN,
    "linear_probe": LinearProbe,
    "reconstruction": Reconstruction,
}
