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
        {0: 80.86, 1: 81.42, 2: 81.05},
        CPU,
        "vit-jax train --config=configs/fashion.py:masked_patch --config.seed=N",
        "2026-11-30",
    ),
    Measured(
        "fashion:aim",
        "top-1 of the 10,000 test images by a linear probe",
        {0: 80.95, 1: 81.07, 2: 81.05},
        CPU,
        "vit-jax train --config=configs/fashion.py:aim --config.seed=N",
        "2026-12-01",
    ),
    Measured(
        "fashion:supervised",
        "top-1 of the 10,000 test images",
        {0: 87.04, 1: 87.01, 2: 87.17},
        CPU,
        "vit-jax train --config=configs/fashion.py --config.seed=N",
        "2026-12-01",
    ),
    Measured(
        "fashion:student",
        "top-1 of the 10,000 test images",
        {0: 84.17, 1: 84.22, 2: 83.95},
        CPU,
        "vit-jax train --config=configs/fashion.py:student --config.seed=N",
        "2026-11-30",
    ),
    Measured(
        "fashion:student",
        "top-1 of the 10,000 test images, with the mixup of fashion:distill",
        {0: 83.85, 1: 83.63, 2: 83.96},
        CPU,
        "vit-jax train --config=configs/fashion.py:student "
        "--config.data.augment.mixup=0.2 --config.seed=N",
        "2026-12-01",
    ),
    Measured(
        "fashion:distill",
        "top-1 of the 10,000 test images, from fashion:supervised of seed 0",
        {0: 84.65, 1: 84.74, 2: 84.80},
        CPU,
        "vit-jax train --config=configs/fashion.py:distill --config.seed=N",
        "2026-11-30",
    ),
    *(
        Measured(
            "fashion:few",
            f"top-1 of the 10,000 test images, from {start}",
            dict(enumerate(values)),
            CPU,
            "vit-jax train --config=configs/fashion.py:few "
            "--config.data.split='train[N%:N+1%]' --config.model.init_from=...",
            "2026-11-30",
            per="draw",
        )
        for start, values in {
            "scratch": (70.63, 71.92, 70.63, 71.80, 72.00),
            "fashion:mae": (80.29, 78.80, 79.66, 77.49, 78.72),
            "fashion:masked_patch": (77.87, 76.59, 76.97, 75.98, 75.87),
            "fashion:aim": (77.99, 75.97, 76.38, 75.08, 76.61),
        }.items()
    ),
)
