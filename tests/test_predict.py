"""Images in, classes, features and attention out, whatever the devices and batches."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from tests import training
from tests.models import reference, tiny
from vit_jax import cli, setup_data
from vit_jax import predict as module
from vit_jax.data.augment import eval_transform
from vit_jax.models import attention_maps
from vit_jax.models.vit import ViT
from vit_jax.predict import PredictError, predict
from vit_jax.weights import big_vision_npz, original_npz
from vit_jax.weights.base import Card, Preprocessing, complete
from vit_jax.weights.load import load

SIZE = (12, 20)
CLS = {"pool": "cls", "cls_token": True, "position": "learned_cls"}
MODELS = {
    "cls": (original_npz, CLS),
    "gray": (original_npz, CLS | {"channels": 1}),
    "headless": (original_npz, CLS | {"num_classes": 0}),
    "gap": (original_npz, {}),
    "map": (big_vision_npz, {"pool": "map"}),
}
TOLERANCE = 1e-5


def params_of(name):
    return tiny.fill(tiny.vit_shapes(**MODELS[name][1])[1])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The npz file of a tiny model, by name."""
    folder = tmp_path_factory.mktemp("weights")

    @functools.cache
    def write(name):
        file_format, changes = MODELS[name]
        settings = complete(tiny.settings(**changes))
        path = folder / f"{name}.npz"
        card = Card("tiny", Preprocessing(SIZE))
        file_format.write(path, settings, tiny.flatten(params_of(name)), card)
        return str(path)

    return write


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Five image files of several formats and sizes."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(3)
    files = []
    for index, ending in enumerate(("png", "jpg", "bmp", "webp", "gif")):
        blocks = rng.integers(0, 256, (5 + index, 7, 3), dtype=np.uint8)
        file = folder / f"{index}.{ending}"
        Image.fromarray(blocks).resize((61, 47), Image.Resampling.NEAREST).save(file)
        files.append(str(file))
    return files


def quiet(*arguments, **settings):
    """predict without its lines; the files have no square grid and do not say so."""
    settings = {"image_size": SIZE, "say": lambda line: None} | settings
    return predict(*arguments, **settings)


def pixels(files, channels=3):
    """Files as the models of the paper see them: resized, between -1 and 1."""
    mode = "RGB" if channels == 3 else "L"
    arrays = []
    for file in files:
        with Image.open(file) as opened:
            image = opened.convert(mode)
        image = image.resize(SIZE[::-1], Image.Resampling.BILINEAR)
        arrays.append(np.asarray(image).reshape(*SIZE, channels))
    return np.stack(arrays) / 127.5 - 1.0


@functools.cache
def expected(name, files):
    """The reference's outputs for image files."""
    settings = tiny.settings(**MODELS[name][1])
    names = ("patch_size", "num_heads", "pool", "position", "cls_token")
    return reference.forward(
        params_of(name),
        pixels(files, settings["channels"]),
        **{field: settings[field] for field in names},
        pre_logits=False,
    )


def test_classes_are_those_of_the_reference(weights, images):
    lines = []
    result = quiet(weights("cls"), images, top=3, say=lines.append)
    probabilities = reference.softmax(expected("cls", tuple(images))["logits"])
    assert [prediction.file for prediction in result] == images
    said = iter(lines)
    for prediction, row in zip(result, probabilities, strict=True):
        best = sorted(range(7), key=lambda number: -row[number])[:3]
        assert [guess.name for guess in prediction.guesses] == [
            f"class {number}" for number in best
        ]
        found = [guess.probability for guess in prediction.guesses]
        np.testing.assert_allclose(found, row[best], atol=1e-4)
        assert next(said) == prediction.file
        for guess in prediction.guesses:
            assert next(said) == f"  {guess.probability:6.1%}  {guess.name}"
    assert list(said) == []
    assert len({prediction.guesses[0].name for prediction in result}) > 1


def test_top_is_no_more_than_there_are(weights, images):
    (prediction,) = quiet(weights("cls"), images[:1], top=50)
    assert len(prediction.guesses) == 7
    assert sum(guess.probability for guess in prediction.guesses) == pytest.approx(1)


