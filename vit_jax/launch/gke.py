"""GKE: a JobSet, one job a TPU slice or one of GPU hosts, queued by Kueue.

The code comes as a ConfigMap beside it. Restarts are the JobSet's: where one pod fails,
all start again, as a run needs.
"""

import base64
import re
import shlex

from vit_jax.launch import job as jobs
from vit_jax.launch import yaml_text
from vit_jax.launch.job import Job, LaunchError, Rendered

OPTIONS = {
    "queue": "Kueue's LocalQueue; default: default; none: no label",
    "namespace": "default: default",
    "image": "with Python 3.11 or newer, and git for a revision; default: python:3.12",
    "service_account": "of Kubernetes, which may use the bucket",
    "secret_name": "of the Kubernetes Secret that holds --secret; default: "
    "vit-jax-secrets",
}

_NAMED = ("queue", "namespace", "service_account", "secret_name")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
_CODE = "/launch"
_ENVIRONMENT = "/tmp/environment"  # of the container, new with each
_LARGEST = 1_000_000  # bytes; Kubernetes takes 1 MiB in all
_PORTS = {"coordinator": 8482, "tpu": 8471, "slices": 8080}
_ANNOTATION = "metadata.annotations['jobset.sigs.k8s.io/{}']"


def render(job: Job) -> Rendered:
    """The JobSet, and the code where it is shipped.

    Raises:
      LaunchError: GKE has no such machines, or the code is too large.
    """
    place = job.topology
    if not place.chip.is_tpu and place.slices > 1:
        raise LaunchError(
            f"gke: GPUs have no slices, write {place.chip.kind}:{place.hosts}x"
            f"{place.chips_per_host}"
        )
    _check(job)
    text = yaml_text.dump(_jobset(job), comment=f"{job.name}: {jobs.summary(job)}")
    files = {"jobset.yaml": text}
    if job.files:
        files["code.yaml"] = yaml_text.dump(
            _config_map(job), comment=f"{job.name}: {job.code.origin}"
        )
    apply = ["kubectl", "apply", "--server-side"]
    paths = [f"--filename={job.output / name}" for name in sorted(files)]
    hosts, chips = counts(yaml_text.load(text)[0])
    return Rendered(
        files=files,
        main="jobset.yaml",
        submit=((*apply, *paths),),
        check=(*apply, "--dry-run=server", *paths),
        hosts=hosts,
        chips=chips,
        ships=False,
    )


def _check(job: Job) -> None:
    """Refuses names that Kubernetes would."""
    for option in _NAMED:
        name = job.option(option)
        if name and not _NAME.fullmatch(name):
            raise LaunchError(
                f"--{option}={name} is not a name of Kubernetes: lower-case letters, "
                "digits, hyphens and dots, 63 at most"
            )
    if re.search(r"\s", job.option("image")):
        raise LaunchError(
            f"--image={job.option('image')!r} has blanks; it is one image"
        )
    place = job.topology
    sizes = place.chip.rented.sizes
    if sizes and place.chips_per_host not in sizes:
        raise LaunchError(
            f"gke: {place} has {place.chips_per_host} GPUs a host, and its machines of "
            f"{place.chip.name} have {' or '.join(map(str, sizes))}"
        )


def _config_map(job: Job) -> dict:
    data = {name: path.read_bytes() for name, path in job.files.items()}
    size = sum(map(len, data.values()))
    if size > _LARGEST:
        raise LaunchError(
            f"gke: code of {size:,} bytes does not fit into a ConfigMap "
            f"({_LARGEST:,}); use --code=git+URL@REVISION"
        )
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(job, f"{job.name}-code"),
        "binaryData": {
            name: base64.b64encode(content).decode() for name, content in data.items()
        },
    }


def _metadata(job: Job, name: str) -> dict:
    return {"name": name, "namespace": job.option("namespace") or "default"}


def _jobset(job: Job) -> dict:
    place = job.topology
    metadata = _metadata(job, job.name)
    queue = job.option("queue") or "default"
    if queue != "none":
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": queue}
    if place.chip.is_tpu:  # a slice is a node pool: no two jobs on one
        metadata["annotations"] = {
            "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/"
            "gke-nodepool"
        }
    # Pods that were told to stop saved: those restarts do not count.
    told = {"name": "told", "action": "RestartJobSetAndIgnoreMaxRestarts"}
    policy = {
        "maxRestarts": job.retries,
        "rules": [told | {"onJobFailureReasons": ["PodFailurePolicy"]}],
    }
    template = {"spec": _job(job)}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "failurePolicy": policy,
            "replicatedJobs": [
                {"name": _part(job), "replicas": place.slices, "template": template}
            ],
        },
    }


