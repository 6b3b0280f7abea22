"""Where trials run side by side: a share of the cores and of the devices for each."""

import dataclasses
import glob
import os
import re
from collections.abc import Mapping

from vit_jax.sweep.ranges import SweepError


@dataclasses.dataclass(frozen=True)
class Place:
    """One trial at a time runs here.

    Args:
      cores: numbers of CPU cores; none: wherever the system puts it.
      devices: numbers of accelerators; none: all that are there.
    """

    cores: tuple[int, ...] = ()
    devices: tuple[int, ...] = ()

    def environment(self) -> dict[str, str]:
        """What shows a process no other devices than these."""
        if not self.devices:
            return {}
        chosen = ",".join(map(str, self.devices))
        return {
            "CUDA_VISIBLE_DEVICES": chosen,
            "ROCR_VISIBLE_DEVICES": chosen,
            "TPU_VISIBLE_CHIPS": chosen,
            "TPU_CHIPS_PER_PROCESS_BOUNDS": _bounds(len(self.devices)),
            "TPU_PROCESS_BOUNDS": "1,1,1",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        }


def _bounds(chips: int) -> str:
    """The shape of so many TPU chips of one host, as libtpu wants it."""
    return {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}.get(chips, f"1,{chips},1")


def parse_sets(text: str, flag: str) -> list[tuple[int, ...]]:
    """``"0,1:2,3"`` or ``"0-1:2-3"``: a set of numbers for each trial at a time."""
    sets = []
    for part in re.split(r"[:|]", text):
        numbers: list[int] = []
        for item in part.split(","):
            found = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", item)
            if not found:
                raise SweepError(
                    f"{flag}={text} is not of the form 0,1:2,3 or 0-3:4-7: a set for "
                    "each trial that runs at a time"
                )
            first, last = int(found[1]), int(found[2] or found[1])
            numbers += range(first, last + 1)
        sets.append(tuple(numbers))
    every = [number for numbers in sets for number in numbers]
    if len(set(every)) < len(every) or not all(sets):
        raise SweepError(f"{flag}={text}: every number belongs to one set, once")
    return sets


def places(
    parallel: int | None,
    cores: str = "",
    devices: str = "",
    environment: Mapping[str, str] = os.environ,
) -> list[Place]:
    """As many places as trials run at a time.

    Without sets, cores and NVIDIA devices are dealt out in equal shares.

    Raises:
      SweepError: the sets do not fit each other, or the machine.
    """
    core_sets = parse_sets(cores, "--cores") if cores else []
    device_sets = parse_sets(devices, "--devices") if devices else []
    wanted = [len(sets) for sets in (core_sets, device_sets) if sets]
    count = max(wanted, default=1) if parallel is None else parallel
    if count < 1:
        raise SweepError(f"--parallel={count} must be at least 1")
    if any(number != count for number in wanted):
        raise SweepError(
            f"{count} trials at a time need as many sets, got "
            f"--cores={cores or 'none'} --devices={devices or 'none'}"
        )
    here = available_cores()
    if missing := {c for chosen in core_sets for c in chosen} - set(here):
        raise SweepError(
            f"--cores={cores}: this process has no core {min(missing)}; it has "
            f"{','.join(map(str, here))}"
        )
    if count > 1:
        core_sets = core_sets or shares(here, count)
        device_sets = device_sets or _device_shares(count, environment)
    return [
        Place(
            core_sets[index] if core_sets else (),
            device_sets[index] if device_sets else (),
        )
        for index in range(count)
    ]


def available_cores() -> list[int]:
    """Numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return []  # a system that pins no process


def shares(numbers: list[int], count: int) -> list[tuple[int, ...]]:
    """Equal shares; none where there is less than one for each.

    Equal, because the number of cores may change the last bits of a result.
    """
    each = len(numbers) // count
    return [tuple(numbers[i * each : (i + 1) * each]) for i in range(count) if each]


def _device_shares(count: int, environment: Mapping[str, str]) -> list[tuple[int, ...]]:
    """Shares of the NVIDIA devices of this machine, if it has any."""
    if environment.get("JAX_PLATFORMS", "") == "cpu":
        return []
    if glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*"):
        raise SweepError(
            f"{count} trials at a time need TPU chips of their own: --devices=0:1:2:3"
        )
    found = len(glob.glob("/dev/nvidia[0-9]*"))
    shown = environment.get("CUDA_VISIBLE_DEVICES")
    numbers = list(range(found)) if shown is None else []
    if shown:
        if not re.fullmatch(r"\d+(,\d+)*", shown):
            raise SweepError(
                f"CUDA_VISIBLE_DEVICES={shown}: name the sets, --devices=0:1"
            )
        numbers = [int(number) for number in shown.split(",")] if found else []
    if numbers and len(numbers) < count:
        raise SweepError(
            f"{count} trials at a time, but {len(numbers)} devices; use "
            f"--parallel={len(numbers)}"
        )
    return shares(numbers, count) if numbers else []
