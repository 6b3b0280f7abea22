"""Which data sets there are by name, and the command that prepares one."""

import difflib
import functools
import re

OWN_BUILDERS = ("digits",)  # of vit_jax.data.builders


def split_name(name: str) -> tuple[str, str | None]:
    """``"cifar10:3.0.2"`` to its folder and version; a config stays in the folder."""
    folder, _, version = name.partition(":")
    return folder, version or None


def prepare_command(name: str, dir: str | None) -> str:
    """The command that prepares a data set."""
    return f"vit-jax prepare {name}" + (f" --data_dir={dir}" if dir else "")


def convert_command(name: str, dir: str | None) -> str:
    """The command that turns a set in TFRecord into ArrayRecord."""
    return f"{prepare_command(name, dir)} --convert"


@functools.cache
def known_names() -> tuple[str, ...]:
    """Every data set that TFDS or this package can build (no TensorFlow needed)."""
    import tensorflow_datasets as tfds

    catalogue = tfds.list_builders(with_community_datasets=False)
    return tuple(sorted({*catalogue, *OWN_BUILDERS}))


def unknown_name(name: str) -> str:
    """The message for a data set that nobody knows, with the nearest names."""
    base = re.split(r"[/:]", name)[0]
    if re.fullmatch(r"imagenet[_-]?(21|22)k.*", base.lower()):
        return (
            f"{name!r}: ImageNet-21k is not in TFDS; write a TFDS builder for your "
            "copy, prepare it with file_format='array_record' in the data directory, "
            "and set data.name to its name"
        )
    near = difflib.get_close_matches(base, known_names(), n=3)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    return f"unknown data set {name!r}{hint} (TFDS names, and digits)"
