"""The teacher that a config's objective names: opened, built, read into its shards.

It is no part of a run's state: every start reads it again from its own place, and
`config.json` keeps a digest of it, so that a run does not go on with another one.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from vit_jax import digest
from vit_jax.config import ConfigError
from vit_jax.data.loader import Columns
from vit_jax.models import variants
from vit_jax.models.vit import ViT
from vit_jax.objectives.teachers import STORED, Stored, Teacher, between
from vit_jax.stored_logits import StoredLogits
from vit_jax.weights.base import Preprocessing, complete
from vit_jax.weights.build import fill
from vit_jax.weights.files import WeightsError
from vit_jax.weights.load import Checkpoint, open_checkpoint
from vit_jax.weights.surgery import fit
from vit_jax.weights.table import Leaf
from vit_jax.weights.workdir import find_step, locate


@dataclasses.dataclass(frozen=True)
class Model:
    """A teacher that is a ViT, its parameters not read yet.

    Args:
      place: where they come from, for people.
      checkpoint: what to read them from; None where a run is only planned, and where
        they are drawn.
      settings: complete keyword arguments of the ViT.
      preprocessing: of the images it was trained on.
      mean, std: of the images that the student gets.
    """

    place: str
    checkpoint: Checkpoint | None
    settings: Mapping[str, Any]
    preprocessing: Preprocessing
    mean: tuple[float, ...]
    std: tuple[float, ...]
    random_seed: int | None = None  # that they are drawn from

    columns: Columns = dataclasses.field(default_factory=dict)

    def build(self, key: jax.Array) -> Teacher:
        """The module; its parameters have their shapes and types, nothing more."""
        model = ViT(key=key, **self.settings)
        scale, offset = between(
            mean=self.mean,
            std=self.std,
            other_mean=self.preprocessing.mean,
            other_std=self.preprocessing.std,
        )
        return Teacher(
            _stored_small(model),
            image_size=self.settings["image_size"],
            scale=scale,
            offset=offset,
        )

    def load(self, shapes: Any, shardings: Any) -> Any:
        """The parameters, each read straight into its shards.

        Raises:
          WeightsError: one is missing, or they cannot be read.
        """
        if self.random_seed is not None:
            return jax.jit(self._draw, out_shardings=shardings)()
        if self.checkpoint is None:
            raise ConfigError(_unset())
        types = {path: leaf.dtype for path, leaf in _paths(shapes["model"]).items()}

        def missing(paths: Any) -> Any:
            raise WeightsError(
                f"{self.place}: a teacher needs all its parameters; missing: "
                f"{', '.join(paths)}"
            )

        model, _ = fill(
            shapes["model"],
            _paths(shardings["model"]),
            {
                path: _as_type(leaf, types[path])
                for path, leaf in self.checkpoint.leaves.items()
                if path in types
            },
            initial=missing,
            release=self.checkpoint.arrays,
        )
        return {"model": model}

    def _draw(self) -> dict[str, Any]:
        """Parameters of a model that knows nothing, but does not answer all alike."""
        assert self.random_seed is not None
        model_key, head_key = jax.random.split(jax.random.key(self.random_seed))
        model = _stored_small(ViT(key=model_key, **self.settings))
        params = nnx.to_pure_dict(nnx.state(model))
        kernel = params["head"]["kernel"]  # zeros, as every head begins
        drawn = jax.random.normal(head_key, kernel.shape, kernel.dtype)
        params["head"]["kernel"] = drawn / kernel.shape[0] ** 0.5
        return {"model": params}

    def check_covers(self, num_examples: Callable[[], int]) -> None:
        """It knows any image."""

    def identity(self, params: Any) -> dict[str, str]:
        """What it is and where it was: equal numbers have one digest on any mesh."""
        digests = digest.of_tree(params)
        text = "".join(f"{name}={digests[name]};" for name in sorted(digests))
        return {"digest": digest.seal(text), "from": self.place}


@dataclasses.dataclass(frozen=True)
class Logits:
    """A teacher that is a file of its answers."""

    place: str
    table: StoredLogits

    @property
    def columns(self) -> Columns:
        """What the loader adds to a batch."""
        return {STORED: self.table.rows}

    def build(self, key: jax.Array) -> Stored:
        """The module, which has no parameters."""
        return Stored()

    def load(self, shapes: Any, shardings: Any) -> Any:
        """There is nothing to load."""
        return {}

    def check_covers(self, num_examples: Callable[[], int]) -> None:
        """Raises unless every example of data.split has its logits.

        Raises:
          DataError: one has not.
        """
        self.table.check_covers(num_examples())

    def identity(self, params: Any) -> dict[str, str]:
        """What the file holds and where it was."""
        return {"digest": self.table.checksum(), "from": self.place}


Source = Model | Logits


def find(config: ConfigDict, *, planned: bool = False) -> Source | None:
    """Opens the teacher of a config's objective; None where that has none.

    Args:
      config: resolved.
      planned: nothing will be read: ``teacher.variant`` will do in place of weights.

    Raises:
      ConfigError: it is not named, or does not go with the student.
      WeightsError: it cannot be read.
    """
    if "teacher" not in config.objective:
        return None
    section = config.objective.teacher
    if section.logits:
        table = StoredLogits(section.logits)
        if table.num_classes != config.model.num_classes:
            raise ConfigError(_other_classes(section.logits, table.num_classes, config))
        return Logits(section.logits, table)
    if section.path:
        return _open(config)
    if section.variant and (planned or section.random_seed is not None):
        return _imagined(config)
    raise ConfigError(_unset())


def place(
    source: Source | None,
    init: Callable[[jax.Array], dict[str, Any]],
    key: jax.Array,
    shapes: Mapping[str, Any],
    shardings: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Mapping[str, str]]]:
    """An objective's frozen parameters in their shards, and what was loaded of them.

    Args:
      source: of the teacher; what else is frozen comes from ``init(key)``.
      init: makes all frozen parameters.
      key: of the run's initialisation.
      shapes, shardings: of the frozen parameters, by part.
    """
    name = "teacher"
    made = [part for part in shapes if source is None or part != name]
    frozen = jax.jit(
        lambda key: {part: init(key)[part] for part in made},
        out_shardings={part: shardings[part] for part in made},
    )(key)
    if source is None:
        return frozen, {}
    taught = source.load(shapes[name], shardings[name]) if name in shapes else {}
    if taught:
        frozen[name] = taught
    return frozen, {name: source.identity(taught)}


def batch_shapes(config: ConfigDict, rows: int, place: Any) -> dict[str, Any]:
    """Shapes of what a teacher adds to a batch, without opening it."""
    if "teacher" not in config.objective or not config.objective.teacher.logits:
        return {}
    shape = (rows, config.model.num_classes)
    return {STORED: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place)}


def _unset() -> str:
    return (
        "objective.teacher.path is not set: a work directory, or weights in any format "
        "that is read; or objective.teacher.logits, a file of logits by example id"
    )


def _other_classes(path: str, theirs: int, config: ConfigDict) -> str:
    return (
        f"the teacher {path} has {theirs} classes, model.num_classes is "
        f"{config.model.num_classes}; they must be the same classes in the same order"
    )


def _open(config: ConfigDict) -> Model:
    section = config.objective.teacher
    size = None if section.image_size is None else _pair(section.image_size)
    step: int | str = "latest"
    place = section.path
    if (run := locate(section.path)) is not None:
        step = find_step(run[0]) if run[1] is None else run[1]
        place = f"{run[0]}, step {step}{', averaged' if section.ema else ''}"
    checkpoint = open_checkpoint(
        section.path,
        num_heads=section.num_heads,
        image_size=size,
        step=step,
        ema=section.ema,
    )
    settings = _settings(config, checkpoint.settings)
    if size is not None:
        settings["image_size"] = size
    leaves, _ = fit(checkpoint.settings, checkpoint.leaves, settings)
    checkpoint = dataclasses.replace(checkpoint, leaves=leaves)
    if settings["num_classes"] != config.model.num_classes:
        raise ConfigError(_other_classes(place, settings["num_classes"], config))
    if settings["channels"] != config.model.channels:
        raise ConfigError(
            f"the teacher {place} takes images of {settings['channels']} channels, "
            f"model.channels is {config.model.channels}"
        )
    return Model(
        place,
        checkpoint,
        settings,
        checkpoint.inferred.preprocessing,
        tuple(config.data.mean),
        tuple(config.data.std),
    )


def _pair(size: tuple[int, ...]) -> tuple[int, int]:
    """Height and width; one value means a square."""
    return (size[0], size[-1])


def _imagined(config: ConfigDict) -> Model:
    """A plain ViT of ``teacher.variant`` with the student's images: plans, trials."""
    model = config.model
    settings = variants.resolve(
        variant=config.objective.teacher.variant,
        image_size=model.image_size,
        channels=model.channels,
        num_classes=model.num_classes,
    )
    mean, std = tuple(config.data.mean), tuple(config.data.std)
    section = config.objective.teacher
    seed = section.random_seed
    drawn = "" if seed is None else f" of random parameters, seed {seed}"
    return Model(
        f"a ViT {section.variant}{drawn}",
        None,
        _settings(config, complete(settings)),
        Preprocessing(settings["image_size"], mean, std),
        mean,
        std,
        seed,
    )


