"""The HTML file: what it says, that it loads nothing, and that no value becomes code."""

import html.parser
import json
import re

import pytest

from tests.report import made_runs
from vit_jax import cli, storage
from vit_jax.report.origins import command_line
from vit_jax.report.page import named, page, write
from vit_jax.report.record import read
from vit_jax.report.tables import best_of

VOID = ("meta", "link", "input", "img", "br")


class Parsed(html.parser.HTMLParser):
    """Tags with their attributes, texts, and the data of the curves."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.marked, self.open = [], [], [], []
        self.data = None
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop()[0] == tag

    def handle_data(self, data):
        tag, attributes = self.open[-1] if self.open else ("", {})
        if attributes.get("id") == "data":
            self.data = json.loads(data)
        elif tag not in ("script", "style"):
            self.texts.append(data)
            if tag == "mark":
                self.marked.append(data)

    @property
    def text(self):
        return " ".join(self.texts)


def of(*folders):
    return Parsed(page([read(str(folder)) for folder in folders]))


def test_one_run(tmp_path):
    found = of(made_runs.make(tmp_path / "digits"))
    for words in (
        "Ti/2",
        "supervised",
        "digits train",
        "200 of 200",
        "63.74 %",
        "80 %",
        "vit-jax train \\\n  --config=configs/digits.py",
        "8 x cpu",
        "JAX_PLATFORMS",
        "0.10.2",
        "optim.learning_rate = 0.001",
    ):
        assert words in found.text, words
    names = [p["name"] for g in found.data["groups"] for p in g["panels"]]
    assert names[:2] == ["train/loss", "train/accuracy"]
    assert {"val/accuracy", "train/mfu", "goodput/ratio"} <= set(names)
    (run,) = found.data["runs"]
    assert run["name"] == "digits" and run["epoch"] == 10.0
    assert run["clock"]["seconds"][0] == 6
    pictures = [attributes for tag, attributes in found.tags if tag == "img"]
    assert [one["alt"] for one in pictures] == [
        "attention of digits",
        "filters of digits",
    ]
    assert "Where the configs differ" not in found.text


def test_several_runs_are_compared(tmp_path):
    slow = made_runs.make(tmp_path / "slow", rate=1e-4, slower=3.0)
    fast = made_runs.make(tmp_path / "fast", rate=1e-3)
    killed = made_runs.make(tmp_path / "killed", until=70, ended=None)
    found = of(slow, fast, killed)
    assert "Where the configs differ" in found.text
    assert re.search(r"optim.learning_rate\s+0.0001\s+0.001\s+0.001", found.text)
    assert "What all configs share" in found.text
    assert "model.variant = 'Ti/2'" in found.text
    assert "crashed" in found.text
    loss = found.data["groups"][0]["panels"][0]
    assert [line["run"] for line in loss["lines"]] == [0, 1, 2]
    assert [line["x"][-1] for line in loss["lines"]] == [200, 200, 70]
    assert found.marked == ["63.74 %", "1.281"]  # the best of each result


def test_nothing_is_loaded_and_scripts_must_be_the_pages_own(tmp_path):
    text = page([read(str(made_runs.make(tmp_path / "run")))])
    found = Parsed(text)
    for tag, attributes in found.tags:
        for name in ("src", "href", "action", "srcset", "poster"):
            assert attributes.get(name, "data:").startswith("data:")
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        assert tag not in ("iframe", "object", "embed", "base")
    used = re.sub(r"http://www\.w3\.org/2000/svg", "", text)  # a name, not an address
    assert not re.search(r"(https?:)?//\w+\.|@import|url\(", used)
    (policy,) = [
        one["content"]
        for tag, one in found.tags
        if one.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert len(text) < 300_000


def test_no_value_of_a_run_becomes_part_of_the_page(tmp_path):
    evil = "</script><script>window.hacked=1</script><img src=x onerror=hacked()>"
    folder = made_runs.make(
        tmp_path / "run",
        command=["train", f"--config={evil}"],
        device=evil,
        versions={evil: evil},
        variables={"XLA_FLAGS": evil},
        git=evil,
        mesh={evil: 2},
        ended={"how": "failed", "message": evil},
    )
    saved = json.loads((folder / "config.json").read_text())
    saved["config"]["data"]["name"] = evil
    saved["config"][evil] = {"key": evil}
    (folder / "config.json").write_text(json.dumps(saved))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 300, f"{evil}/accuracy": 0.5}) + "\n")
    (folder / "figures" / "a<b onload=x>.png").write_bytes(made_runs.PNG)
    other = tmp_path / "<script>alert(1)<"
    folder.rename(other)
    found = of(other)
    clean = of(made_runs.make(tmp_path / "clean"))
    scripts = [attributes for tag, attributes in found.tags if tag == "script"]
    assert len(scripts) == 2
    assert {tag for tag, _ in found.tags} <= {tag for tag, _ in clean.tags} | {"mark"}
    assert "<script>alert(1)<" in found.text
    assert evil in found.text
    assert found.data["runs"][0]["name"] == "<script>alert(1)<"


def test_what_is_missing_is_left_out(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    found = of(folder)
    assert "Nothing has been logged yet" in found.text
    assert found.data is None
    (folder / "metrics.jsonl").write_text(
        '{"step": 1, "train/loss": null}\n{"step": 2, "train/loss": 1.5}\n{"step": 3, '
    )
    found = of(folder)
    (line,) = found.data["groups"][0]["panels"][0]["lines"]
    assert line == {"run": 0, "x": [1, 2], "y": [None, 1.5]}
    assert "No evaluation has run yet" in found.text
    assert "The command was not kept" in found.text
    assert "Where the time went was not kept" in found.text


def test_a_long_run_is_thinned_and_it_is_said(tmp_path):
    folder = made_runs.make(tmp_path / "run")
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(5000):
            row = {"step": step, **made_runs.row(step, step / 10)}
            file.write(json.dumps(row) + "\n")
    text = page([read(str(folder))])
    assert "thinned (the longest has 5,000)" in text
    lines = Parsed(text).data["groups"][0]["panels"][0]["lines"]
    assert len(lines[0]["x"]) <= 2002
    assert len(text) < 600_000


def test_what_went_wrong_on_the_way_is_told(tmp_path):
    folder = made_runs.make(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        for row in (
            {"step": 190, "train/nonfinite": 1.0},
            {"step": 195, "train/rolled_back_to": 150.0},
            {"step": 200, "data/bad_examples": 3.0},
        ):
            file.write(json.dumps(row) + "\n")
    assert "1 steps not finite, 1 rollbacks, 3 bad examples" in of(folder).text


def test_runs_of_one_name_are_told_apart(tmp_path):
    folders = [
        made_runs.make(tmp_path / study / trial / "run")
        for study, trial in (("a", "1"), ("b", "1"), ("b", "2"))
    ]
    folders.append(made_runs.make(tmp_path / "other"))
    records = named([read(str(folder)) for folder in folders])
    assert [one.name for one in records] == ["a/1/run", "b/1/run", "2/run", "other"]


def test_where_it_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        made_runs.make(tmp_path / name)
    assert cli.main(["report", "a/"]) == 0
    assert capsys.readouterr().out == "a/report.html\n"
    assert cli.main(["report", "a", "b"]) == 0
    assert capsys.readouterr().out == "report.html\n"
    before = (tmp_path / "report.html").read_text()
    assert cli.main(["report", "a", "--output=report.html"]) == 0  # replaced
    assert (tmp_path / "report.html").read_text() != before
    (tmp_path / "thesis.html").write_text("mine")
    capsys.readouterr()
    assert cli.main(["report", "a", "--output=thesis.html"]) == 2
    assert "is no report" in capsys.readouterr().err
    assert (tmp_path / "thesis.html").read_text() == "mine"
    assert cli.main(["report", "a", "--output=a/config.json/x.html"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_picture_is_never_taken_for_a_report(tmp_path):
    made_runs.make(tmp_path / "a")
    target = tmp_path / "a" / "figures" / "filters.png"
    with pytest.raises(storage.StorageError):
        write([read(str(tmp_path / "a"))], str(target))
    assert target.read_bytes() == made_runs.PNG


def test_the_command_is_one_a_shell_reads_again():
    import shlex

    words = ["train", "--config=my configs/a.py:B/16", "--config.log.wandb=it's"]
    line = command_line(words)
    assert shlex.split(line.replace("\\\n", " ")) == ["vit-jax", *words]


def test_the_best_of_a_result():
    points = [(1, 0.5), (2, None), (3, 0.9), (4, 0.9), (5, 0.2)]
    assert best_of("val/accuracy", points) == (3, 0.9)
    assert best_of("val/loss", points) == (5, 0.2)
    assert best_of("val/examples", points) is None
    assert best_of("val/loss", [(2, None)]) is None
