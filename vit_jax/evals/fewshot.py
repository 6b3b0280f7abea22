"""Few-shot linear classification by least squares, as big_vision evaluates.

The features of a few training examples a class are whitened by their own mean and
standard deviation and given a constant column of 100, a bias that L2 hardly touches;
the targets are -1 and 1, and the weights come in closed form. The solution is computed
on the host in float64, by every process alike (big_vision: float32, jitted on the CPU).
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from vit_jax.evals.base import Context, OnSplits, Params, Range, Settings, at_least
from vit_jax.evals.features import Extractor, num_classes_of

BIAS = 100.0
EPSILON = 1e-5  # added to the standard deviation


class Shots(NamedTuple):
    """Features and labels that a solution is computed from or measured on."""

    features: np.ndarray  # [N, D]
    labels: np.ndarray  # [N]


class Solution:
    """Ridge regression of a few examples, for any strength of L2.

    Args:
      shots: the examples.
      num_classes: of the targets.
    """

    def __init__(self, shots: Shots, num_classes: int):
        features = shots.features.astype(np.float64)
        self._mean = features.mean(axis=0)
        self._std = features.std(axis=0) + EPSILON
        inputs = self._prepare(features)
        targets = 2.0 * np.eye(num_classes)[shots.labels] - 1.0
        # The smaller of X'X and XX' is decomposed once, and then serves every L2.
        if len(inputs) >= inputs.shape[1]:
            self._values, vectors = np.linalg.eigh(inputs.T @ inputs)
            self._left, self._right = vectors, vectors.T @ (inputs.T @ targets)
        else:
            self._values, vectors = np.linalg.eigh(inputs @ inputs.T)
            self._left, self._right = inputs.T @ vectors, vectors.T @ targets

    def _prepare(self, features: np.ndarray) -> np.ndarray:
        white = (features - self._mean) / self._std
        return np.pad(white, ((0, 0), (0, 1)), constant_values=BIAS)

    def weights(self, l2: float) -> np.ndarray:
        """Of the whitened features and the bias, ``[D + 1, K]``."""
        return (self._left / (self._values + l2)) @ self._right

    def accuracy(self, test: Shots, l2: float, *, rows: int = 8192) -> float:
        """Share of the examples whose largest output is their label."""
        weights, right = self.weights(l2), 0
        for start in range(0, len(test.labels), rows):  # float64 of a part at a time
            part = slice(start, start + rows)
            outputs = self._prepare(test.features[part].astype(np.float64)) @ weights
            right += int((outputs.argmax(axis=1) == test.labels[part]).sum())
        return right / len(test.labels)


class FewShot(OnSplits):
    """Accuracy on ``split`` of classifiers made from some training examples a class.

    Every seed draws its examples, the smaller numbers of shots being the first of the
    larger; the results are the means over the seeds. Of several strengths of L2 the one
    is taken, for each number of shots, that is best on the training examples that were
    not drawn: the test split decides nothing. (big_vision has the one strength 1024.)

    Args:
      context: of the run.
      data: another data set than the run's, or "".
      train_split: what is drawn from; its features are all computed.
      split: what is classified.
      shots: examples a class.
      l2: strengths of L2 to choose from.
      seeds: how many draws.
      loading: batch size and resize, for `context.open`.
    """

    RANGES: ClassVar[Mapping[str, Range]] = {
        "shots": (
            lambda shots: (
                len(shots) > 0
                and all(type(one) is int and one > 0 for one in shots)
                and len(set(shots)) == len(shots)
            ),
            "different positive whole numbers, at least one",
        ),
        "l2": (
            lambda l2: len(l2) > 0 and all(0 < one < math.inf for one in l2),
            "positive and finite numbers, at least one",
        ),
        "seeds": at_least(1),
    }

    def __init__(
        self,
        context: Context,
        *,
        data: str,
        train_split: str,
        split: str,
        shots: Sequence[int],
        l2: Sequence[float],
        seeds: int,
        **loading: Any,
    ):
        self._train = context.open(train_split, data=data, **loading)
        self._test = context.open(split, data=data, **loading)
        super().__init__(context, [self._train, self._test])
        self._num_classes = num_classes_of(self._splits, self.error)
        self._extractor = Extractor(context)
        self._shots, self._l2 = tuple(shots), tuple(map(float, l2))
        self._seeds = range(seeds)

    @classmethod
    def results(cls, settings: Settings) -> tuple[str, ...]:
        """For 5 shots ``5shot``, the mean over seeds, and ``5shot_std`` of several."""
        what = ["shot"] if settings["seeds"] == 1 else ["shot", "shot_std"]
        return tuple(
            f"{n}{text}" for n, text in itertools.product(settings["shots"], what)
        )

    def run(self, params: Params, frozen: Params) -> dict[str, float]:
        """Returns what `results` names; with several L2, also ``5shot_l2``."""
        train = Shots(*self._extractor.host(self._train, params, frozen))
        test = Shots(*self._extractor.host(self._test, params, frozen))
        if not len(test.labels):
            raise self.error(f"not one example of {self._test.name} is good")
        drawn = {seed: self._draw(train.labels, seed) for seed in self._seeds}
        results: dict[str, float] = {}
        for shots in self._shots:
            chosen, rates = self._measure(shots, train, test, drawn)
            results[f"{shots}shot"] = float(np.mean(rates))
            if len(rates) > 1:
                results[f"{shots}shot_std"] = float(np.std(rates, ddof=1))
            if len(self._l2) > 1:
                results[f"{shots}shot_l2"] = chosen
        return results

    def _draw(self, labels: np.ndarray, seed: int) -> list[np.ndarray]:
        """The examples of every class in the order in which they are taken.

        Raises:
          DataError: a class has too few.
        """
        rng = np.random.default_rng(seed)
        order = [
            rng.permutation(np.flatnonzero(labels == number))
            for number in range(self._num_classes)
        ]
        most = max(self._shots)
        few = [number for number, rows in enumerate(order) if len(rows) < most]
        if few:
            names = self._train.class_names or tuple(map(str, range(self._num_classes)))
            shown = ", ".join(f"{names[n]!r} ({len(order[n])})" for n in few[:3])
            raise self.error(
                f"shots has {most}, but {len(few)} of {self._num_classes} classes have "
                f"fewer good examples in {self._train.name}: {shown}"
                f"{', ...' if len(few) > 3 else ''}; take more of the split, or fewer "
                "shots"
            )
        return order

    def _measure(
        self,
        shots: int,
        train: Shots,
        test: Shots,
        drawn: Mapping[int, list[np.ndarray]],
    ) -> tuple[float, list[float]]:
        """The strength of L2 that is taken, and the accuracy of every seed."""
        solutions, rates = {}, np.zeros(len(self._l2))
        for seed, order in drawn.items():
            rows = np.concatenate([each[:shots] for each in order])
            solutions[seed] = Solution(
                Shots(train.features[rows], train.labels[rows]), self._num_classes
            )
            self.context.beat()
            if len(self._l2) > 1:
                rest = np.setdiff1d(np.arange(len(train.labels)), rows)
                rates += self._rates(solutions[seed], train, rest)
        l2 = self._l2[int(rates.argmax())]
        accuracies = []
        for solution in solutions.values():
            accuracies.append(solution.accuracy(test, l2))
            self.context.beat()
        return l2, accuracies

    def _rates(self, solution: Solution, train: Shots, rest: np.ndarray) -> list[float]:
        """Accuracy with every L2 on the training examples that were not drawn.

        Raises:
          DataError: there are none.
        """
        if not len(rest):
            raise self.error(
                f"l2 has {len(self._l2)} values to choose from, but all of "
                f"{self._train.name} is drawn; give one, or take more of the split"
            )
        others = Shots(train.features[rest], train.labels[rest])
        rates = []
        for l2 in self._l2:
            rates.append(solution.accuracy(others, l2))
            self.context.beat()
        return rates
