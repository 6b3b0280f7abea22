"""What an evaluator is, and what it is given to work with."""

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from vit_jax.data.errors import DataError
from vit_jax.data.mixing import flip, normalize
from vit_jax.data.pipeline import Loader, eval_batches
from vit_jax.data.rows import BadExample
from vit_jax.objectives.base import merge

Params = dict[str, Any]
Settings = Mapping[str, Any]
Range = tuple[Callable[[Any], bool], str]  # whether a setting fits, and what would


@runtime_checkable
class Evaluator(Protocol):
    """Measures a set of parameters; exact on any number of devices.

    A class is built with a `Context` and the settings of its config entry. It also has
    ``RANGES``, the settings that are numbers and which, and ``results``.
    """

    def run(self, params: Params, frozen: Params) -> dict[str, float]:
        """Returns named numbers, such as ``{"accuracy": 0.97}``."""
        ...

    def take_bad(self) -> list[BadExample]:
        """Damaged examples that were left out, since the last call."""
        ...

    def take_images(self) -> dict[str, np.ndarray]:
        """Pictures of the last `run`, uint8 ``[H, W, 3]`` by name; mostly none."""
        ...

    def close(self) -> None:
        """Frees threads and files."""
        ...


class Split(NamedTuple):
    """A split of a data set, opened for an evaluation."""

    loader: Loader
    name: str  # for messages
    num_classes: int | None
    class_names: tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class Context:
    """What every evaluator of a run works with.

    Args:
      name: of the entry in the config's `evals`, for messages.
      graphdef: structure of the objective (`objectives.base.split`).
      mean, std: normalisation of pixels, as in training.
      num_classes, class_names: of the model's logits; the names where they are known.
      mesh: of the run.
      seed: of the run.
      open: opens a split: ``open(split, data=, label_key=, many=, augment=)``; unset is
        the run's own data set and its labels.
      beat: called when something was done, often; what it raises ends the evaluation.
      compiling: called with True before a program is compiled, False after it.
    """

    name: str
    graphdef: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_classes: int
    class_names: tuple[str, ...] | None
    mesh: jax.sharding.Mesh
    seed: int
    open: Callable[..., Split]
    beat: Callable[[], None] = lambda: None
    compiling: Callable[[bool], None] = lambda begins: None

    def predict(
        self,
        params: Params,
        frozen: Params,
        images: jax.Array,
        key: jax.Array | None = None,
    ) -> Any:
        """The objective's outputs for uint8 images, mirrored by a key; for tracing."""
        pixels = normalize(images, self.mean, self.std)
        if key is not None:
            pixels = flip(pixels, key)
        return merge(self.graphdef, params, frozen).predict(pixels)

    def batches(
        self, loader: Loader, *, epoch: int = 0
    ) -> contextlib.closing[Generator[dict[str, jax.Array]]]:
        """Every example once, `eval_batches`, as a context that ends the reading."""
        return contextlib.closing(eval_batches(loader, epoch=epoch))

    @contextlib.contextmanager
    def compiles(self, is_first: bool) -> Generator[None]:
        """Around the first call of a program, which may take long."""
        if is_first:
            self.compiling(True)
        try:
            yield
        finally:
            if is_first:
                self.compiling(False)


class OnSplits:
    """What evaluators share that read splits: damaged examples, and the end."""

    RANGES: ClassVar[Mapping[str, Range]] = {}
    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(self, context: Context, splits: Iterable[Split]):
        self.context, self._splits = context, tuple(splits)

    @classmethod
    def results(cls, settings: Settings) -> tuple[str, ...]:
        """Names of what `run` returns with these settings."""
        raise NotImplementedError(f"{cls.__name__} does not define results")

    def take_bad(self) -> list[BadExample]:
        """Damaged examples that were left out, since the last call."""
        return [bad for split in self._splits for bad in split.loader.take_bad()]

    def take_images(self) -> dict[str, np.ndarray]:
        """Pictures of the last `run`."""
        return {}

    def close(self) -> None:
        """Ends the loaders' threads."""
        for split in self._splits:
            split.loader.close()

    def error(self, text: str) -> DataError:
        """An error that says which evaluation it comes from."""
        return DataError(f"evals.{self.context.name}: {text}")


def at_least(low: int) -> Range:
    """Whole numbers from ``low`` on."""
    return lambda value: type(value) is int and value >= low, f"at least {low}"


def positive(value: Any) -> bool:
    """A finite number above zero."""
    return 0 < value < float("inf")


POSITIVE: Range = (positive, "positive and finite")
NOT_NEGATIVE: Range = (
    lambda value: 0 <= value < float("inf"),
    "finite and not negative",
)
SHARE: Range = (lambda value: 0 <= value < 1, "in [0, 1)")
