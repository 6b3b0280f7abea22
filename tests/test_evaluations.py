"""Evaluations of a run: in the loop and afterwards, raw and averaged, with pictures."""

import json

import numpy as np
import PIL.Image
import pytest

from tests import training
from vit_jax import cli, config, metrics
from vit_jax.config import ConfigError
from vit_jax.evaluate import evaluate
from vit_jax.objectives.supervised import Supervised
from vit_jax.train import train

CONFIG = """
from configs import base, digits

def get_config(arg=None):
    config = digits.get_config()
    steps = base.duration(steps=4)
    config.evals.near = base.knn(split="test", resize=0, k=5, every=steps)
    config.evals.drawn = base.reconstruction(split="test", resize=0, images=3, every=steps)
    config.checkpoint.best = "near_ema/accuracy"
    return config
"""


def reconstruct(self, images, key):
    """What a masked objective would have."""
    del self, key
    return {"images": images, "masked": images * 0, "reconstruction": images + 1.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with three evaluations and averaged parameters."""
    folder = tmp_path_factory.mktemp("evaluations")
    file = folder / "configs" / "trial.py"
    file.parent.mkdir()
    file.write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Supervised, "reconstruct", reconstruct, raising=False)
        train(
            config.load(str(file), training.flags("train.ema=0.5", "model.depth=1")),
            str(folder / "run"),
            say=lambda text: None,
        )
        yield folder / "run"


def logged(run):
    """Everything written at a step, by step."""
    rows = {}
    for row in metrics.read_rows(run / "metrics.jsonl"):
        rows[row["step"]] = rows.get(row["step"], {}) | row
    return rows


def test_raw_and_averaged_parameters_are_measured_in_the_loop(run):
    rows = logged(run)
    for step in (4, 8):
        for name in ("val", "val_ema", "near", "near_ema"):
            for result in ("accuracy", "top5"):
                assert 0 <= rows[step][f"{name}/{result}"] <= 1
            assert rows[step][f"{name}/accuracy"] <= rows[step][f"{name}/top5"]
        for result in ("loss", "ece", "class_accuracy"):
            assert f"val_ema/{result}" in rows[step]
        assert rows[step]["drawn/mse"] == pytest.approx(1.0, rel=1e-6)
    assert rows[8]["near/accuracy"] != rows[8]["near_ema/accuracy"]


def test_the_best_checkpoint_is_by_the_named_result(run):
    rows = logged(run)
    best = max((4, 8), key=lambda step: (rows[step]["near_ema/accuracy"], step))
    assert evaluate(str(run), step="best", names=["drawn"])[0] == best


def test_pictures_are_in_figures(run):
    for step in (4, 8):
        for name in ("drawn", "drawn_ema"):
            picture = np.asarray(
                PIL.Image.open(run / "figures" / f"{name}-{step:08d}.png")
            )
            assert picture.shape == (3 * 66 - 2, 3 * 66 - 2, 3)
            assert (picture[:64, 66:130] == 128).all()  # the middle of the pixels


def test_a_run_is_evaluated_as_in_the_loop_and_in_ways_it_had_not(run, capsys):
    code = cli.main(
        [
            *("evaluate", f"--workdir={run}"),
            *("near", "drawn", "fewshot", "linear_probe"),
            "--config.evals.fewshot.shots=(2,5)",
            "--config.evals.linear_probe.optimizer=sgd",
            "--config.evals.linear_probe.epochs=2",
        ]
    )
    out, err = capsys.readouterr()
    assert code == 0, err
    lines = out.splitlines()
    assert f"drawn: {run / 'figures' / 'drawn-00000008.png'}" in lines
    results = {}
    for line in lines[lines.index("step 8") + 1 :]:
        name, value = line.split()
        results[name] = float(value)
    row = logged(run)[8]
    for name in ("near/accuracy", "near_ema/top5", "drawn/mse"):
        assert results[name] == pytest.approx(row[name], rel=1e-5)
    assert not any(name.startswith("val") for name in results)
    for name in ("fewshot", "fewshot_ema"):
        assert 0 < results[f"{name}/2shot"] < 1
        assert f"{name}/5shot_std" in results
        assert f"{name}/1shot" not in results
    assert 0 < results["linear_probe_ema/accuracy"] < 1
    assert results["linear_probe/examples"] == 360  # of the run's own split, test


def test_runs_of_before_have_entries_without_some_keys(run):
    path = run / "config.json"
    before = path.read_text()
    saved = json.loads(before)
    for key in ("data", "label_key", "labels", "classes"):
        del saved["config"]["evals"]["val"][key]
    path.write_text(json.dumps(saved))
    step, results = evaluate(str(run), names=["val"])
    path.write_text(before)
    assert step == 8
    assert results["val/accuracy"] == logged(run)[8]["val/accuracy"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["kn"], "evaluation 'kn' is unknown; known: drawn, near, val, classificat"),
        (["kn"], "did you mean 'knn'?"),
        (["knn", "--config.evals.knn.kk=3"], "unknown key 'evals.knn.kk'; did you me"),
        (["knn", "--config.evals.knn.k=0"], "evals.knn.k must be at least 1, got 0"),
        (["knn", "--config.evals.knn.k=2000"], "evals.knn: k is 2000, but digits "),
        (
            ["fewshot", "--config.evals.fewshot.shots=(500,)"],
            "evals.fewshot: shots has 500, but 10 of 10 classes have fewer",
        ),
        (["imagenet_v2"], "data set 'imagenet_v2/matched-frequency' is not prepared"),
        (
            ["linear_probe", "--config.evals.linear_probe.optimizer=adam"],
            "evals.linear_probe.optimizer 'adam' is unknown; known: lars, sgd, lbfgs",
        ),
    ],
)
def test_mistakes(run, capsys, arguments, text):
    code = cli.main(["evaluate", f"--workdir={run}", *arguments])
    err = capsys.readouterr().err
    assert code == 2
    assert text in err
    assert "Traceback" not in err


CHECKED = [
    ("near/accurac", "'near/accurac' is not a result"),
    ("near/accurac", "did you mean 'near/accuracy'?"),
    ("val_ema/ece", "'val_ema/ece' is not a result"),  # there is no average
    ("near/loss", "near/top5, val/accuracy, val/top5, val/loss, val/ece, "),
]


def problems(tmp_path, *flags, text=CONFIG):
    file = tmp_path / "configs" / "trial.py"
    file.parent.mkdir()
    file.write_text(text)
    given = config.load(str(file), training.flags(*flags))
    return "\n".join(config.check(given, facts=None, num_devices=8))


@pytest.mark.parametrize(("best", "text"), CHECKED)
def test_the_best_must_be_a_result(tmp_path, best, text):
    assert text in problems(tmp_path, f"checkpoint.best={best}")


@pytest.mark.parametrize("best", ["near/top5", "val/ece", "val/class_accuracy"])
def test_any_result_may_be_the_best(tmp_path, best, monkeypatch):
    monkeypatch.setattr(Supervised, "reconstruct", reconstruct, raising=False)
    assert problems(tmp_path, f"checkpoint.best={best}") == ""


def test_pictures_need_an_objective_that_draws(tmp_path, monkeypatch):
    monkeypatch.delattr(Supervised, "reconstruct", raising=False)
    assert "objective 'supervised' reconstructs nothing" in problems(tmp_path)


def test_a_head_is_needed_for_logits(tmp_path):
    text = problems(tmp_path, "model.num_classes=0")
    assert "evals.val: 'classification' needs logits" in text
    assert "measure features: knn, fewshot, linear_probe" in text


def test_two_results_of_one_name(tmp_path):
    text = CONFIG.replace("evals.drawn", "evals.near_ema")
    assert "'near_ema' names the averaged parameters' results of 'near'" in problems(
        tmp_path, text=text
    )


def test_an_added_evaluation_needs_a_known_name():
    with pytest.raises(ConfigError, match="'zzz' is unknown"):
        from vit_jax.config_evals import with_evaluators

        with_evaluators(training.tiny_config(), ["zzz"])
