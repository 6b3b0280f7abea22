"""Outputs of written weights from the libraries they were written for."""

import contextlib
import importlib
import json
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vit_jax.weights.load import load

Images = Float[np.ndarray, "B H W C"]
Outputs = tuple[Float[np.ndarray, "B K"], str]  # and which library computed them

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_DECLARED: list[Any] = []  # a library's operators go when it does


class NotChecked(Exception):
    """The library is not there or does not work; the message says why."""


def import_library(name: str, *, pip: str | None = None) -> Any:
    """A library that may be absent, or not fit another that is there.

    Raises:
      NotChecked: it cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            reason = f"{name} is not installed (pip install {pip or name})"
            raise NotChecked(reason) from None
        raise NotChecked(_reason(name, error)) from None
    except (ImportError, RuntimeError) as error:
        raise NotChecked(_reason(name, error)) from None


def _reason(name: str, error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{name} cannot be imported: {lines[0] if lines else repr(error)}"


def import_timm() -> tuple[Any, Any]:
    """The modules torch and timm.

    Raises:
      NotChecked: one of them cannot be imported.
    """
    torch = import_library("torch")
    import_torchvision(torch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch, import_library("timm")


def import_torchvision(torch: Any) -> None:
    """Imports torchvision, if it is there, also beside a torch it was not built for.

    Its compiled part does not load then (one for CUDA beside a torch for CPUs), and its
    import asks for that part's operators. They are declared here and never called.
    """
    with contextlib.suppress(ModuleNotFoundError):
        try:
            importlib.import_module("torchvision")
        except RuntimeError as error:
            if "operator torchvision::" not in str(error):
                raise NotChecked(_reason("torchvision", error)) from None
            library = torch.library.Library("torchvision", "DEF")
            for signature in OPERATORS:
                library.define(signature)
            _DECLARED.append(library)
            import_library("torchvision")


def run_timm(path: pathlib.Path, images: Images) -> Outputs:
    """Logits, or features without a head, from timm."""
    torch, timm = import_timm()
    model = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    with torch.no_grad():
        outputs = model(_channels_first(torch, images))
    return outputs.numpy(), f"timm {timm.__version__}"


def run_transformers(path: pathlib.Path, images: Images) -> Outputs:
    """Logits, or features without a head, from Hugging Face transformers."""
    torch = import_library("torch")
    import_torchvision(torch)  # which it uses where it is there
    transformers = import_library("transformers")
    config = json.loads((path / "config.json").read_text())
    kind = "AutoModelForImageClassification" if _classifies(config) else "AutoModel"
    bars = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:  # what a class needs is imported when it is first used
        model = getattr(transformers, kind).from_pretrained(path).eval()
    except ImportError as error:
        raise NotChecked(_reason("transformers", error)) from None
    finally:
        if shown:
            bars.enable_progress_bar()
    with torch.no_grad():
        outputs = model(pixel_values=_channels_first(torch, images))
    return _result(config, outputs).numpy(), f"transformers {transformers.__version__}"


def _classifies(config: Mapping[str, Any]) -> bool:
    if "architecture" in config:  # in the form of timm
        return config["num_classes"] > 0
    return "ForImageClassification" in config["architectures"][0]


def _result(config: Mapping[str, Any], outputs: Any) -> Any:
    if "logits" in outputs:
        return outputs.logits
    # Their poolers are tanh layers before a head; those that nobody wrote are random.
    if "architecture" in config or "pooler_output_size" in config:
        return outputs.pooler_output
    return outputs.last_hidden_state[:, 0]


def _channels_first(torch: Any, images: Images) -> Any:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))


def run_reloaded(path: pathlib.Path, images: Images) -> Outputs:
    """Logits, or features without a head, of the file loaded again."""
    model, _ = load(str(path), image_size=images.shape[1:3])
    with jax.default_matmul_precision("highest"):
        return np.asarray(model(jnp.asarray(images))), "vit_jax, loaded again"
