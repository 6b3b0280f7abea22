"""A sweep as a Kubernetes Indexed Job: a pod for each trial."""

import argparse
from typing import Any

from vit_jax.sweep.ranges import SweepError
from vit_jax.sweep.rendered import Batch, Rendered, needs_bucket, pairs

_GRACE_SECONDS = 120  # from SIGTERM to SIGKILL, in which a trial saves
# The annotation by which the control plane tells a pod its place in the job.
_INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def render(batch: Batch, options: argparse.Namespace) -> Rendered:
    """The manifest, and how to apply it."""
    import yaml

    needs_bucket(batch, "gke")
    if not options.image:
        raise SweepError(
            "--backend=gke needs --image=IMAGE, a container with vit-jax[gcs] in it"
        )
    text = yaml.safe_dump(job(batch, options), sort_keys=False)
    return Rendered({"gke.yaml": text}, ["kubectl", "apply", "-f", "gke.yaml"])


def job(batch: Batch, options: argparse.Namespace) -> dict[str, Any]:
    """The manifest as plain data."""
    container: dict[str, Any] = {
        "name": "trial",
        "image": options.image,
        "command": ["vit-jax", *batch.arguments("$(TRIAL_INDEX)")],
        "env": [
            {"name": "TRIAL_INDEX", "valueFrom": {"fieldRef": {"fieldPath": _INDEX}}}
        ],
    }
    if limits := pairs(options.limits, "--limits"):
        container["resources"] = {"limits": limits, "requests": dict(limits)}
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "containers": [container],
    }
    if selector := pairs(options.node_selector, "--node_selector"):
        pod["nodeSelector"] = selector
    if options.service_account:
        pod["serviceAccountName"] = options.service_account
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": batch.name},
        "spec": {
            "completionMode": "Indexed",
            "completions": batch.count,
            "parallelism": min(batch.parallel or batch.count, batch.count),
            # A trial that failed does not end the others, nor a lost node a trial.
            "backoffLimitPerIndex": batch.retries,
            "maxFailedIndexes": batch.count,
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "Ignore",
                        "onPodConditions": [
                            {"type": "DisruptionTarget", "status": "True"}
                        ],
                    },
                    {
                        "action": "FailIndex",  # it was tried again inside
                        "onExitCodes": {
                            "containerName": "trial",
                            "operator": "In",
                            "values": [1, 2],
                        },
                    },
                ]
            },
            "template": {"spec": pod},
        },
    }
