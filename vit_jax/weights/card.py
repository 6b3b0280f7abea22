"""The model card: README.md of a folder of weights, for people and for model hubs."""

import functools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from vit_jax.models.vit import ViT
from vit_jax.weights.base import Card, Preprocessing

_ACTIVATIONS = {"gelu_tanh": "GELU, tanh approximation", "gelu": "GELU, exact"}
_NORMS = {"layer": "LayerNorm", "rms": "RMSNorm"}
_POOLS = {
    "cls": "the CLS token",
    "gap": "the mean of the patch tokens",
    "map": "an attention pooling head (arXiv 2106.04560)",
    "cls_gap": "the CLS token and the mean of the patch tokens, side by side",
}


def render(card: Card, settings: Mapping[str, Any], *, library: str = "timm") -> str:
    """Markdown with YAML front matter.

    Args:
      card: what is known of the model.
      settings: complete keyword arguments of `ViT`.
      library: ``"timm"`` or ``"transformers"``, whose format the folder has.
    """
    sections = (
        ("Model", _model(settings)),
        ("Images", _images(card.preprocessing)),
        ("Training", _training(card)),
        ("Results", _results(card)),
        ("Loading", _loading(settings, library)),
        ("Licence", _licence(card)),
    )
    text = f"{_front_matter(card, settings, library)}\n# {_line(card.name)}\n"
    return text + "".join(f"\n## {name}\n\n{body}\n" for name, body in sections)


def _front_matter(card: Card, settings: Mapping[str, Any], library: str) -> str:
    """What model hubs read; a JSON value is a YAML value, whatever is in it."""
    classifies = settings["num_classes"] > 0
    task = "image-classification" if classifies else "image-feature-extraction"
    fields: dict[str, Any] = {
        "library_name": library,
        "license": card.licence,
        "pipeline_tag": task,
        "tags": [task, "vision-transformer", "vit_jax"],
        "datasets": [card.dataset] if card.dataset else [],
        "metrics": sorted({name.rsplit("/", 1)[-1] for name in card.metrics}),
    }
    lines = [f"{name}: {json.dumps(value)}" for name, value in fields.items() if value]
    return "\n".join(["---", *lines, "---", ""])


def _line(text: str) -> str:
    """Text that may be anything, on one line and out of tables' way."""
    return " ".join(text.split()).replace("|", r"\|")


def _table(header: tuple[str, str], rows: Iterator[tuple[str, str]]) -> str:
    lines = [header, ("---", "---"), *rows]
    return "\n".join(f"| {left} | {right} |" for left, right in lines)


def _size(size: tuple[int, int]) -> str:
    """Height and width as people write them."""
    return f"{size[0]} x {size[1]} (height x width)"


def _model(settings: Mapping[str, Any]) -> str:
    """Sizes, and what another implementation could get wrong."""
    norms = {"tokens": "before pooling", "features": "after pooling"}
    rows = {
        "image": f"{_size(settings['image_size'])}, {settings['channels']} channels",
        "patch": _size(settings["patch_size"]),
        "width, depth": f"{settings['width']}, {settings['depth']}",
        "MLP": f"{settings['mlp']}, {settings['mlp_dim']} wide",
        "heads": settings["num_heads"],
        "parameters": f"{count_parameters(settings):,}",
        "classes": settings["num_classes"] or "no head",
        "pooling": _POOLS[settings["pool"]],
        "prefix tokens": _prefix(settings),
        "positions": settings["position"],
        "activation": (
            "SiLU gate"
            if settings["mlp"] == "swiglu" and settings["pool"] != "map"
            else _ACTIVATIONS[settings["activation"]]
        ),
        "norms": f"{_NORMS[settings['norm']]}, epsilon {settings['norm_epsilon']:g}",
        "last norm": norms.get(settings["final_norm"], "before and after pooling"),
    }
    text = "A Vision Transformer (arXiv 2010.11929).\n\n"
    items = ((name, str(value)) for name, value in rows.items())
    return text + _table(("part", "value"), items)


def _prefix(settings: Mapping[str, Any]) -> str:
    tokens = [
        *(["CLS"] if settings["cls_token"] else []),
        *(["distillation"] if settings["distillation"] != "none" else []),
        *([f"{settings['registers']} registers"] if settings["registers"] else []),
    ]
    return ", ".join(tokens) or "none"


def count_parameters(settings: Mapping[str, Any]) -> int:
    """Numbers in a ViT's parameters; nothing is allocated."""
    make = functools.partial(ViT, **settings)
    shapes = jax.eval_shape(lambda: make(key=jax.random.key(0)))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def _images(preprocessing: Preprocessing) -> str:
    size, how = _size(preprocessing.image_size), preprocessing.interpolation
    if preprocessing.resize:
        step = (
            f"Resize the smaller side to {preprocessing.resize} pixels, {how}, and cut "
            f"out the central {size}."
        )
    else:
        step = f"Resize to {size}, {how}; nothing is cut off."
    mean, std = (
        ", ".join(f"{value:g}" for value in values)
        for values in (preprocessing.mean, preprocessing.std)
    )
    return (
        f"1. {step}\n2. Divide the bytes by 255.\n"
        f"3. Subtract the mean ({mean}) and divide by the deviation ({std}) of each "
        "channel."
    )


def _training(card: Card) -> str:
    lines = []
    if card.dataset:
        lines.append(f"Trained on {_line(card.dataset)}.")
    if card.source:
        lines.append(f"Converted from `{_line(card.source)}`.")
    if card.config:
        config = json.dumps(card.config, indent=2, default=str)
        lines.append(f"The config of the run:\n\n````json\n{config}\n````")
    return "\n\n".join(lines) or "Not recorded."


def _results(card: Card) -> str:
    if not card.metrics:
        return "Not recorded."
    rows = ((_line(name), f"{value:.4g}") for name, value in card.metrics.items())
    return _table(("metric", "value"), rows)


def _loading(settings: Mapping[str, Any], library: str) -> str:
    """Code for each library that opens the folder, which is ``PATH`` in it."""
    kind = "AutoModelForImageClassification" if settings["num_classes"] else "AutoModel"
    snippets = {
        "timm": (
            "import timm\n\n"
            'model = timm.create_model("local-dir:PATH", pretrained=True).eval()'
        ),
        "transformers": (
            f"import transformers\n\nmodel = transformers.{kind}"
            '.from_pretrained("PATH").eval()'
        ),
        "vit_jax": (
            "from vit_jax.weights import load\n\n"
            'model, record = load("PATH")\n'
            "logits = model(images)  # [batch, height, width, channels], normalised"
        ),
    }
    if library != "timm":
        del snippets["timm"]
    return "`PATH` is this folder.\n\n" + "\n\n".join(
        f"```python\n{code}\n```" for code in snippets.values()
    )


def _licence(card: Card) -> str:
    return _line(card.licence) or "Not stated: choose one before you share the weights."
