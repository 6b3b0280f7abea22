"""Starting a run from other weights: `model.init_from`, in any readable format."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from vit_jax.config import ConfigError, from_json
from vit_jax.models import variants
from vit_jax.run_files import read_config
from vit_jax.weights.base import TRAINING_ONLY
from vit_jax.weights.build import by_path, fill
from vit_jax.weights.files import WeightsError
from vit_jax.weights.load import Checkpoint, open_checkpoint
from vit_jax.weights.surgery import fit
from vit_jax.weights.table import Leaf
from vit_jax.weights.workdir import steps

SOURCE = variants.SOURCE

# Of a source's settings, what a run decides for itself. All else comes from the source
# where `model.variant` is "source".
_OWN = TRAINING_ONLY | {"image_size", "num_classes", "pre_logits"}


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """Weights that fit the run's parameters, not read yet."""

    path: str
    checkpoint: Checkpoint
    leaves: Mapping[str, Leaf]
    changed: Mapping[str, str]

    def load(self, state: Any, *, say: Callable[[str], None]) -> Any:
        """The state with these parameters, each read straight into its shards.

        What the weights do not have stays at its initial value; all of that, what was
        changed and what was not used is said.
        """
        old = by_path(state.params)
        for path in self.leaves:
            old[path].delete()  # its memory is for the one that is read
        shapes = state.params
        places = {path: array.sharding for path, array in old.items()}
        params, missing = fill(
            shapes,
            places,
            self.leaves,
            initial=lambda paths: {path: old[path] for path in paths},
            release=self.checkpoint.arrays,
        )
        say(self._summary(len(old), missing))
        ema = jax.tree.map(lambda leaf: leaf.copy(), params) if state.ema else {}
        return state.replace(params=params, ema=ema)

    def _summary(self, total: int, missing: tuple[str, ...]) -> str:
        used = {path.removeprefix("encoder/") for path in self.leaves}
        left = [path for path in self.checkpoint.leaves if path not in used]
        left += [path for path in self.checkpoint.extras if path not in self.leaves]
        left += self.checkpoint.arrays.unused
        lines = [
            f"parameters from {self.path} ({self.checkpoint.format}): "
            f"{total - len(missing)} of {total} arrays"
        ]
        lines += [f"  {path}: {what}" for path, what in self.changed.items()]
        for what, paths in (("new", missing), ("not used", left)):
            if paths:
                lines.append(f"  {what}: {', '.join(paths)}")
        return "\n".join(lines)


def adopt(config: ConfigDict, workdir: epath.Path) -> ConfigDict:
    """A config whose model is the source's, where ``model.variant`` is ``"source"``.

    Sizes, GELU kind, epsilon, pooling and all else that weights depend on come from
    ``model.init_from``, and so do mean and std. Settings that the config gives for
    width, depth, heads and patch size stay. A run that exists has its model already.

    Raises:
      ConfigError: there is no ``model.init_from``.
      WeightsError: it cannot be read.
    """
    if config.model.variant != SOURCE:
        return config
    config = config.copy_and_resolve_references().unlock()
    if (saved := workdir / "config.json").exists():
        before = from_json(read_config(saved)["config"])
        if before.model.init_from == config.model.init_from:
            for name in set(before.model) - _OWN:
                config.model[name] = before.model[name]
            config.data.mean, config.data.std = before.data.mean, before.data.std
            return config.lock()
    checkpoint = _open(config)
    for name in checkpoint.settings.keys() & set(config.model) - _OWN:
        given = name in variants.REPLACEABLE and config.model[name] is not None
        if not given:
            config.model[name] = checkpoint.settings[name]
    preprocessing = checkpoint.inferred.preprocessing
    config.data.mean, config.data.std = preprocessing.mean, preprocessing.std
    return config.lock()


def _open(config: ConfigDict) -> Checkpoint:
    model = config.model
    if not model.init_from:
        raise ConfigError(
            [
                f"model.variant {SOURCE!r} takes the model from model.init_from, which "
                "is not set: --config.model.init_from=PATH"
            ]
        )
    return open_checkpoint(model.init_from, num_heads=model.num_heads, image_size=None)


def prepare(
    config: ConfigDict, shapes: Any, workdir: str | os.PathLike
) -> WarmStart | None:
    """Opens ``model.init_from`` and fits it to the parameters.

    None where it is unset, and where the run has a checkpoint to go on from.

    Raises:
      WeightsError: it cannot be read or does not fit; nothing was read or written.
    """
    if not config.model.init_from or steps(str(workdir)):
        return None
    checkpoint = _open(config)
    settings = {name: value for name, value in config.model.items()}
    del settings["init_from"]
    encoder, changed = fit(
        checkpoint.settings, checkpoint.leaves, variants.resolve(**settings)
    )
    wanted = by_path(shapes)
    leaves = {
        path: leaf
        for path, leaf in (
            *((f"encoder/{path}", leaf) for path, leaf in encoder.items()),
            *checkpoint.extras.items(),
        )
        if path in wanted
    }
    if not leaves:
        raise WeightsError(f"{config.model.init_from}: nothing in it fits the model")
    return WarmStart(config.model.init_from, checkpoint, leaves, changed)
