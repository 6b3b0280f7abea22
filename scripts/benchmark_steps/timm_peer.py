"""timm's ViT in torch: eager or compiled, fused attention, fused AdamW, autocast.

It has our sizes, starts from our weights through the package's own table of timm's
names, and computes the same function: tanh GELU, epsilon 1e-6, the same pooling.
"""

import importlib.util
import time
from typing import Any

import jax
import numpy as np

from benchmark_steps.cells import Cell
from benchmark_steps.clock import Contender
from benchmark_steps.ours import OPTIM, normalised
from vit_jax.models.settings import Settings
from vit_jax.weights.build import by_path
from vit_jax.weights.foreign import NotChecked, import_timm
from vit_jax.weights.positions import laid_out
from vit_jax.weights.table import encode
from vit_jax.weights.timm_rows import Names, build_rows


class NoPeerError(Exception):
    """The peer cannot run here; the message says why."""


def import_torch_and_timm() -> tuple[Any, Any]:
    """The modules torch and timm."""
    for name in ("torch", "timm"):
        if importlib.util.find_spec(name) is None:
            raise NoPeerError(f"{name} is not installed: pip install torch timm")
    try:
        return import_timm()
    except NotChecked as error:
        raise NoPeerError(str(error)) from None


def available() -> str:
    """Why the peer cannot run here; empty if it can."""
    try:
        import_torch_and_timm()
    except NoPeerError as error:
        return str(error)
    return ""


def build_model(cell: Cell, params: dict[str, Any]) -> Any:
    """timm's module with our encoder's parameters."""
    torch, timm = import_torch_and_timm()
    chosen = cell.settings
    model = timm.models.VisionTransformer(
        img_size=chosen["image_size"],
        patch_size=chosen["patch_size"],
        embed_dim=chosen["width"],
        depth=chosen["depth"],
        num_heads=chosen["num_heads"],
        mlp_ratio=chosen["mlp_dim"] / chosen["width"],
        num_classes=cell.num_classes,
        global_pool="token" if cell.pool == "cls" else "avg",
        class_token=cell.pool == "cls",
        fc_norm=False,
        act_layer="gelu_tanh",
    )
    complete = Settings(**chosen).__dict__
    numbers = laid_out(
        complete,
        by_path(jax.tree.map(np.asarray, params)),
        prefix_rows=int(cell.pool == "cls"),
    )
    arrays = encode(numbers, build_rows(complete, Names()))
    state = {
        name: torch.from_numpy(np.array(array, np.float32)) for name, array in arrays
    }
    model.load_state_dict(state, strict=True)
    return model


def build_timm(
    cell: Cell,
    params: dict[str, Any],
    batch: dict[str, np.ndarray],
    *,
    compiled: bool,
    device: str | None = None,
) -> Contender:
    """A contender that starts from our parameters; its first step is run here.

    Raises:
      NoPeerError: torch or timm is not there, or torch does not see the accelerator.
    """
    torch, _ = import_torch_and_timm()
    if device is None:
        device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        raise NoPeerError(
            f"JAX runs on {jax.default_backend()}, but torch sees no GPU here; "
            "install a torch built for it"
        )
    begun = time.perf_counter()
    # As JAX does by default: float32 products may use the tensor cores' TF32.
    torch.set_float32_matmul_precision("high")
    model = build_model(cell, params).to(device).train()
    tx = torch.optim.AdamW(
        model.parameters(),
        lr=OPTIM["learning_rate"],
        betas=(OPTIM["b1"], OPTIM["b2"]),
        eps=OPTIM["eps"],
        weight_decay=OPTIM["weight_decay"],
        fused=True,
    )
    images = np.moveaxis(normalised(batch), -1, 1)
    inputs = torch.from_numpy(np.ascontiguousarray(images))
    inputs = inputs.to(device)
    labels = torch.from_numpy(batch["label"].astype(np.int64)).to(device)
    forward = torch.compile(model) if compiled else model
    now: dict[str, Any] = {}

    def start() -> None:
        with torch.autocast(
            device, dtype=torch.bfloat16, enabled=cell.dtype == "bfloat16"
        ):
            logits = forward(inputs)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
        tx.step()
        tx.zero_grad(set_to_none=True)
        now["loss"] = loss.detach()

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start()
    wait()
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
    facts = {
        "compile_seconds": None,  # within the first step
        "first_step_seconds": time.perf_counter() - begun,
        "program_gib": peak,
        "torch": torch.__version__,
    }
    name = "timm compiled" if compiled else "timm"
    return Contender(name, start, wait, facts, lambda: float(now["loss"]))
