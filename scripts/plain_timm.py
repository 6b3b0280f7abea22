"""A config's supervised run as one writes it by hand: timm's ViT, a plain torch loop.

    python scripts/plain_timm.py --config=configs/fashion.py --config.seed=1

Sizes, data, augmentation (a shift, a flip, mixup), label smoothing, AdamW, clipping,
schedule, batch and epochs are the config's; all images are in memory. Prints seconds
and the accuracy on the split that the config evaluates. For small square images of
configs/digits.py and configs/fashion.py. Needs torch and timm.
"""

import argparse
import math
import sys
import time
from typing import Any

import numpy as np

from benchmark_steps.timm_peer import import_torch_and_timm
from vit_jax import config as configs
from vit_jax import setup, setup_data
from vit_jax.data.decode import decode


class Plain:
    """timm's ViT and the loop around it.

    Args:
      config: of a supervised run, resolved.
      total: steps of the schedule.
      warmup: steps of it.
    """

    def __init__(self, config: Any, total: int, warmup: int):
        self.torch, timm = import_torch_and_timm()
        torch, optim = self.torch, config.optim
        torch.manual_seed(config.seed)
        self.config, self.total, self.warmup, self.step = config, total, warmup, 0
        self.model = _build_model(timm, config.model)
        kernels = [weight for weight in self.model.parameters() if weight.ndim > 1]
        others = [weight for weight in self.model.parameters() if weight.ndim <= 1]
        self.tx = torch.optim.AdamW(
            [
                {"params": kernels, "weight_decay": optim.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=optim.learning_rate,
            betas=(optim.b1, optim.b2),
            fused=True,
        )
        self.images, self.labels = self._read(config.data.split)
        self.order = torch.empty(0, dtype=torch.int64)

    def _read(self, split: str) -> tuple[Any, Any]:
        """Normalised float32 images [N, C, H, W], and labels [N]."""
        source: Any = setup_data.open_source(self.config, split)
        examples = [source[index] for index in range(len(source))]
        channels = self.config.model.channels
        images = np.stack([decode(one["image"], channels=channels) for one in examples])
        labels = np.array([one["label"] for one in examples])
        mean, std = self.config.data.mean[0], self.config.data.std[0]
        normalised = (images.transpose(0, 3, 1, 2) / np.float32(255) - mean) / std
        return (
            self.torch.tensor(normalised, dtype=self.torch.float32),
            self.torch.tensor(labels, dtype=self.torch.int64),
        )

    def _batch(self) -> tuple[Any, Any]:
        """Images shifted, perhaps mirrored, and mixed with the row before."""
        torch, size = self.torch, self.config.train.batch_size
        section, side = self.config.data.augment, self.images.shape[-1]
        if len(self.order) < size:
            self.order = torch.randperm(len(self.images))
        rows, self.order = self.order[:size], self.order[size:]
        black = -self.config.data.mean[0] / self.config.data.std[0]
        padded = torch.nn.functional.pad(
            self.images[rows], [section.pad] * 4, value=black
        )
        places = torch.randint(0, 2 * section.pad + 1, (size, 2))
        images = torch.stack(
            [
                image[:, top : top + side, left : left + side]
                for image, (top, left) in zip(padded, places.tolist(), strict=True)
            ]
        )
        if section.flip:
            mirrored = torch.rand(size) < 0.5
            images[mirrored] = images[mirrored].flip(-1)
        classes = self.config.model.num_classes
        targets = torch.nn.functional.one_hot(self.labels[rows], classes).float()
        if not section.mixup:
            return images, targets
        weight = float(torch.distributions.Beta(*[section.mixup] * 2).sample())
        return (
            weight * images + (1 - weight) * images.roll(1, 0),
            weight * targets + (1 - weight) * targets.roll(1, 0),
        )

    def train(self, num_steps: int) -> float:
        """Seconds a step."""
        torch, peak = self.torch, self.config.optim.learning_rate
        smoothing = self.config.objective.label_smoothing
        started = time.perf_counter()
        for _ in range(num_steps):
            images, targets = self._batch()
            done = (self.step - self.warmup) / max(1, self.total - self.warmup)
            shape = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, done))))
            rate = peak * min(shape, (self.step + 1) / self.warmup)
            for group in self.tx.param_groups:
                group["lr"] = rate
            loss = torch.nn.functional.cross_entropy(
                self.model(images), targets, label_smoothing=smoothing
            )
            self.tx.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(
                self.model.parameters(), self.config.optim.clip_norm
            )
            self.tx.step()
            self.step += 1
        return (time.perf_counter() - started) / num_steps

    def accuracy(self, split: str) -> float:
        """On all of a split."""
        images, labels = self._read(split)
        self.model.eval()
        with self.torch.no_grad():
            found = [self.model(part).argmax(1) for part in images.split(1000)]
        self.model.train()
        return float((self.torch.cat(found) == labels).float().mean())


def _build_model(timm: Any, model: Any) -> Any:
    """timm's ViT of the config's sizes, pooling by mean, without CLS."""
    return timm.models.VisionTransformer(
        img_size=model.image_size[0],
        patch_size=int(model.variant.partition("/")[2]),
        in_chans=model.channels,
        num_classes=model.num_classes,
        embed_dim=model.width,
        depth=model.depth,
        num_heads=model.num_heads,
        class_token=False,
        global_pool="avg",
        fc_norm=False,
        act_layer="gelu_tanh",
    ).train()


def load(path: str, overrides: list[str]) -> tuple[Any, setup.Steps]:
    """A config, resolved, and its durations."""
    config = configs.load(path, overrides)
    facts = setup.describe_data(config)
    config = setup.resolve(config, facts)
    return config, setup.resolve_steps(
        config, setup_data.num_train_examples(config, facts)
    )


def run(path: str, overrides: list[str]) -> None:
    """The whole run; prints its time and accuracy."""
    started = time.perf_counter()
    config, steps = load(path, overrides)
    plain = Plain(config, steps.total, steps.warmup)
    seconds = plain.train(steps.total)
    (evaluation,) = config.evals.values()
    accuracy = plain.accuracy(evaluation.split)
    print(
        f"timm in a plain torch loop: accuracy {accuracy:.4f}, {steps.total} steps of "
        f"{1e3 * seconds:.1f} ms, {time.perf_counter() - started:.1f} s in all"
    )


def main() -> int:
    """Trains; exits 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", required=True, help="PATH or PATH:ARGUMENT")
    options, overrides = parser.parse_known_args()
    run(options.config, overrides)
    return 0


if __name__ == "__main__":
    sys.exit(main())
