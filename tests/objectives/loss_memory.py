"""How many logit arrays the head, the loss and its gradients need in a program.

As a script, for a TPU that is not there: the topology is its argument, and it prints
``{"softmax": arrays, ...}``. The environment is that of `vit_jax.plan.compile`.
"""

import json
import sys

import jax
import jax.numpy as jnp

from vit_jax.data import mixing
from vit_jax.objectives.supervised import cross_entropy, smooth_labels

KINDS = ("softmax", "sigmoid")
CLASSES = 21_843


def build_labels(mixup):
    """Labels ``[B, K]`` as the train step prepares them."""
    prepare = mixing.build_prepare(
        num_classes=CLASSES,
        mean=(0.5,),
        std=(0.5,),
        flip_images=False,
        mixup_alpha=mixup,
        cutmix_alpha=0.0,
        mix_prob=1.0,
        mix_switch=0.5,
        mix_per="batch",
        erase_rate=0.0,
        erase_fill="noise",
    )
    return lambda batch, key: prepare(batch, key)["labels"]


def arrays(kind, *, rows, width, mixup=0.2, place=None):
    """Temporaries of loss, accuracy and gradients, in float32 arrays of logits."""
    labels_of = build_labels(mixup)

    def step(head, features, batch, seed):
        labels = labels_of(batch, jax.random.key(seed))

        def loss(head, features):
            logits = features @ head["kernel"] + head["bias"]
            losses = cross_entropy(logits, smooth_labels(labels, 0.1), loss=kind)
            correct = logits.argmax(-1) == labels.argmax(-1)
            return losses.mean(), correct.mean()

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(head, features)

    def shape(*sizes, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=place)

    head = {"kernel": shape(width, CLASSES), "bias": shape(CLASSES)}
    batch = {
        "image": shape(rows, 2, 2, 1, dtype=jnp.uint8),
        "label": shape(rows, dtype=jnp.int32),
    }
    seed = shape(dtype=jnp.uint32)
    program = jax.jit(step).lower(head, shape(rows, width), batch, seed).compile()
    temporaries = program.memory_analysis().temp_size_in_bytes
    return temporaries / (4 * rows * CLASSES)


def main(topology):
    """Of the head of S/16 at 1,024 rows."""
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    chips = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    mesh = Mesh(np.array(chips.devices[:1]), ("data",))
    place = NamedSharding(mesh, PartitionSpec())
    found = {kind: arrays(kind, rows=1024, width=384, place=place) for kind in KINDS}
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
