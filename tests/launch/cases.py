"""Jobs that the tests render, and the golden files of what comes of them.

    python -m tests.launch.cases

writes the golden files again; look at the difference before it is kept.
"""

import pathlib
import zipfile

from vit_jax.launch import job as jobs
from vit_jax.launch.job import Code, Job
from vit_jax.launch.targets import TARGETS
from vit_jax.plan import topology

GOLDEN = pathlib.Path(__file__).parent / "golden"
BUCKET = "gs://bucket/run"

# Topology: hosts, chips, chips a host; counted by hand from the providers' pages.
TABLE = {
    "v5e-16": (4, 16, 4),
    "v5e-256": (64, 256, 4),
    "v5p-128": (16, 64, 4),  # 128 cores
    "2*v6e-256": (128, 512, 4),
    "h100:8x8": (8, 64, 8),
}
TARGETS_OF = {
    "v5e-16": ("tpu-vm", "gke", "skypilot"),
    "v5e-256": ("tpu-vm", "gke", "skypilot"),
    "v5p-128": ("tpu-vm", "gke", "skypilot"),
    "2*v6e-256": ("tpu-vm", "gke"),
    "h100:8x8": ("gke", "slurm", "skypilot"),
}
CASES = [(target, place) for place, found in TARGETS_OF.items() for target in found]
NEEDED = {"tpu-vm": {"zone": "us-central2-b"}}


def wheel(folder):
    """A small file that is called as a wheel is, the same each time."""
    path = pathlib.Path(folder) / "vit_jax-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("vit_jax/__init__.py"), "# a wheel\n")
    return path


def job(target, place, folder, **changes):
    """A job, with what is needed of the target."""
    folder = pathlib.Path(folder)
    fields = dict(
        name="vit-b16",
        config="configs/vit_i21k.py:B/16",
        config_file=None,
        overrides=("--config.train.batch_size=4096",),
        workdir="/shared/run" if target == "slurm" else BUCKET,
        topology=topology.parse(place),
        code=Code("", wheel(folder), "wheel"),
        output=folder / "launch",
        env={"TFDS_DATA_DIR": "gs://bucket/tfds"},
        secrets=("WANDB_API_KEY",),
        spot=target in ("tpu-vm", "skypilot"),
        retries=3,
        options=NEEDED.get(target, {}),
    )
    return Job(**fields | changes)


def render(target, place, folder, **changes):
    """What a target makes of a job."""
    return TARGETS[target].render(job(target, place, folder, **changes))


BODIES = {"launch.sh": ("tpu_vm.sh",), "job.sh": ("install.sh", "slurm.sh")}
BODIES["worker.sh"] = ("install.sh", "tpu_worker.sh")


def filled_in(rendered, folder):
    """The part of each file that is the job's, by name.

    Scripts end in the package's own shell files, as they are.
    """
    found = {}
    for name, text in rendered.files.items():
        body = "".join(jobs.template(part) for part in BODIES.get(name, ()))
        assert text.endswith(body)
        head = text.removesuffix(body) if body else text
        found[name] = head.replace(str(folder), "/folder")
    return found


def golden_path(target, place, name):
    stem = place.replace("*", "x").replace(":", "-")
    return GOLDEN / f"{stem}-{target}-{name}"


def write():
    import tempfile

    for old in GOLDEN.glob("*"):
        old.unlink()
    for target, place in CASES:
        with tempfile.TemporaryDirectory() as folder:
            for name, text in filled_in(render(target, place, folder), folder).items():
                golden_path(target, place, name).write_text(text)


if __name__ == "__main__":
    write()