def _settings(config: ConfigDict, settings: Mapping[str, Any]) -> dict[str, Any]:
    """How the teacher computes; what it computes is in its own settings."""
    return {
        **settings,
        "dtype": config.objective.teacher.dtype,
        # A kernel that takes the student's heads may not take the teacher's.
        "attention": "xla" if config.model.attention == "xla" else "auto",
        "unroll": min(config.model.unroll, settings["depth"]),
        "remat": "none",
    }


def _stored_small(model: ViT) -> ViT:
    """Keeps kernels and biases in the type that they are used in.

    Those of norms, heads and positions are used in float32. The model computes the very
    same numbers, of a bfloat16 teacher with half the memory.
    """
    dtype = jnp.dtype(model.settings.dtype)

    def store(path: Any, leaf: Any) -> Any:
        *parents, name = jax.tree_util.keystr(path, simple=True, separator="/").split(
            "/"
        )
        inside = parents[:1] in (["blocks"], ["embedding"])
        if not inside or name not in ("kernel", "bias") or "norm" in parents[-1]:
            return leaf
        return leaf.astype(dtype)

    graphdef, state = nnx.split(model)
    params = jax.tree_util.tree_map_with_path(store, nnx.to_pure_dict(state))
    return nnx.merge(graphdef, params)


def _as_type(leaf: Leaf, dtype: Any) -> Leaf:
    """The same leaf; its numbers are rounded as they are read."""
    return Leaf(leaf.shape, lambda index: np.asarray(leaf.read(index), dtype))


def _paths(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in leaves
    }
