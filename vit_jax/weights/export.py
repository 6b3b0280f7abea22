"""Writing weights for others, and checking that they compute the same there."""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from safetensors import SafetensorError

from vit_jax.models.vit import ViT
from vit_jax.weights import (
    big_vision_npz,
    foreign,
    huggingface,
    litert,
    onnx,
    original_npz,
    savedmodel,
    serving,
    stablehlo,
    tensorflow,
    timm,
    workdir,
)
from vit_jax.weights.base import Card
from vit_jax.weights.files import WeightsError
from vit_jax.weights.foreign import NotChecked
from vit_jax.weights.load import Record, load, open_checkpoint

Say = Callable[[str], Any]

IMAGES = 4  # with which the other library is compared
TORCH_FILES = (".pth", ".pt", ".bin")


@dataclasses.dataclass(frozen=True)
class Target:
    """A way of writing a model.

    Args:
      write: writes a model to a path where nothing is.
      run: what was written, on normalised images: outputs, and which library computed
        them. Raises NotChecked where the library is absent.
      suffix: of the file's name; "" for a folder.
      tolerance: the largest difference of outputs.
      batch: sizes that are taken, in a word.
      require: raises WeightsError where something is missing to write it; is given the
        command, the source and ``say``.
    """

    write: Callable[[pathlib.Path, ViT, Card], None]
    run: Callable[[pathlib.Path, foreign.Images], foreign.Outputs]
    suffix: str = ""
    tolerance: float = 1e-4
    batch: str = "batch"
    require: Callable[[Sequence[str], str, Say], None] = lambda *_: None


