"""The Kubernetes job: a pod for each trial, whose failures end no other."""

import pytest
import yaml

from tests.launch import jobset_schema
from tests.sweep import rendering
from vit_jax.sweep import gke
from vit_jax.sweep.ranges import SweepError

OPTIONS = (
    "--image=registry/vit:1",
    "--limits=google.com/tpu=8",
    "--node_selector=cloud.google.com/gke-tpu-topology=2x4",
    "--node_selector=cloud.google.com/gke-tpu-accelerator=tpu-v5-lite-podslice",
    "--service_account=trainer",
)


def job(*words, **changes):
    made = gke.render(rendering.batch(**changes), rendering.options(*words))
    assert made.submit == ["kubectl", "apply", "-f", "gke.yaml"]
    return yaml.safe_load(made.files["gke.yaml"])


def test_a_pod_for_each_trial():
    made = job(*OPTIONS)
    assert (made["apiVersion"], made["kind"]) == ("batch/v1", "Job")
    spec = made["spec"]
    assert spec["completionMode"] == "Indexed"
    assert (spec["completions"], spec["parallelism"]) == (4, 2)
    assert (spec["backoffLimitPerIndex"], spec["maxFailedIndexes"]) == (3, 4)
    assert job(*OPTIONS, parallel=None)["spec"]["parallelism"] == 4
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # a pod failure policy needs it
    assert pod["serviceAccountName"] == "trainer"
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "2x4"
    (container,) = pod["containers"]
    assert container["command"] == [
        *("vit-jax", "sweep", "run-trial", "--workdir=gs://bucket/my sweep"),
        *("--of=0-2,5", "--index=$(TRIAL_INDEX)", "--retries=3"),
    ]
    (variable,) = container["env"]
    assert variable["name"] == "TRIAL_INDEX"
    assert container["resources"]["limits"] == {"google.com/tpu": "8"}
    rules = spec["podFailurePolicy"]["rules"]
    assert rules[1]["onExitCodes"]["containerName"] == container["name"]


def test_it_fits_the_schema_of_kubernetes():
    pytest.importorskip("kubeflow_trainer_api", reason="pip install -e '.[dev]'")
    made = job(*OPTIONS)
    assert not jobset_schema.job_problems(made)
    made["spec"]["backofLimitPerIndex"] = 3
    assert jobset_schema.job_problems(made)
    made = job(*OPTIONS)
    made["spec"]["template"]["spec"]["containers"][0]["command"] = "vit-jax"
    assert jobset_schema.job_problems(made)


def test_what_is_missing():
    with pytest.raises(SweepError, match="needs --image"):
        job()
    with pytest.raises(SweepError, match="use --workdir=gs://"):
        job(*OPTIONS, workdir="/data")
