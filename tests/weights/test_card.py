import json

import numpy as np
import pytest
import yaml

from tests.weights import timm_models as tm
from vit_jax.weights.base import Card, Preprocessing
from vit_jax.weights.card import count_parameters, render

PREPARED = Preprocessing((12, 20), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 14, "bicubic")
CARD = Card(
    name="tiny model",
    preprocessing=PREPARED,
    config={"model": {"variant": "mu/16"}, "seed": 3},
    dataset="imagenet2012",
    metrics={"val/accuracy": 0.76543},
    licence="apache-2.0",
    source="model.npz",
)


def _front_matter(text):
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def _settings(**changes):
    return tm.complete(tm.tiny.settings(**changes))


def test_the_front_matter_is_what_hubs_read():
    front, _ = _front_matter(render(CARD, _settings()))
    assert front == {
        "library_name": "timm",
        "license": "apache-2.0",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "vision-transformer", "vit_jax"],
        "datasets": ["imagenet2012"],
        "metrics": ["accuracy"],
    }


def test_what_is_not_known_is_left_out_or_said():
    card = Card("tiny", Preprocessing((12, 20)))
    front, body = _front_matter(render(card, _settings(num_classes=0)))
    assert front.keys() == {"library_name", "pipeline_tag", "tags"}
    assert front["pipeline_tag"] == "image-feature-extraction"
    assert "Not stated: choose one" in body
    assert body.count("Not recorded.") == 2
    assert "nothing is cut off" in body
    assert "transformers.AutoModel.from" in body


def test_names_that_yaml_or_markdown_would_misread():
    card = Card("a: [b]\n# c | d", PREPARED, dataset='x: "y" #z', licence="- no")
    front, body = _front_matter(render(card, _settings()))
    assert front["datasets"] == ['x: "y" #z']
    assert front["license"] == "- no"
    assert body.splitlines()[1] == r"# a: [b] # c \| d"


def test_what_another_implementation_could_get_wrong_is_said():
    text = render(CARD, _settings(norm_epsilon=1e-12, activation="gelu", pool="map"))
    assert "| activation | GELU, exact |" in text
    assert "| norms | LayerNorm, epsilon 1e-12 |" in text
    assert "| image | 12 x 20 (height x width), 3 channels |" in text
    assert "| pooling | an attention pooling head" in text
    assert "tanh" not in text
    assert "GELU, tanh approximation" in render(CARD, _settings())
    assert "SiLU gate" in render(CARD, _settings(mlp="swiglu"))


def test_images_training_and_results_are_said():
    text = render(CARD, _settings())
    assert "smaller side to 14 pixels, bicubic" in text
    assert "mean (0.1, 0.2, 0.3)" in text
    assert "deviation (0.4, 0.5, 0.6)" in text
    assert "| val/accuracy | 0.7654 |" in text
    assert "Converted from `model.npz`." in text
    config = text.split("````json\n")[1].split("\n````")[0]
    assert json.loads(config) == CARD.config


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_snippets_are_of_the_libraries_that_open_it(library):
    text = render(CARD, _settings(), library=library)
    assert ("timm.create_model" in text) == (library == "timm")
    assert "AutoModelForImageClassification" in text
    for snippet in text.split("```python\n")[1:]:
        compile(snippet.split("```")[0], "snippet", "exec")


def test_parameters_are_counted_without_any():
    settings, params, _ = tm.random_model(pool="map", registers=2)
    count = sum(np.size(array) for array in params.values())
    assert count_parameters(settings) == count
    assert f"| parameters | {count:,} |" in render(CARD, settings)