class Parameters(Mapping[str, np.ndarray]):
    """A model's parameters by path, on the host while they are looked at."""

    def __init__(self, model: ViT):
        self._arrays = serving.name_parameters(model)

    def __getitem__(self, name: str) -> np.ndarray:
        return np.asarray(self._arrays[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def _of_model(write: Callable[..., None]) -> Callable[[pathlib.Path, ViT, Card], None]:
    """A format's writer of settings and parameters as one of a model."""

    def write_model(path: pathlib.Path, model: ViT, card: Card) -> None:
        write(path, serving.settings_of(model), Parameters(model), card)

    return write_model


def _require_jax2onnx(command: Sequence[str], source: str, say: Say) -> None:
    if onnx.is_available():
        return
    torch = pathlib.PurePath(source).suffix in TORCH_FILES
    for line in onnx.instructions(command, torch=torch):
        say(line)
    raise WeightsError(
        "--to=onnx needs jax2onnx, whose orbax-checkpoint is older than this "
        "environment's; run the commands above, which make it one of its own"
    )


def _require_tensorflow(command: Sequence[str], source: str, say: Say) -> None:
    tensorflow.import_tensorflow()


TARGETS = {
    "npz": Target(_of_model(original_npz.write), foreign.run_reloaded, ".npz"),
    "big_vision": Target(_of_model(big_vision_npz.write), foreign.run_reloaded, ".npz"),
    "timm": Target(_of_model(timm.write), foreign.run_timm),
    "huggingface": Target(_of_model(huggingface.write), foreign.run_transformers),
    "stablehlo": Target(stablehlo.write, stablehlo.run),
    "savedmodel": Target(savedmodel.write, savedmodel.run, require=_require_tensorflow),
    "onnx": Target(onnx.write, onnx.run, ".onnx", require=_require_jax2onnx),
    "litert": Target(
        litert.write,
        litert.run,
        ".tflite",
        tolerance=1e-3,
        batch="1",
        require=_require_tensorflow,
    ),
}
SINGLE_FILE = {
    "stablehlo": Target(stablehlo.write_single_file, stablehlo.run, ".stablehlo"),
}


def export(
    source: str,
    output: str,
    *,
    to: str,
    single_file: bool = False,
    licence: str = "",
    step: int | str = "latest",
    ema: bool = False,
    num_heads: int | None = None,
    num_classes: int | None = None,
    image_size: tuple[int, int] | None = None,
    say: Say = print,
) -> float | None:
    """Writes weights in another format and compares what the other side computes.

    Args:
      source: a work directory, or anything that `load` reads.
      output: a new file or folder; it is there in the end only if it was right.
      to: a name of ``TARGETS``.
      single_file: parameters inside the program, where the format has both ways.
      licence: for the card.
      step, ema: which parameters of a work directory.
      num_heads, num_classes, image_size: as of `load`.
      say: is given each line of the report.

    Returns:
      The largest difference of logits (of features if there is no head), or None where
      the other library is not installed.

    Raises:
      WeightsError: the source cannot be read, the format has no place for the model,
        something is missing, the output exists, or the outputs differ.
    """

    def tell(line: str) -> None:
        say(_printable(line))

    target = _find(to, single_file)
    place = _check_place(output, target)
    if (run := workdir.locate(source)) is not None:
        step = workdir.find_step(run[0], step if run[1] is None else run[1])
    reading = {"num_heads": num_heads, "image_size": image_size}
    opened = open_checkpoint(source, **reading, step=step, ema=ema)
    reading["num_classes"] = num_classes
    flags = {"to": to, "licence": licence or None}
    if run and set(reading.values()) == {None}:
        flags |= {"workdir": source, "output": output, "step": step, "ema": ema}
        command = ["export", *_flags(flags)]
    else:
        command = ["convert", source, output, *_flags(flags | reading)]
    target.require(command, source, tell)
    model, record = load(source, **reading, step=step, ema=ema)
    for line in _surprises(record):
        tell(line)
    card = dataclasses.replace(
        opened.card,
        preprocessing=record.preprocessing,
        class_names=record.class_names,
        licence=licence,
    )
    difference, verdict, files = _write(target, place, model, card)
    tell(f"wrote {output}: {files}")
    for line in _description(target, model, card):
        tell(line)
    tell(verdict)
    return difference


def _find(to: str, single_file: bool) -> Target:
    if to not in TARGETS:
        raise WeightsError(f"--to={to} is unknown; known: {', '.join(TARGETS)}")
    if not single_file:
        return TARGETS[to]
    if to not in SINGLE_FILE:
        raise WeightsError(
            f"--single_file is for --to={', '.join(SINGLE_FILE)}, not for {to}"
        )
    return SINGLE_FILE[to]


def _check_place(output: str, target: Target) -> pathlib.Path:
    """Where the output goes: a local path that is free and ends as it has to."""
    if "://" in output:
        raise WeightsError(f"{output}: name a local path, and copy it from there")
    place = pathlib.Path(output).expanduser()
    if place.exists() or place.is_symlink():
        raise WeightsError(f"{output} exists and is not overwritten; name a new path")
    if target.suffix and place.suffix != target.suffix:
        raise WeightsError(
            f"{output}: the name of this file must end in {target.suffix}"
        )
    return place


def _flags(values: Mapping[str, Any]) -> Iterator[str]:
    """Values as the command line has them."""
    for name, value in values.items():
        if isinstance(value, tuple):
            value = "x".join(map(str, value))
        if value is True:
            yield f"--{name}"
        elif value is not None and value is not False:
            yield f"--{name}={value}"


def _printable(line: str) -> str:
    """Names come from files and may hold anything."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def _surprises(record: Record) -> Iterator[str]:
    """A line each for what was not used, not there, or changed."""
    if record.unused:
        yield f"not used: {_some(record.unused)}"
    if record.missing:
        yield f"not in the source, at initial values: {_some(record.missing)}"
    if record.changed:
        changes = [f"{name} ({what})" for name, what in record.changed.items()]
        yield f"changed: {_some(changes)}"


def _some(names: Sequence[str], most: int = 6) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _write(
    target: Target, place: pathlib.Path, model: ViT, card: Card
) -> tuple[float | None, str, str]:
    """Writes beside the place, compares, and moves there what is right."""
    with _draft_folder(place) as folder:
        draft = pathlib.Path(folder) / place.name
        target.write(draft, model, card)
        files = _sizes(draft.parent)
        try:
            difference, allowed, library = compare(target, draft, model)
        except NotChecked as reason:
            difference, verdict = None, f"not checked, because {reason}"
        else:
            what = serving.output_name(model).removesuffix("s")
            verdict = (
                f"checked with {library}: largest {what} difference "
                f"{difference:.1e} over {IMAGES} images"
            )
            if not difference <= allowed:  # nor is NaN
                raise WeightsError(
                    f"{place} was not kept; {verdict}, more than {allowed:.1e}"
                )
        moves = {file: place.parent / file.name for file in draft.parent.iterdir()}
        if taken := [str(end) for end in moves.values() if end.exists()]:
            raise WeightsError(f"{_some(taken)} exists and is not overwritten")
        for file, end in moves.items():
            file.rename(end)
    return difference, verdict, files


@contextlib.contextmanager
def _draft_folder(place: pathlib.Path) -> Iterator[str]:
    """A folder beside ``place``, gone in the end; a failing disk is one line."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=place.parent) as folder:
            yield folder
    except (OSError, SafetensorError) as error:  # full, or read-only
        raise WeightsError(f"{place} cannot be written: {error}") from None


def _sizes(folder: pathlib.Path) -> str:
    """Files in a folder and how large they are."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return _some([f"{file.name} {_size(file.stat().st_size)}" for file in files], 8)


def _size(number: int) -> str:
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= one:
            return f"{number / one:.3g} {unit}"
    return f"{number} bytes"


def _description(target: Target, model: ViT, card: Card) -> Iterator[str]:
    """A line each for what goes in and what comes out."""
    shape = ", ".join(map(str, (target.batch, *serving.image_shape(model))))
    how = serving.preparation(card.preprocessing)
    yield f"input: float32 [{shape}] (height, width, channels last); {how}"
    shape = f"{target.batch}, {serving.output_width(model)}"
    names = f"; classes: {_some(card.class_names)}" if card.class_names else ""
    yield f"output: {serving.output_name(model)}, float32 [{shape}]{names}"


def compare(target: Target, path: pathlib.Path, model: ViT) -> tuple[float, float, str]:
    """Compares what was written with the model, on random images.

    Returns:
      The largest difference of an output; the largest that is allowed, which grows
      with outputs beyond 1 as rounding does; which library computed the other side.

    Raises:
      NotChecked: the other library is not installed.
      WeightsError: its outputs are of another shape.
    """
    generator = np.random.default_rng(0)
    images = generator.normal(size=(IMAGES, *serving.image_shape(model)))
    images = images.astype(np.float32)
    graphdef, state = nnx.split(model)

    @jax.jit
    def apply(state: Any, images: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, state)(images)

    with jax.default_matmul_precision("highest"):
        expected = np.asarray(apply(state, images))
    outputs, library = target.run(path, images)
    if outputs.shape != expected.shape:
        raise WeightsError(
            f"{library} computes {outputs.shape} from {path.name}, not {expected.shape}"
        )
    difference = float(np.abs(outputs - expected).max())
    return (
        difference,
        target.tolerance * max(1.0, float(np.abs(expected).max())),
        library,
    )
