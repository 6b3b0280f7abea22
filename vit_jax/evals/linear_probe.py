"""A linear classifier trained on frozen features, as MAE evaluates (arXiv 2111.06377).

Batch normalisation without scale and offset, then one linear layer; LARS, batch 16384,
90 epochs, the rate 0.1 for each 256 images. Two deviations, both for speed: unless
``augment`` is set the features are computed once, from central crops, where MAE draws a
crop and a flip in every epoch; and an encoder that computes in bfloat16 does so here.
With ``augment`` they are computed anew in every epoch, which costs an epoch of forward
passes each.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vit_jax.evals import probe_optim
from vit_jax.evals.base import (
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Context,
    OnSplits,
    Params,
    Range,
    Settings,
    at_least,
)
from vit_jax.evals.features import (
    NO_LABEL,
    Bank,
    Extractor,
    mean_scores,
    num_classes_of,
    score,
)
from vit_jax.evals.probe_optim import Probe, Stats
from vit_jax.sharding import replicated

CONVERGED = 1e-5  # largest entry of the gradient at which L-BFGS ends


class LinearProbe(OnSplits):
    """Accuracy on ``split`` of a linear layer trained on features of ``train_split``.

    The same on any number of devices: they share the features, and each takes the same
    steps. A function of the seed.

    Args:
      context: of the run.
      data: another data set than the run's, or "".
      train_split, split: what is trained on, and what is classified.
      optimizer: "lars", "sgd", or "lbfgs": the whole split in every iteration, by
        statistics of the whole split.
      learning_rate: for 256 images a step; not of "lbfgs".
      momentum: not of "lbfgs".
      weight_decay: of the kernel; for "lbfgs" half of it times its square is added to
        the mean loss, which makes the solution unique.
      epochs: passes over the split; at most so many iterations of "lbfgs".
      warmup_epochs: not of "lbfgs".
      train_batch_size: images a step, at most the split's; not of "lbfgs".
      augment: draws a crop and a flip in every epoch; not of "lbfgs".
      loading: batch size and resize, for `context.open`.
    """

    RANGES: ClassVar[Mapping[str, Range]] = {
        "learning_rate": POSITIVE,
        "momentum": SHARE,
        "weight_decay": NOT_NEGATIVE,
        "epochs": at_least(1),
        "warmup_epochs": at_least(0),
        "train_batch_size": at_least(1),
    }
    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "optimizer": ("lars", "sgd", "lbfgs")
    }

    def __init__(
        self,
        context: Context,
        *,
        data: str,
        train_split: str,
        split: str,
        optimizer: str,
        learning_rate: float,
        momentum: float,
        weight_decay: float,
        epochs: int,
        warmup_epochs: int,
        train_batch_size: int,
        augment: bool,
        **loading: Any,
    ):
        self._augment = augment and optimizer != "lbfgs"
        self._train = context.open(
            train_split, data=data, augment=self._augment, **loading
        )
        self._test = context.open(split, data=data, **loading)
        super().__init__(context, [self._train, self._test])
        self._num_classes = num_classes_of(self._splits, self.error)
        self._extractor = Extractor(context)
        self._optimizer, self._rate = optimizer, learning_rate
        self._momentum, self._decay = momentum, weight_decay
        self._epochs, self._warmup = epochs, warmup_epochs
        self._batch_size = train_batch_size
        self._check(len(self._train.loader.source))
        whole = replicated(context.mesh)
        self._score = jax.jit(_score, out_shardings=whole)
        self._statistics = jax.jit(probe_optim.statistics, out_shardings=whole)
        self._step: Any = None  # compiled once, in the first run

    @classmethod
    def results(cls, settings: Settings) -> tuple[str, ...]:
        """Of the test split, and the training loss at the end."""
        return ("accuracy", "top5", "loss", "train_loss")

    def run(self, params: Params, frozen: Params) -> dict[str, float]:
        """Returns what `results` names, and ``examples``; NaN if the probe diverged."""
        bank = self._bank(params, frozen, 0)
        if not bank.size:
            raise self.error(f"not one example of {self._train.name} is good")
        if self._optimizer == "lbfgs":
            probe, stats, train_loss = self._solve(bank)
        else:
            probe, stats, train_loss = self._descend(bank, params, frozen)
        counts, total = [], 0.0
        for rows, labels in self._extractor.batches(self._test, params, frozen):
            *counted, loss = self._score(probe, stats, rows, labels)
            counts.append(tuple(counted))
            total += float(loss)
        results = mean_scores(counts)
        results["loss"] = total / max(results["examples"], 1)
        results["train_loss"] = train_loss
        if math.isfinite(train_loss):
            return results
        return {name: math.nan for name in results}

    def _check(self, size: int) -> None:
        """Whether LARS can get anywhere: each step is a share of the kernel's norm.

        Raises:
          DataError: all steps together are less than the norm of the first kernel.
        """
        rows = min(self._batch_size, size)
        steps = self._epochs * (size // rows)
        share = self._rate * rows / 256 * probe_optim.TRUST / (1 - self._momentum)
        way = 0.5 * share * steps  # a half: the mean of the schedule
        if self._optimizer == "lars" and way < 1:
            raise self.error(
                f"with {size} examples of {self._train.name}, 'lars' takes {steps} "
                f"steps that move the kernel by {way:.2g} of its norm in all, too "
                "little to learn; set optimizer='lbfgs', which suits small sets, or "
                "raise learning_rate or epochs"
            )

    def _bank(self, params: Params, frozen: Params, epoch: int) -> Bank:
        drawn = epoch if self._augment else None
        return self._extractor.bank(self._train, params, frozen, drawn)

    def _initial(self, width: int) -> Probe:
        key = jax.random.key(self.context.seed)
        return probe_optim.init(key, width, self._num_classes)

    def _started(self, make: Callable[[], Any]) -> Any:
        """Makes arrays by a program: only so are they on the devices of others, too."""
        return jax.jit(make, out_shardings=replicated(self.context.mesh))()

    def _descend(
        self, bank: Bank, params: Params, frozen: Params
    ) -> tuple[Probe, Stats, float]:
        """LARS or SGD; returns the probe, running statistics and the last loss."""
        size, width = bank.size, bank.features.shape[-1]
        rows = min(self._batch_size, size)
        steps = size // rows  # in an epoch: what is left over waits for the next one
        tx = probe_optim.build(
            self._optimizer,
            learning_rate=self._rate * rows / 256,
            momentum=self._momentum,
            weight_decay=self._decay,
            warmup_steps=self._warmup * steps,
            total_steps=self._epochs * steps,
        )

        def start() -> tuple[Probe, Any, Stats]:
            probe = self._initial(width)
            return probe, tx.init(probe), Stats(jnp.zeros(width), jnp.ones(width))

        state = self._started(start)
        self._step = self._step or stepper(tx, self.context.mesh)
        loss: Any = math.nan
        for epoch in range(self._epochs):
            if epoch and self._augment:
                bank = self._bank(params, frozen, epoch)
            places = np.argwhere(bank.labels != NO_LABEL).astype(np.int32)
            order = np.random.default_rng((self.context.seed, epoch)).permutation(size)
            for number in range(steps):
                chosen = places[order[number * rows : (number + 1) * rows]]
                labels = bank.labels[chosen[:, 0], chosen[:, 1]]
                with self.context.compiles(epoch == number == 0):
                    state, loss = self._step(state, bank.features, chosen, labels)
                    jax.block_until_ready(loss)
                self.context.beat()
        return state[0], state[2], float(loss)

    def _solve(self, bank: Bank) -> tuple[Probe, Stats, float]:
        """L-BFGS to convergence; returns the probe, statistics and the objective."""
        if self._step is None:
            self._step = jax.jit(
                probe_optim.lbfgs_step(self._decay),
                out_shardings=replicated(self.context.mesh),
            )
        data = (bank.features, bank.labels)
        stats = self._statistics(bank.features, bank.labels != NO_LABEL)
        width = bank.features.shape[-1]

        def start() -> tuple[Probe, Any]:
            probe = jax.tree.map(jnp.zeros_like, self._initial(width))
            return probe, optax.lbfgs().init(probe)

        (probe, state), value = self._started(start), math.nan
        for number in range(self._epochs):
            with self.context.compiles(number == 0):
                probe, state, value, largest = self._step(probe, state, data, stats)
                jax.block_until_ready(value)
            self.context.beat()
            if largest < CONVERGED:
                break
        return probe, stats, float(value)


def stepper(tx: optax.GradientTransformation, mesh: jax.sharding.Mesh) -> Any:
    """The jitted step, which takes its rows from the devices that have them."""
    whole = replicated(mesh)
    step = probe_optim.sgd_step(tx)

    def run(state: Any, features: jax.Array, places: Any, labels: Any) -> Any:
        batch = features[places[:, 0], places[:, 1]]
        # Every device then computes the same: results do not depend on their number.
        batch = jax.lax.with_sharding_constraint(batch, whole)
        return step(state, batch, labels)

    return jax.jit(run, donate_argnums=0, out_shardings=whole)


def _score(probe: Probe, stats: Stats, rows: jax.Array, labels: jax.Array) -> Any:
    """Counts of `score`, and the sum of the losses."""
    logits = probe_optim.logits_of(probe, probe_optim.normalize(rows, stats))
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.maximum(labels, 0)
    )
    return *score(logits, labels), jnp.where(labels >= 0, losses, 0.0).sum()
