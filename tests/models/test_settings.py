"""What the model's settings may be, and what is said about the rest."""

import pytest

from tests.models import options, tiny
from vit_jax.models.settings import Settings, check_vit


def problems(**changes):
    return check_vit(Settings(**tiny.settings(**changes)))


HYBRID = {"image_size": (64, 64), "patch_size": (16, 16), "stem": (1, 2, 1)}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        *options.SINGLE.values(),
        *options.MIXED.values(),
        HYBRID,
        HYBRID | {"stem": ()},
        {"image_size": (12, 24), "patch_size": (4, 4), "patch_sizes": (2, 3, 12)},
    ],
    ids=str,
)
def test_sound_settings_have_no_problems(changes):
    assert problems(**changes) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pool": "mean"},
            "model.pool 'mean' is unknown; known: cls, gap, map, cls_gap",
        ),
        (
            {"position": "rope"},
            "model.position 'rope' is unknown; known: learned, learned_cls, "
            "learned_prefix, sincos2d, sincos2d_mae, none",
        ),
        (
            {"distillation": "hard"},
            "model.distillation 'hard' is unknown; known: none, token, head",
        ),
        ({"rope": "2d"}, "model.rope '2d' is unknown; known: none, axial, dinov3"),
        (
            {"activation": "relu"},
            "model.activation 'relu' is unknown; known: gelu_tanh, gelu",
        ),
        ({"mlp": "moe"}, "model.mlp 'moe' is unknown; known: dense, swiglu"),
        ({"norm": "batch"}, "model.norm 'batch' is unknown; known: layer, rms"),
        (
            {"final_norm": "none"},
            "model.final_norm 'none' is unknown; known: tokens, features, both",
        ),
        ({"dropout": 1.0}, "model.dropout must be in [0, 1), got 1.0"),
        ({"attention_dropout": -0.1}, "model.attention_dropout must be in [0, 1)"),
        ({"drop_path": 1.5}, "model.drop_path must be in [0, 1), got 1.5"),
        ({"patch_dropout": 1.0}, "model.patch_dropout must be in [0, 1), got 1.0"),
        ({"registers": -1}, "model.registers must be at least 0, got -1"),
        ({"num_classes": -1}, "model.num_classes must be at least 0, got -1"),
        ({"norm_epsilon": 0.0}, "model.norm_epsilon must be positive, got 0.0"),
        ({"rope_base": -1.0}, "model.rope_base must be positive, got -1.0"),
        ({"layer_scale": float("nan")}, "model.layer_scale must be finite, got nan"),
        ({"head_bias": float("inf")}, "model.head_bias must be finite, got inf"),
        (
            {"image_size": (13, 20)},
            "patch size (4, 5) does not divide image size (13, 20) (height, width)",
        ),
        (
            {"patch_sizes": (4, 5)},
            "patch_sizes: (5, 5) does not divide image size (12, 20) (height, width)",
        ),
        ({"patch_sizes": (0,)}, "patch_sizes: (0, 0) does not divide"),
        ({"width": 28}, "num_heads 3 does not divide width 28"),
        (
            {"width": 18, "rope": "axial"},
            "rope 'axial' needs heads with a width in fours; got 6 (width 18 / "
            "num_heads 3)",
        ),
        (
            {"width": 18, "position": "sincos2d"},
            "position 'sincos2d' needs a width in fours, at least 8; got 18",
        ),
        (
            {"width": 18, "position": "sincos2d_mae"},
            "position 'sincos2d_mae' needs a width in fours, at least 4; got 18",
        ),
        (HYBRID | {"stem": (1, 0)}, "stem (1, 0) has a stage without units"),
        (
            HYBRID | {"patch_size": (8, 16)},
            "stem (1, 2, 1) has a stride of 16, which does not divide patch size "
            "(8, 16)",
        ),
        (HYBRID | {"patch_sizes": (8,)}, "patch_sizes resize whole patches"),
        ({"pool": "cls"}, "cls_token must be True for pool 'cls'"),
        ({"pool": "cls_gap"}, "cls_token must be True for pool 'cls_gap'"),
        (
            {"position": "learned_cls", "distillation": "token"},
            "cls_token must be True for position 'learned_cls' and distillation "
            "'token'",
        ),
        (
            {"cls_token": True, "distillation": "head", "final_norm": "features"},
            "distillation 'head' reads a token: final_norm must be 'tokens' or 'both'",
        ),
    ],
)
def test_problems(changes, message):
    (problem,) = problems(**changes)
    assert problem.startswith(message)


def test_all_problems_are_found_at_once():
    found = problems(pool="cls", rope="2d", registers=-1, width=25, patch_dropout=2.0)
    assert len(found) == 5


def test_unknown_settings_are_an_error():
    with pytest.raises(TypeError, match="widht"):
        Settings(**tiny.settings(), widht=3)


@pytest.mark.parametrize(
    ("changes", "prefix", "rows"),
    [
        ({"position": "learned"}, 0, 12),
        ({"position": "learned", **options.PREFIX}, 3, 12),
        ({"position": "learned_cls", **options.PREFIX}, 3, 13),
        (
            {"position": "learned_cls", "distillation": "token", **options.PREFIX},
            4,
            14,
        ),
        ({"position": "learned_prefix", **options.PREFIX}, 3, 15),
        ({"position": "learned_prefix"}, 0, 12),
        ({"position": "sincos2d", "cls_token": True}, 1, 0),
        ({"position": "none"}, 0, 0),
    ],
    ids=str,
)
def test_tokens_in_front_and_rows_of_positions(changes, prefix, rows):
    settings = Settings(**tiny.settings(**changes))
    assert (settings.num_prefix, settings.position_rows) == (prefix, rows)
    assert settings.grid == (3, 4)
