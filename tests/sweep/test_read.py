"""Sweeps in flags, files and a config's get_sweep()."""

import json

import pytest

from vit_jax.config import ConfigError
from vit_jax.sweep import read
from vit_jax.sweep.expand import Drawn
from vit_jax.sweep.ranges import SweepError


def flags(*settings, combine="product", samples=None, seed=0):
    return read.from_flags(settings, combine=combine, samples=samples, seed=seed)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1e-3,3e-3", ["1e-3", "3e-3"]),
        ("(8,8);(16,16)", ["(8,8)", "(16,16)"]),
        ("(8,8),(16,16)", ["(8,8)", "(16,16)"]),
        ("(8,8)", ["(8,8)"]),
        ("a;b,c", ["a", "b,c"]),
        ("'a,b','c;d'", ["'a,b'", "'c;d'"]),
        (
            "(('x', 'train', 0.5), ('y', 'train', 0.5))",
            ["(('x', 'train', 0.5), ('y', 'train', 0.5))"],
        ),
    ],
)
def test_values_are_separated(text, values):
    assert read.split(text) == values


def test_flags_with_and_without_config_before_the_key():
    expected = [
        {"optim.learning_rate": "1e-3", "seed": "0"},
        {"optim.learning_rate": "1e-3", "seed": "1"},
    ]
    assert flags("config.optim.learning_rate=1e-3", "seed=0,1") == expected
    assert flags("--config.optim.learning_rate=1e-3", "config.seed=0,1") == expected
    assert len(flags("a=1,2", "b=3,4", combine="zip")) == 2
    assert flags("a=1,2", "b=3", combine="chain") == [
        {"a": "1"},
        {"a": "2"},
        {"b": "3"},
    ]


def test_ranges_in_flags_are_drawn_from():
    drawn = flags("a=loguniform(1e-4,1e-2)", "b=integers(1, 3)", "c=x,y", samples=9)
    assert isinstance(drawn, Drawn) and len(drawn) == 9
    assert set(drawn.space) == {"a", "b", "c"}
    assert {trial["c"] for trial in drawn} <= {"x", "y"}
    assert flags("a=choice((1,2);(3,4))", samples=1)[0]["a"] in ("(1,2)", "(3,4)")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (dict(settings=["a"]), "is not KEY=VALUE"),
        (dict(settings=["a="]), "is not KEY=VALUE"),
        (dict(settings=["a=1,,2"]), "empty value"),
        (dict(settings=["a=1", "config.a=2"]), "twice"),
        (dict(settings=["a=uniform(0,1)"]), "--samples=N"),
        (dict(settings=["a=uniform(0,1)"], samples=2, combine="zip"), "no use"),
        (dict(settings=["a=uniform(0)"], samples=2), "two numbers"),
        (dict(settings=["a=normal(0,1)"], samples=2), "no range 'normal'.*uniform"),
        (dict(settings=["a=uniform(2,1)"], samples=2), "the lower first"),
    ],
)
def test_mistakes_in_flags(arguments, text):
    with pytest.raises(SweepError, match=text):
        flags(*arguments.pop("settings"), **arguments)


def test_files_of_plain_data(tmp_path):
    content = {
        "chain": [
            {"product": {"optim.learning_rate": [0.001, 0.003], "seed": [0, 1]}},
            {"zip": [{"a": [1, 2]}, {"b": [[8, 8], [16, 16]]}]},
            [{"seed": 7}],
            {"c": [5, 6]},
        ]
    }
    path = tmp_path / "s.json"
    path.write_text(json.dumps(content))
    found = read.from_file(str(path))
    assert len(found) == 4 + 2 + 1 + 2
    assert found[4] == {"a": 1, "b": [8, 8]}
    assert found[-1] == {"c": 6}
    path = tmp_path / "s.yaml"
    path.write_text(
        "random:\n  optim.learning_rate: loguniform(1e-4, 1e-2)\n  seed: [0, 1]\n"
        "samples: 5\nseed: 3\n"
    )
    drawn = read.from_file(str(path))
    assert isinstance(drawn, Drawn) and len(drawn) == 5
    assert all(1e-4 <= trial["optim.learning_rate"] <= 1e-2 for trial in drawn)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("s.toml", "", "is .py, .json or .yaml"),
        ("s.json", "{", "cannot be read"),
        ("s.json", '{"product": {}, "zip": {}}', "one of product, zip, chain"),
        ("s.json", '{"grid": {"a": [1]}}', "got {'grid'"),
        ("s.json", "3", "got 3"),
        ("s.json", '{"product": 3}', "holds keys"),
        ("s.json", '{"random": {"a": [1]}}', "samples: N"),
        ("s.yaml", "a: [", "cannot be read"),
        ("s.json", '[{"a": 1}, 2]', "holds trials"),
        ("s.json", '{"product": [[{"seed": 0}], 3]}', "got 3"),
        ("s.json", '{"random": {"a": [1]}, "samples": 1, "seed": [1]}', "whole number"),
        ("s.json", '{"product": {"seed": [0], "seed": [1]}}', "seed is there twice"),
        ("s.yaml", "product:\n  a: [0]\n  a: [1]\n", "a is there twice"),
    ],
)
def test_mistakes_in_files(tmp_path, name, content, text):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(SweepError, match=text):
        read.from_file(str(path))


def test_a_file_that_is_not_there():
    with pytest.raises(SweepError, match="there is no such file"):
        read.from_file("nowhere.json")


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ("return {'seed': [0, 1, 2]}", 3),
        ("return [{'seed': 1}]", 1),
        ("from vit_jax import sweep; return sweep.zip({'seed': range(4)})", 4),
    ],
)
def test_a_config_says_its_sweep(tmp_path, body, count):
    path = tmp_path / "mine.py"
    path.write_text(f"def get_sweep():\n    {body}\n")
    assert len(read.from_file(str(path))) == count
    assert len(read.from_config(f"{path}:L/16")) == count


def test_mistakes_in_get_sweep(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def get_sweep():\n    return 3\n")
    with pytest.raises(SweepError, match="returned a int"):
        read.from_file(str(path))
    path.write_text("def get_sweep():\n    return 1 / 0\n")
    with pytest.raises(ConfigError, match="line 2: ZeroDivisionError"):
        read.from_file(str(path))
    path.write_text("def get_config():\n    return 1\n")
    with pytest.raises(ConfigError, match=r"defines no get_sweep\(\)"):
        read.from_file(str(path))


def test_the_shipped_sweep_of_digits():
    assert len(read.from_config("configs/digits.py")) == 12
