"""The digits job beside a plain torch loop over a timm ViT of the same sizes.

    python scripts/benchmark_digits.py               # training steps, interleaved
    python scripts/benchmark_digits.py --whole       # and both jobs from end to end

Ours is the real loop of configs/digits.py: batches drawn and shifted by the loader, the
step, metrics and logging. The other is what one writes by hand: shifts, mixup, label
smoothing, AdamW and the cosine schedule, in torch. The two take turns; ratios are taken
turn by turn. Needs torch and timm.
"""

import argparse
import contextlib
import dataclasses
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from overhead import build_runs, open_loop

from benchmark_steps.timm_peer import import_torch_and_timm
from vit_jax import config as configs
from vit_jax import setup, setup_data, train

CONFIG = "configs/digits.py"
NUM_TEST = 360


class Plain:
    """timm's ViT and the loop around it.

    Args:
      config: the digits job's, resolved.
      total: steps of the schedule.
      warmup: steps of it.
    """

    def __init__(self, config: Any, total: int, warmup: int):
        self.torch, timm = import_torch_and_timm()
        torch, model, optim = self.torch, config.model, config.optim
        torch.manual_seed(config.seed)
        self.config, self.total, self.warmup, self.step = config, total, warmup, 0
        self.model = timm.models.VisionTransformer(
            img_size=model.image_size[0],
            patch_size=2,
            in_chans=1,
            num_classes=model.num_classes,
            embed_dim=model.width,
            depth=model.depth,
            num_heads=model.num_heads,
            class_token=False,
            global_pool="avg",
            fc_norm=False,
            act_layer="gelu_tanh",
        ).train()
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
        self.images, self.labels, self.test_images, self.test_labels = self._data()
        self.mixup = torch.distributions.Beta(*[config.data.augment.mixup] * 2)
        self.order = torch.empty(0, dtype=torch.int64)

    def _data(self) -> tuple[Any, ...]:
        from sklearn.datasets import load_digits

        digits, torch = load_digits(), self.torch
        images = torch.tensor(digits.images[:, None] / 8.0 - 1.0, dtype=torch.float32)
        labels = torch.tensor(digits.target, dtype=torch.int64)
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(images)))
        test, rest = order[:NUM_TEST], order[NUM_TEST:]
        return images[rest], labels[rest], images[test], labels[test]

    def _batch(self) -> tuple[Any, Any]:
        """Shifted by a pixel at most, and mixed with the row before."""
        torch, size = self.torch, self.config.train.batch_size
        if len(self.order) < size:
            self.order = torch.randperm(len(self.images))
        rows, self.order = self.order[:size], self.order[size:]
        padded = torch.nn.functional.pad(self.images[rows], (1, 1, 1, 1), value=-1.0)
        places = torch.randint(0, 3, (size, 2))
        images = torch.stack(
            [
                image[:, top : top + 8, left : left + 8]
                for image, (top, left) in zip(padded, places.tolist(), strict=True)
            ]
        )
        targets = torch.nn.functional.one_hot(self.labels[rows], 10).float()
        weight = float(self.mixup.sample())
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

    def accuracy(self) -> float:
        """On its held-out digits."""
        self.model.eval()
        with self.torch.no_grad():
            found = self.model(self.test_images).argmax(1)
        self.model.train()
        return float((found == self.test_labels).float().mean())


def time_steps(
    config: Any, steps: setup.Steps, *, num_steps: int, repeats: int
) -> list[tuple[float, float, float]]:
    """Seconds a step of ours, of ours without data and logging, and of the other."""
    parts = setup.build_parts(config, steps)
    endless = dataclasses.replace(steps, total=10**9)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(parts.mesh))
        run, state = open_loop(config, parts, endless, stack)
        batches = stack.enter_context(train.batches_from(run))
        full, bare = build_runs(run, state, batches)
        plain = Plain(config, steps.total, steps.warmup)
        turns: list[Callable[[int], float]] = [full, bare, plain.train]
        for turn in turns:
            turn(num_steps)  # compiles, and fills caches
        return [
            (turns[0](num_steps), turns[1](num_steps), turns[2](num_steps))
            for _ in range(repeats)
        ]


def time_whole(config: Any, steps: setup.Steps) -> None:
    """Both jobs from a new process to the last evaluation, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        command = (sys.executable, "-m", "vit_jax.cli", "train")
        subprocess.run(
            [*command, f"--config={CONFIG}", f"--workdir={folder}"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        ours = time.perf_counter() - started
    program = "import benchmark_digits as it; it.run_plain()"
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=sys.path[0],
    )
    plain = time.perf_counter() - started
    print(f"whole job, ours            {ours:8.1f} s, {steps.total} steps")
    print(f"whole job, timm and torch  {plain:8.1f} s, {done.stdout.strip()}")
    print(f"ours / timm                {ours / plain:8.2f} times as long")


def load() -> tuple[Any, setup.Steps]:
    """The job's config, resolved, and its durations."""
    config = configs.load(CONFIG, [])
    facts = setup.describe_data(config)
    config = setup.resolve(config, facts)
    return config, setup.resolve_steps(
        config, setup_data.num_train_examples(config, facts)
    )


def run_plain() -> None:
    """The other job alone, its accuracy printed."""
    config, steps = load()
    plain = Plain(config, steps.total, steps.warmup)
    plain.train(steps.total)
    print(f"accuracy {plain.accuracy():.4f}")


def main() -> int:
    """Prints the table; exits 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=60, help="steps a turn")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--whole", action="store_true", help="both jobs as well")
    options = parser.parse_args()
    config, steps = load()
    rounds = time_steps(config, steps, num_steps=options.steps, repeats=options.repeats)
    full, bare, plain = (
        1e3 * statistics.median(times) for times in zip(*rounds, strict=True)
    )
    ratios = sorted(ours / theirs for ours, _, theirs in rounds)
    print(f"ours, the whole loop       {full:8.2f} ms a step")
    print(f"ours, the jitted step      {bare:8.2f} ms")
    print(f"timm in a plain torch loop {plain:8.2f} ms")
    print(
        f"ours / timm                {statistics.median(ratios):8.2f} times as long "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )
    if options.whole:
        time_whole(config, steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
