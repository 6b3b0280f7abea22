"""What Google's metadata server says of a Cloud TPU pod, as the variables GKE sets.

A virtual machine of a pod has nothing in its environment: the other hosts' addresses
are asked for over HTTP, on a machine that has TPU chips only.
"""

import glob
import importlib.util
import re
import urllib.request
from collections.abc import Callable, Mapping

_SECONDS = 5.0
_SLICES = (
    "MEGASCALE_NUM_SLICES",
    "MEGASCALE_SLICE_ID",
    "MEGASCALE_COORDINATOR_ADDRESS",
)


def has_tpu() -> bool:
    """Whether this machine has TPU chips and the library for them."""
    if importlib.util.find_spec("libtpu") is None:
        return False
    return bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))


def variables(
    environ: Mapping[str, str], *, has_tpu: Callable[[], bool] = has_tpu
) -> dict[str, str]:
    """`TPU_WORKER_*` and `MEGASCALE_*` of this host; nothing where it is in no pod."""
    said = {"TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES", "TPU_SKIP_MDS_QUERY"}
    platforms = environ.get("JAX_PLATFORMS", "")
    if said & set(environ) or (platforms and "tpu" not in platforms) or not has_tpu():
        return {}
    server = environ.get("GCE_METADATA_IP", "metadata.google.internal")
    worker = _ask(server, "agent-worker-number")
    # Host names, or name:id:address in the older form.
    endpoints = _ask(server, "worker-network-endpoints")
    if not worker or not endpoints:
        return {}
    found = {
        "TPU_WORKER_ID": worker,
        "TPU_WORKER_HOSTNAMES": ",".join(
            one.rpartition(":")[2] for one in endpoints.split(",")
        ),
    }
    lines = re.findall(
        r"^\s*(\w+)\s*:\s*'?(.*?)'?\s*$", _ask(server, "tpu-env"), re.MULTILINE
    )
    return found | {key: value for key, value in lines if key in _SLICES and value}


def _ask(server: str, attribute: str) -> str:
    """An attribute of this machine; "" where there is none, or no such server."""
    request = urllib.request.Request(
        f"http://{server}/computeMetadata/v1/instance/attributes/{attribute}",
        headers={"Metadata-Flavor": "Google"},
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=_SECONDS) as answer:
            return answer.read().decode().strip()
    except OSError:
        return ""
