"""Results of ours, a record each. No record: "not run by us"."""

from vit_jax.ledger.records import Measured

CPU = "2 cores of a shared x86-64 server"

MEASURED = (
    Measured(
        "digits",
        "top-1 of the 360 test images",
        {0: 98.89, 1: 98.89, 2: 98.06},
        CPU,
        "vit-jax train --config=configs/digits.py --config.seed=N --workdir=...",
        "2026-11-24",
    ),
    Measured(
        "fashion:mae",
        "top-1 of the 10,000 test images by a linear probe",
        {0: 83.13, 1: 83.11, 2: 82.64},
        CPU,
        "vit-jax train --config=configs/fashion.py:mae --config.seed=N",
        "2026-11-24",
    ),
    Measured(
        "fashion:random",
        "top-1 of the 10,000 test images by a linear probe",
        {0: 71.98, 1: 73.39, 2: 72.40},
        CPU,
        "vit-jax train --config=configs/fashion.py:random --config.seed=N",
        "2026-11-24",
    ),
    Measured(
        "fashion:masked_patch",
        "top-1 of the 10,000 test images by a linear probe",
        {0: 80.86},
        CPU,
        "vit-jax train --config=configs/fashion.py:masked_patch",
        "2026-11-24",
    ),
    Measured(
        "fashion:aim",
        "top-1 of the 10,000 test images by a linear probe",
        {0: 80.95},
        CPU,
        "vit-jax train --config=configs/fashion.py:aim",
        "2026-11-24",
    ),
    Measured(
        "fashion:few",
        "top-1 of the 10,000 test images, from scratch",
        {0: 70.63},
        CPU,
        "vit-jax train --config=configs/fashion.py:few",
        "2026-11-24",
    ),
)
