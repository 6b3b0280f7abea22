"""What the npz files of google-research's two ViT codebases have in common.

Both keep Flax Linen's arrays under the names of its modules, in the shapes that this
package has too, so that every row is an equality of names.
"""

import dataclasses
import os
import pathlib
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vit_jax.weights.arrays import Arrays
from vit_jax.weights.codecs import same
from vit_jax.weights.files import WeightsError
from vit_jax.weights.table import Row

# Where a file may keep the model: bare, in a train state, in an old Flax optimizer, and
# within each as the image tower of a model with two.
TREES = tuple(
    state + tower for state in ("", "params/", "opt/target/") for tower in ("", "img/")
)

# Numbers in LayerNorm_, MultiHeadDotProductAttention_, LayerNorm_ and MlpBlock_ of a
# block. Flax counted all modules at first, and each class by itself since Linen.
PRE_LINEN, LINEN = (0, 1, 2, 3), (0, 0, 1, 0)

Names = Mapping[str, str]  # theirs within the tree -> ours


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a file names the encoder.

    Args:
      tree: what precedes every name, one of ``TREES``.
      numbers: of the modules in a block, ``PRE_LINEN`` or ``LINEN``.
      scan: whether all blocks are in one, stacked on a leading axis.
    """

    tree: str
    numbers: tuple[int, int, int, int]
    scan: bool = False

    @property
    def blocks(self) -> str:
        """Before the names of a block's modules; ``{i}`` is its number."""
        return f"{self.tree}Transformer/encoderblock{'' if self.scan else '_{i}'}/"

    def block(self, name: str, index: int = 0) -> str:
        """A name within one block."""
        return self.blocks.replace("{i}", str(index)) + name


def find_layout(arrays: Arrays) -> Layout | None:
    """The layout of a file's encoder; None where it has none of these names."""
    for tree in TREES:
        if f"{tree}embedding/kernel" not in arrays:
            continue
        for scan in (False, True):
            for numbers in (LINEN, PRE_LINEN):
                layout = Layout(tree, numbers, scan)
                query = f"MultiHeadDotProductAttention_{numbers[1]}/query/kernel"
                if layout.block(query) in arrays:
                    return layout
    return None


def norm(theirs: str, ours: str) -> Names:
    """Names of a normalisation's parameters."""
    return {f"{theirs}/{leaf}": f"{ours}/{leaf}" for leaf in ("scale", "bias")}


def dense(theirs: str, ours: str) -> Names:
    """Names of a dense layer's parameters, or of a convolution's."""
    return {f"{theirs}/{leaf}": f"{ours}/{leaf}" for leaf in ("kernel", "bias")}


def attention(theirs: str, ours: str) -> Names:
    """Names of the four projections of attention."""
    names: dict[str, str] = {}
    for part in ("query", "key", "value", "out"):
        names |= dense(f"{theirs}/{part}", f"{ours}/{part}")
    return names


def mlp(theirs: str, ours: str) -> Names:
    """Names of an MLP's two layers."""
    return {
        **dense(f"{theirs}/Dense_0", f"{ours}/hidden"),
        **dense(f"{theirs}/Dense_1", f"{ours}/out"),
    }


def head_names(settings: Mapping[str, Any]) -> dict[str, str]:
    """Names of the layers after pooling, those a model has."""
    names: dict[str, str] = {}
    if settings["pre_logits"]:
        names |= dense("pre_logits", "pre_logits")
    if settings["num_classes"]:
        names |= dense("head", "head")
    return names


def rows(layout: Layout, names: Names) -> list[Row]:
    """Rows of the patches, the blocks and the last norm, and of further ``names``."""
    first, attends, second, block_mlp = layout.numbers
    in_block = {
        **norm(f"LayerNorm_{first}", "blocks/attention_norm"),
        **attention(f"MultiHeadDotProductAttention_{attends}", "blocks/attention"),
        **norm(f"LayerNorm_{second}", "blocks/mlp_norm"),
        **mlp(f"MlpBlock_{block_mlp}", "blocks/mlp"),
    }
    outside = {
        **dense("embedding", "embedding"),
        **norm("Transformer/encoder_norm", "norm"),
        **names,
    }
    return [
        *(Row(layout.tree + theirs, (ours,), same) for theirs, ours in outside.items()),
        *(
            Row(layout.blocks + theirs, (ours,), same, stacked=layout.scan)
            for theirs, ours in in_block.items()
        ),
    ]


def sizes(arrays: Arrays, layout: Layout, num_heads: int | None) -> dict[str, Any]:
    """Settings that the shapes of the patches, blocks and head tell.

    Raises:
      WeightsError: a shape is not one of these codebases', or there are not
        ``num_heads`` heads.
    """
    tree = layout.tree
    query = layout.block(
        f"MultiHeadDotProductAttention_{layout.numbers[1]}/query/kernel"
    )
    hidden = layout.block(f"MlpBlock_{layout.numbers[3]}/Dense_0/kernel")
    *patch_size, channels, width = shape(
        arrays, f"{tree}embedding/kernel", "height, width, channels, features"
    )
    axes = "features, heads, features of a head"
    *_, heads, head_dim = shape(arrays, query, "layers, " * layout.scan + axes)
    if num_heads not in (None, heads):
        raise WeightsError(f"{arrays.name}: has {heads} heads, not {num_heads}")
    if heads * head_dim != width:
        raise WeightsError(
            f"{arrays.name}: has {heads} heads of {head_dim} in a width of {width}; "
            "only heads that fill the width can be loaded"
        )
    return {
        "patch_size": tuple(patch_size),
        "channels": channels,
        "width": width,
        "depth": (
            arrays.shape(query)[0]
            if layout.scan
            else arrays.count(f"{tree}Transformer/encoderblock_")
        ),
        "mlp_dim": shape(arrays, hidden, "layers, " * layout.scan + "in, out")[-1],
        "num_heads": heads,
        "pre_logits": _features(arrays, f"{tree}pre_logits/bias"),
        "num_classes": _features(arrays, f"{tree}head/bias"),
    }


def shape(arrays: Arrays, name: str, axes: str) -> tuple[int, ...]:
    """An array's shape, checked to have as many axes as are named.

    Raises:
      WeightsError: there is no such array, or it has other axes.
    """
    found = arrays.shape(name)
    if len(found) != len(axes.split(", ")):
        raise WeightsError(f"{arrays.name}: {name} is {found}; it should be [{axes}]")
    return found


def _features(arrays: Arrays, bias: str) -> int:
    """Outputs of a layer that may be there."""
    return shape(arrays, bias, "features")[0] if bias in arrays else 0


def save_npz(path: pathlib.Path, arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Writes an uncompressed npz file, whole or not at all; one array is in memory.

    Raises:
      WeightsError: the path is taken, or would not be opened as npz again.
    """
    if path.suffix != ".npz":
        raise WeightsError(f"{path}: the name of this format's files ends in .npz")
    if path.exists():
        raise WeightsError(f"{path} exists and is not overwritten; choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, array in arrays:
                # An entry's own date would make every file of the same numbers another.
                entry = zipfile.ZipInfo(f"{name}.npy")
                with archive.open(entry, "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
