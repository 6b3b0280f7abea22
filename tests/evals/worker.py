"""One process of several that run evaluators together: COORDINATOR NUMBER RANK."""

import json
import sys

import jax

from tests.evals import small
from vit_jax.evals.classification import Classification
from vit_jax.evals.fewshot import FewShot
from vit_jax.evals.knn import KNN
from vit_jax.evals.linear_probe import LinearProbe

LOADING = dict(split="test", batch_size=16, resize=0)
PROBE = dict(
    train_split="train",
    learning_rate=3.0,
    momentum=0.9,
    weight_decay=0.01,
    epochs=3,
    warmup_epochs=1,
    train_batch_size=20,
    augment=True,
)
EVALUATIONS = {
    "classification": (Classification, dict(label_key="", labels="one", classes="all")),
    "fewshot": (FewShot, dict(train_split="train", shots=(2,), l2=(10.0,), seeds=2)),
    "knn": (KNN, dict(train_split="train", k=7, temperature=0.07)),
    "probe": (LinearProbe, PROBE | {"optimizer": "sgd"}),
    "solved": (LinearProbe, PROBE | {"optimizer": "lbfgs"}),
}


def measure(devices):
    """The results of all evaluators, on so many devices."""
    splits = dict(train=small.arrays(83), test=small.arrays(37, seed=1), bad=(3, 17))
    return {
        name: small.run(kind, devices, settings=settings | LOADING, **splits)
        for name, (kind, settings) in EVALUATIONS.items()
    }


if __name__ == "__main__":
    jax.distributed.initialize(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    results = measure(jax.device_count())
    if jax.process_index() == 0:
        print(json.dumps(results))
