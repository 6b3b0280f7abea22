"""JobSets against their schema, SkyPilot's tasks by its own parser."""

import copy
import os

import pytest

from tests.launch import cases, jobset_schema, sky_parser
from vit_jax.launch import checks, yaml_text
from vit_jax.launch.job import LaunchError

GKE = [place for target, place in cases.CASES if target == "gke"]
SKY = [place for target, place in cases.CASES if target == "skypilot"]


@pytest.fixture(scope="module", autouse=True)
def _models():
    pytest.importorskip("kubeflow_trainer_api", reason="pip install -e '.[dev]'")


def jobset(place, folder):
    (found,) = yaml_text.load(cases.render("gke", place, folder).files["jobset.yaml"])
    return found


@pytest.mark.parametrize("place", GKE)
def test_jobsets_fit_their_schema(place, tmp_path):
    assert not jobset_schema.problems(jobset(place, tmp_path))


def test_the_code_beside_them_fits_its_schema(tmp_path):
    files = cases.render("gke", "v5e-16", tmp_path).files
    (made,) = yaml_text.load(files["code.yaml"])
    assert not jobset_schema.config_map_problems(made)
    for wrong in ({"binarydata": {}}, {"metadata": {"names": "x"}}):
        assert jobset_schema.config_map_problems({**made, **wrong})


def mutations(good):
    """Copies with one mistake each, and where it is."""
    job = "spec.replicatedJobs.0.template.spec"
    pod = f"{job}.template.spec"
    for path, key, value in (
        ("", "specs", {}),
        ("spec", "replicatedJob", []),
        ("spec.failurePolicy", "maxRestart", 3),
        ("spec.failurePolicy", "maxRestarts", "3"),
        (job, "parallellism", 4),
        (job, "completions", "four"),
        (f"{job}.podFailurePolicy.rules.0.onExitCodes", "value", [143]),
        (pod, "nodeSelectors", {}),
        (pod, "restartPolicy", 3),
        (f"{pod}.containers.0", "limits", {}),
        (f"{pod}.containers.0.resources", "limit", {}),
        (f"{pod}.containers.0.ports.0", "containerPort", "8482"),
        (f"{pod}.volumes.1.configMap", "names", "x"),
    ):
        bad = copy.deepcopy(good)
        place = bad
        for part in filter(None, path.split(".")):
            place = place[int(part)] if part.isdigit() else place[part]
        place[key] = value
        yield f"{path}.{key}", bad


def test_the_schema_sees_mistakes_everywhere(tmp_path):
    good = jobset("v5e-16", tmp_path)
    missed = [path for path, bad in mutations(good) if not jobset_schema.problems(bad)]
    assert not missed


def sky(folder, text):
    path = folder / "task.yaml"
    path.write_text(text)
    rendered = cases.render("skypilot", "v5e-16", folder)
    return checks.by_tools(rendered, folder)


@sky_parser.needs_sky
@pytest.mark.slow
def test_tasks_are_read_by_skypilot(tmp_path):
    asked = {
        "v5e-16": "1 {'tpu-v5litepod-16': 1}",
        "v5e-256": "1 {'tpu-v5litepod-256': 1}",
        "v5p-128": "1 {'tpu-v5p-128': 1}",
        "h100:8x8": "8 {'H100': 8}",
    }
    assert set(asked) == set(SKY)
    texts = [cases.render("skypilot", one, tmp_path).files["task.yaml"] for one in SKY]
    wrong = [("num_nodes:", "numnodes:"), ("use_spot:", "spot:"), ("run: |", "runs: |")]
    assert all(old in texts[-1] for old, _ in wrong)
    texts += [texts[-1].replace(*change) for change in wrong]
    paths = [tmp_path / f"{index}.yaml" for index in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    lines = sky_parser.read(paths)
    variables = "True {'TFDS_DATA_DIR': 'gs://bucket/tfds'}"
    assert lines[: len(SKY)] == [f"{asked[one]} {variables}" for one in SKY]
    refused = lines[len(SKY) :]
    assert len(refused) == 3
    assert all(line.startswith("refused Invalid") for line in refused), refused


@sky_parser.needs_sky
@pytest.mark.slow
def test_launch_asks_skypilots_parser(tmp_path):
    text = cases.render("skypilot", "h100:8x8", tmp_path).files["task.yaml"]
    assert sky(tmp_path, text) == (["task.yaml by SkyPilot's parser"], [])
    with pytest.raises(LaunchError, match=r"task\.yaml is refused by"):
        sky(tmp_path, text.replace("num_nodes:", "numnodes:"))


def test_without_skypilot_it_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv(checks.SKY_PYTHON, raising=False)
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    text = cases.render("skypilot", "h100:8x8", tmp_path).files["task.yaml"]
    done, missing = sky(tmp_path, text)
    assert not done
    assert missing == ["task.yaml: SkyPilot is not installed here"]


def test_an_interpreter_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv(checks.SKY_PYTHON, os.fspath(tmp_path / "python"))
    with pytest.raises(LaunchError, match="No such file"):
        sky(tmp_path, "name: x\n")
