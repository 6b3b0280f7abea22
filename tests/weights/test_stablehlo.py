import json

import jax.export
import numpy as np
import pytest

from tests.weights import exports
from vit_jax.weights import WeightsError, stablehlo
from vit_jax.weights.stablehlo import load_stablehlo

TOLERANCE = 1e-5


def gap(ours, theirs):
    return np.abs(np.asarray(ours) - np.asarray(theirs)).max()


@pytest.mark.parametrize("name", exports.PROGRAMS)
def test_it_computes_what_the_model_does_for_any_batch(name, tmp_path):
    model = exports.build(**exports.PROGRAMS[name])
    stablehlo.write(tmp_path / "folder", model, exports.card(model))
    images = exports.images(model, 5)
    wanted = exports.expected(model, images)
    apply = load_stablehlo(tmp_path / "folder")
    for batch in (1, 2, 5):
        assert gap(apply(images[:batch]), wanted[:batch]) <= TOLERANCE


def test_a_single_file_holds_the_parameters(tmp_path):
    model = exports.build()
    file = tmp_path / "vit.stablehlo"
    stablehlo.write_single_file(file, model, exports.card(model))
    images = exports.images(model, 3)
    wanted = exports.expected(model, images)
    apply = load_stablehlo(str(file))
    for batch in (1, 3):
        assert gap(apply(images[:batch]), wanted[:batch]) <= TOLERANCE
    assert [path.name for path in tmp_path.iterdir()] == ["vit.stablehlo"]


def test_the_read_me_runs_it_without_this_package(tmp_path):
    model = exports.build(**exports.CLS)
    folder = tmp_path / "folder"
    stablehlo.write(folder, model, exports.card(model, licence="mit"))
    read_me = (folder / "README.md").read_text()
    assert "Licence: mit" in read_me
    code = read_me.split("```python\n")[1].split("```")[0].replace("PATH", str(folder))
    images = exports.images(model, 3)
    np.save(tmp_path / "images.npy", images)
    code += (
        f"assert {{name.split('.')[0] for name in sys.modules}}.isdisjoint({{'flax'}})\n"
        f"images = np.load({str(tmp_path / 'images.npy')!r})\n"
        f"np.save({str(tmp_path / 'logits.npy')!r}, program.call(params, images))\n"
    )
    exports.run_python(code, package=False)
    logits = np.load(tmp_path / "logits.npy")
    assert gap(logits, exports.expected(model, images)) <= TOLERANCE


def test_it_is_a_float32_program_for_every_platform(tmp_path):
    model = exports.build(**exports.PROGRAMS["trained otherwise"])
    stablehlo.write(tmp_path / "folder", model, exports.card(model))
    program = jax.export.deserialize(
        bytearray((tmp_path / "folder" / stablehlo.PROGRAM).read_bytes())
    )
    assert program.platforms == ("cpu", "cuda", "tpu")
    text = program.mlir_module()
    assert "bf16" not in text
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert products
    assert all("HIGHEST, HIGHEST" in line for line in products)


def test_other_parameters_can_be_given(tmp_path):
    model = exports.build()
    stablehlo.write(tmp_path / "folder", model, exports.card(model))
    file = tmp_path / "folder" / stablehlo.PARAMETERS
    from safetensors.numpy import load_file, save_file

    params = load_file(file)
    bias = np.arange(7, dtype=np.float32)
    save_file(params | {"head/bias": params["head/bias"] + bias}, file)
    images = exports.images(model, 2)
    outputs = load_stablehlo(tmp_path / "folder")(images)
    assert gap(outputs, exports.expected(model, images) + bias) <= TOLERANCE


def test_the_description_has_what_a_caller_needs(tmp_path):
    model = exports.build()
    card = exports.card(model, metrics={"val/loss": float("nan"), "val/accuracy": 0.5})
    stablehlo.write(tmp_path / "folder", model, card)

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    text = (tmp_path / "folder" / stablehlo.DESCRIPTION).read_text()
    found = json.loads(text, parse_constant=refuse)
    assert found["input"]["shape"] == ["batch", 12, 20, 3]
    assert found["input"]["dtype"] == "float32"
    assert found["output"] == {
        **{"name": "logits", "shape": ["batch", 7], "dtype": "float32"},
    }
    assert found["preprocessing"]["mean"] == [0.5, 0.4, 0.3]
    assert found["preprocessing"]["resize"] == 16
    assert "smaller side of 16" in found["preprocessing"]["in_words"]
    assert "central 12x20" in found["preprocessing"]["in_words"]
    assert found["class_names"] == list(exports.NAMES)
    assert found["metrics"] == {"val/loss": "NaN", "val/accuracy": 0.5}
    program = jax.export.deserialize(
        bytearray((tmp_path / "folder" / stablehlo.PROGRAM).read_bytes())
    )
    assert [tuple(entry["shape"]) for entry in found["parameters"]] == [
        aval.shape for aval in program.in_avals[:-1]
    ]


def test_a_wrong_image_size_is_refused(tmp_path):
    model = exports.build()
    stablehlo.write(tmp_path / "folder", model, exports.card(model))
    apply = load_stablehlo(tmp_path / "folder")
    with pytest.raises(ValueError, match="20"):
        apply(np.zeros((1, 12, 24, 3), np.float32))


def test_what_is_no_program_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="no such file"):
        load_stablehlo(tmp_path / "absent")
    (tmp_path / "other").write_bytes(b"not a program of anything at all")
    with pytest.raises(WeightsError, match=r"not a program of jax\.export"):
        load_stablehlo(tmp_path / "other")
