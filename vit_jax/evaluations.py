"""The evaluators of a config, when each is due, and what is known from them."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vit_jax import setup, setup_evals
from vit_jax.data.rows import BadExample

Scalars = dict[str, float]


class Evaluations:
    """Runs the evaluators of a config.

    Args:
      config: a resolved config.
      parts: of the run.
      steps: of the run.
      names: of those to build; None for all.
      beat: called when a batch arrived and when it was counted; it may raise to end
        the evaluation.
      compiling: called with True before an evaluator compiles, False after it.
    """

    def __init__(
        self,
        config: ConfigDict,
        parts: setup.Parts,
        steps: setup.Steps,
        *,
        names: Iterable[str] | None = None,
        beat: Callable[[], None] = lambda: None,
        compiling: Callable[[bool], None] = lambda begins: None,
    ):
        self._every = steps.eval_every
        self._total = steps.total
        self._parts = parts
        self._beat, self._compiling = beat, compiling
        self._beats = dict.fromkeys(config.evals, 0)
        self._running = ""
        self._images: dict[str, np.ndarray] = {}
        self._evaluators = {
            name: setup_evals.build_evaluator(
                config,
                name,
                parts=parts,
                beat=self._on_batch,
                compiling=self._compiling,
            )
            for name in (config.evals if names is None else names)
        }

    def due(self, step: int) -> list[str]:
        """Names of those that run after ``step`` updates."""
        last = step == self._total
        return [name for name, n in self._every.items() if last or due(step, n)]

    def missing(self, step: int, known: Iterable[str]) -> list[str]:
        """Those due at ``step`` of which no result is among the names ``known``.

        A run that was stopped while it evaluated makes up for it when it resumes.
        """
        known = dict.fromkeys(known, 0.0)
        return [name for name in self.due(step) if not of(name, known)]

    def run(self, name: str, state: Any) -> Scalars:
        """Measures the parameters, and their average beside them where there is one."""
        evaluator = self._evaluators[name]
        self._running = name
        kinds = {name: state.params} | ({f"{name}_ema": state.ema} if state.ema else {})
        results: Scalars = {}
        for prefix, params in kinds.items():
            scalars = evaluator.run(params, self._parts.frozen)
            results |= {f"{prefix}/{key}": value for key, value in scalars.items()}
            for key, image in evaluator.take_images().items():
                self._images[f"{prefix}/{key}" if key else prefix] = image
        return results

    def take_images(self) -> dict[str, np.ndarray]:
        """Pictures, uint8 ``[H, W, 3]`` by name, drawn since the last call."""
        images, self._images = self._images, {}
        return images

    def take_bad(self, name: str) -> list[BadExample]:
        """Damaged examples that an evaluator left out, since the last call."""
        return self._evaluators[name].take_bad()

    def close(self) -> None:
        """Frees the evaluators."""
        for evaluator in self._evaluators.values():
            evaluator.close()

    def _on_batch(self) -> None:
        """A batch arrived, or was counted: compiling lies between the first of each."""
        self._beats[self._running] += 1
        if self._beats[self._running] <= 2:
            self._compiling(self._beats[self._running] == 1)
        self._beat()


def due(step: int, every: int) -> bool:
    """Whether something done every ``every`` steps is done after ``step`` updates."""
    return step > 0 and step % every == 0


def of(name: str, scalars: Scalars) -> Scalars:
    """The results of one evaluator, those of the averaged parameters included."""
    prefixes = (f"{name}/", f"{name}_ema/")
    return {key: value for key, value in scalars.items() if key.startswith(prefixes)}