def _part(job: Job) -> str:
    return "slice" if job.topology.chip.is_tpu else "hosts"


def _job(job: Job) -> dict:
    """One slice, or all GPU hosts: a pod a host."""
    exit_codes = {"containerName": "train", "operator": "In", "values": [143]}
    disruption = {"type": "DisruptionTarget", "status": "True"}
    return {
        "parallelism": job.topology.hosts_per_slice,
        "completions": job.topology.hosts_per_slice,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": exit_codes},
                {"action": "FailJob", "onPodConditions": [disruption]},
            ]
        },
        "template": {"spec": _pod(job)},
    }


def _pod(job: Job) -> dict:
    place = job.topology
    pod: dict = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 120}
    if job.option("service_account"):
        pod["serviceAccountName"] = job.option("service_account")
    if place.slices > 1:  # the network between slices is the hosts'
        pod |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    pod["nodeSelector"] = node_selector(job)
    if job.spot:
        pod["tolerations"] = [
            {
                "key": "cloud.google.com/gke-spot",
                "operator": "Equal",
                "value": "true",
                "effect": "NoSchedule",
            }
        ]
    pod["containers"] = [_container(job)]
    volumes = [{"name": "memory", "emptyDir": {"medium": "Memory"}}]
    if job.files:
        volumes.append({"name": "code", "configMap": {"name": f"{job.name}-code"}})
    return pod | {"volumes": volumes}


def node_selector(job: Job) -> dict[str, str]:
    """Labels of the nodes."""
    place = job.topology
    if place.chip.is_tpu:
        labels = {
            "cloud.google.com/gke-tpu-accelerator": place.chip.rented.gke,
            "cloud.google.com/gke-tpu-topology": "x".join(map(str, place.shape)),
        }
    else:
        labels = {"cloud.google.com/gke-accelerator": place.chip.rented.gke}
    machine = place.chip.rented.machine.format(place.chips_per_host)
    labels["node.kubernetes.io/instance-type"] = machine
    if job.spot:
        labels["cloud.google.com/gke-spot"] = "true"
    return labels


def _container(job: Job) -> dict:
    place = job.topology
    resource = "google.com/tpu" if place.chip.is_tpu else "nvidia.com/gpu"
    mounts = [{"name": "memory", "mountPath": "/dev/shm"}]
    if job.files:
        mounts.append({"name": "code", "mountPath": _CODE})
    # exec: SIGTERM goes to the container's first process.
    script = jobs.template("install.sh") + (
        f"install {_ENVIRONMENT} {shlex.quote(job.requirement(_CODE))} || exit 6\n"
        f"exec {_ENVIRONMENT}/bin/vit-jax {shlex.join(job.command(_CODE))}\n"
    )
    container = {
        "name": "train",
        "image": job.option("image") or "python:3.12",
        "command": ["bash", "-c", script],
        "env": _env(job),
        "resources": {"limits": {resource: place.chips_per_host}},
        "volumeMounts": mounts,
    }
    if place.chip.is_tpu:
        container["ports"] = [
            {"name": name, "containerPort": port} for name, port in _PORTS.items()
        ]
    return container


def _env(job: Job) -> list[dict]:
    """Given variables, secrets by name, and what says who a pod is.

    GKE itself tells TPU pods (`TPU_WORKER_*`, `MEGASCALE_*`).
    """
    env: list[dict] = [
        {"name": name, "value": value} for name, value in job.env.items()
    ]
    holder = job.option("secret_name") or "vit-jax-secrets"
    for name in job.secrets:
        key = {"secretKeyRef": {"name": holder, "key": name}}
        env.append({"name": name, "valueFrom": key})
    if job.topology.chip.is_tpu:
        return env
    for name, annotation in (
        ("JOBSET_NAME", "jobset-name"),
        ("REPLICATED_JOB_NAME", "replicatedjob-name"),
        ("JOB_INDEX", "job-index"),
    ):
        path = {"fieldRef": {"fieldPath": _ANNOTATION.format(annotation)}}
        env.append({"name": name, "valueFrom": path})
    hosts = str(job.topology.hosts)
    return [*env, {"name": "PROCESSES_IN_JOB", "value": hosts}]


def counts(jobset: dict) -> tuple[int, int]:
    """Hosts and chips that a JobSet asks for."""
    hosts = chips = 0
    for part in jobset["spec"]["replicatedJobs"]:
        inside = part["template"]["spec"]
        pods = part["replicas"] * inside["parallelism"]
        (container,) = inside["template"]["spec"]["containers"]
        hosts += pods
        chips += pods * sum(container["resources"]["limits"].values())
    return hosts, chips