@pytest.mark.parametrize("name", ["cls", "gap", "map"])
def test_features_equal_the_reference(name, weights, images, tmp_path):
    path = tmp_path / "features.npz"
    path.write_text("what was there before")
    quiet(weights(name), images, features=str(path))
    wanted = expected(name, tuple(images))
    with np.load(path) as arrays:
        assert set(arrays) == {"features", "logits", "files"}
        assert arrays["files"].tolist() == images
        assert arrays["features"].dtype == arrays["logits"].dtype == np.float32
        assert tiny.error(arrays["features"], wanted["features"]) < 1e-3  # JPEG, WebP
        assert tiny.error(arrays["logits"], wanted["logits"]) < 1e-3
        assert tiny.error(arrays["logits"][:1], wanted["logits"][:1]) < TOLERANCE
    assert list(tmp_path.iterdir()) == [path]


def test_gray_models_take_images_in_colour(weights, images, tmp_path):
    path = tmp_path / "features.npz"
    quiet(weights("gray"), images, features=str(path))
    wanted = expected("gray", tuple(images))["logits"]
    with np.load(path) as arrays:
        # OpenCV and PIL round luminance differently, by 1 in 255.
        assert tiny.error(arrays["logits"], wanted) < 0.02


@pytest.mark.parametrize(("devices", "batch_size"), [(8, 1), (8, 64), (3, 3), (1, 2)])
def test_any_devices_and_batches(
    devices, batch_size, weights, images, tmp_path, monkeypatch
):
    local = jax.devices()
    used, traced = [], []

    def traced_normalize(pixels, mean, std, real=module.normalize):
        traced.append(pixels.shape)
        return real(pixels, mean, std)

    def watched(array, place, real=jax.device_put):
        if getattr(array, "dtype", None) == np.uint8:  # pixels, not parameters
            used.append(place)
        return real(array, place)

    def run(path):
        quiet(weights("cls"), images, features=str(path), batch_size=batch_size)
        with np.load(path) as arrays:
            return arrays["features"], arrays["logits"]

    monkeypatch.setattr(jax, "local_devices", lambda: local[:1])
    one = run(tmp_path / "one.npz")
    monkeypatch.setattr(jax, "local_devices", lambda: local[:devices])
    monkeypatch.setattr(module, "normalize", traced_normalize)
    monkeypatch.setattr(jax, "device_put", watched)
    many = run(tmp_path / "many.npz")
    for left, right in zip(one, many, strict=True):
        assert len(left) == 5
        assert tiny.error(left, right) < TOLERANCE
    assert len(traced) == 1 and traced[0][0] % devices == 0
    assert {place.num_devices for place in used} == {devices}
    assert len(used) == -(-5 // traced[0][0])


def test_names_of_classes(weights, images, monkeypatch):
    names = tuple(f"{colour} cat" for colour in "abcdefg")

    def renamed(*arguments, **settings):
        loaded = load(*arguments, **settings)
        record = dataclasses.replace(loaded.record, class_names=names)
        return loaded._replace(record=record)

    numbered = quiet(weights("cls"), images[:1])
    monkeypatch.setattr(module, "load", renamed)
    lines = []
    (prediction,) = quiet(weights("cls"), images[:1], say=lines.append)
    for guess, before in zip(prediction.guesses, numbered[0].guesses, strict=True):
        assert guess.name == names[int(before.name.removeprefix("class "))]
    assert lines[1].endswith(f"%  {prediction.guesses[0].name}")


def record_of(weights, **changes):
    return dataclasses.replace(load(weights("cls"), image_size=SIZE).record, **changes)


def test_images_are_prepared_as_recorded(weights, images):
    chosen = Preprocessing(SIZE, resize=22, interpolation="bicubic")
    (prepared,) = module._prepare(images[:1], record_of(weights, preprocessing=chosen))
    with Image.open(images[0]) as opened:
        image = opened.resize((28, 22), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(prepared, image.crop((4, 5, 24, 17)))


def test_images_of_a_run_are_prepared_as_in_its_evaluations(weights, images):
    chosen = Preprocessing(SIZE, resize=22, interpolation="bilinear")
    record = record_of(weights, preprocessing=chosen, format="workdir")
    (prepared,) = module._prepare(images[:1], record)
    transform = eval_transform(image_size=SIZE, channels=3, resize=22)
    with open(images[0], "rb") as file:
        np.testing.assert_array_equal(prepared, transform(file.read()))


def test_a_model_without_a_head(weights, images, tmp_path):
    path = tmp_path / "features.npz"
    with pytest.raises(PredictError, match=r"no head.*--features"):
        quiet(weights("headless"), images)
    lines = []
    result = quiet(weights("headless"), images, features=str(path), say=lines.append)
    assert lines == [f"features: {path}"]
    assert [prediction.guesses for prediction in result] == [()] * 5
    with_head = expected("cls", tuple(images))
    with np.load(path) as arrays:
        assert arrays["logits"].shape == (5, 0)
        assert arrays["features"].shape == with_head["features"].shape
    quiet(weights("headless"), images[:1], attention=str(tmp_path / "map.png"))
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_a_new_head_is_told(weights, images):
    lines = []
    result = quiet(weights("cls"), images[:1], num_classes=4, say=lines.append)
    assert "initial values" in lines[0] and "head/kernel" in lines[0]
    assert {guess.probability for guess in result[0].guesses} == {0.25}


def maps_of(name, files):
    """Where the features come from, by the weights of every block."""
    settings = tiny.settings(**MODELS[name][1])
    graphdef, _ = tiny.shapes(lambda key: ViT(**settings, key=key))

    def compute(params, images):
        model = nnx.merge(graphdef, params)
        if settings["pool"] == "map":
            return attention_maps.pooling_weights(model, images).mean(axis=1)
        rolled = attention_maps.rollout(attention_maps.attention_weights(model, images))
        return rolled[:, 0, 1:] if settings["cls_token"] else rolled.mean(axis=1)

    inputs = pixels(files).astype(np.float32)
    return tiny.jit(compute)(params_of(name), inputs).reshape(-1, 3, 4)


@pytest.mark.parametrize("name", ["cls", "gap", "map"])
def test_attention_is_that_of_the_model(name, weights, images, tmp_path, monkeypatch):
    drawn = {}

    def draw(stream, images, maps, *, names, captions):
        drawn.update(images=images, maps=maps, names=names, captions=captions)
        stream.write(b"drawn")

    monkeypatch.setattr("vit_jax.report.attention.draw", draw)
    path, files = tmp_path / "attention.png", images[:1] * 3
    result = quiet(weights(name), files, attention=str(path))
    assert path.read_bytes() == b"drawn"
    assert tiny.error(drawn["maps"], maps_of(name, files)) < TOLERANCE
    assert np.std(drawn["maps"]) > 1e-4
    assert drawn["names"] == files
    assert [image.shape for image in drawn["images"]] == [(*SIZE, 3)] * 3
    best = result[0].guesses[0]
    assert drawn["captions"][0] == f"{best.name}  {best.probability:.1%}"


def test_a_failed_drawing_leaves_what_was_there(weights, images, tmp_path, monkeypatch):
    def draw(stream, *arguments, **settings):
        stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("vit_jax.report.attention.draw", draw)
    path = tmp_path / "attention.png"
    path.write_bytes(b"before")
    with pytest.raises(OSError, match="disk full"):
        quiet(weights("cls"), images[:1], attention=str(path))
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def call(capsys, *arguments):
    """Exit code and both outputs of `vit-jax predict`."""
    code = cli.main(["predict", f"--image_size={SIZE[0]}x{SIZE[1]}", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command(weights, images, tmp_path, capsys):
    path = tmp_path / "attention.png"
    code, out, err = call(
        capsys,
        f"--weights={weights('cls')}",
        "--top=2",
        f"--attention={path}",
        *images[:2],
    )
    assert code == 0 and not err
    lines = out.splitlines()
    assert [lines[0], lines[3]] == images[:2]
    assert lines[1].endswith(quiet(weights("cls"), images[:1])[0].guesses[0].name)
    assert lines[6:] == [f"attention: {path}"]
    with Image.open(path) as drawn:
        assert drawn.format == "PNG" and drawn.width > 600


MISTAKES = {
    "missing": (["{tmp}/no.png"], "{tmp}/no.png: no such image"),
    "folder": (["{tmp}"], "{tmp}: is a folder; name the files in it"),
    "text": (["{good}", "{tmp}/text.jpg"], "{tmp}/text.jpg: cannot decode image"),
    "empty": (["{tmp}/empty.png"], "{tmp}/empty.png: cannot decode image"),
    "top": (["{good}", "--top=0"], "--top must be at least 1, got 0"),
    "batch": (["{good}", "--batch_size=-2"], "--batch_size must be at least 1, got -2"),
    "no_parent": (
        ["{good}", "--features={tmp}/no/f.npz"],
        "--features '{tmp}/no/f.npz': there is no folder '{tmp}/no'",
    ),
    "ending": (["{good}", "--features={good}"], "--features must end with .npz, got"),
    "drawing": (["{good}", "--attention=map.jpg"], "--attention must end with .png"),
    "output_folder": (
        ["{good}", "--features={tmp}/folder.npz"],
        "--features '{tmp}/folder.npz' is a folder",
    ),
    "many": (
        ["--attention={tmp}/map.png", *["{good}"] * 101],
        "--attention draws at most 100 images, got 101",
    ),
    "no_weights": (["{good}", "--weights={tmp}/no.npz"], "{tmp}/no.npz: no such file"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(name, weights, images, tmp_path, capsys, monkeypatch):
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.npz").mkdir()
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(module, "_compute", lambda *_, **__: pytest.fail("computed"))
    arguments, message = MISTAKES[name]
    names = {"tmp": tmp_path, "good": images[0]}
    arguments = [word.format(**names) for word in arguments]
    if not any(word.startswith("--weights") for word in arguments):
        arguments.insert(0, f"--weights={weights('cls')}")
    code, out, err = call(capsys, *arguments)
    assert code == 2 and not out
    assert err.startswith(f"vit-jax: {message.format(**names)}")
    assert err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_no_head_is_one_line(weights, images, capsys):
    code, out, err = call(capsys, f"--weights={weights('headless')}", images[0])
    assert code == 2 and not out
    assert "no head" in err and "--features=FILE.npz" in err
    assert err.count("\n") == 1


def test_channels_that_no_file_has(weights, images):
    record = record_of(weights)
    record = dataclasses.replace(record, settings={**record.settings, "channels": 5})
    with pytest.raises(PredictError, match="images of 5 channels"):
        module._prepare(images, record)


def test_normalisation_of_other_channels(weights, images, monkeypatch):
    def changed(*arguments, **settings):
        loaded = load(*arguments, **settings)
        chosen = dataclasses.replace(
            loaded.record.preprocessing, mean=(0.1, 0.2, 0.3), std=(0.5,)
        )
        record = dataclasses.replace(loaded.record, preprocessing=chosen)
        return loaded._replace(record=record)

    before = quiet(weights("cls"), images[:1])
    monkeypatch.setattr(module, "load", changed)
    assert quiet(weights("cls"), images[:1]) != before
    with pytest.raises(PredictError, match=r"of 1 channels, but .* \(0.1, 0.2, 0.3\)"):
        quiet(weights("gray"), images[:1])


def test_a_run_classifies_files_as_its_evaluation(tmp_path):
    """As many right as its evaluation says, and the data set's names."""
    workdir, finished, _ = training.finished()
    accuracy = finished.evaluations["val/accuracy"]

    source = setup_data.open_source(training.tiny_config(), "test")
    files, labels = [], []
    for index in range(len(source)):
        file = tmp_path / f"{index}.png"
        file.write_bytes(source[index]["image"])
        files.append(str(file))
        labels.append(str(source[index]["label"]))
    result = predict(str(workdir), files, top=1, say=lambda line: None)
    names = [prediction.guesses[0].name for prediction in result]
    right = np.mean([name == label for name, label in zip(names, labels, strict=True)])
    assert right == pytest.approx(accuracy, abs=1e-6)
    assert 0 < accuracy < 1
