"""Pictures of reconstructions: the right pixels in the right places."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.evals import small
from vit_jax.evals.reconstruction import Reconstruction, grid

TEST = small.arrays(11)
SETTINGS = dict(split="test", images=5, resize=0)


class Half(small.Linear):
    """Sees the upper half, and makes a lighter image of it."""

    def reconstruct(self, images, key):
        del key
        return {
            "images": images,
            "masked": images.at[:, 2:].set(0.0),
            "reconstruction": images + 0.5,
            "completion": jnp.zeros_like(images),
        }


@pytest.mark.parametrize("devices", [1, 8])
def test_a_row_an_image_and_a_column_a_kind(devices):
    made, params, frozen = small.context(devices, objective=Half(), test=TEST)
    evaluator = Reconstruction(made, data="", **SETTINGS)
    result = evaluator.run(params, frozen)
    assert result == pytest.approx({"mse": 0.25}, rel=1e-6)
    (picture,) = evaluator.take_images().values()
    assert evaluator.take_images() == {}
    evaluator.close()
    side = 66  # 4 pixels, enlarged 16 times, and the gap
    assert picture.shape == (5 * side - 2, 4 * side - 2, 3)
    for row in range(5):
        kinds = [
            picture[row * side : row * side + 64 : 16, at * side : at * side + 64 : 16]
            for at in range(4)
        ]
        image = np.broadcast_to(TEST[0][row], (4, 4, 3))
        np.testing.assert_array_equal(kinds[0], image)
        np.testing.assert_array_equal(kinds[1][:2], image[:2])
        mean = round(small.MEAN[0] * 255)
        np.testing.assert_array_equal(kinds[1][2:], np.full((2, 4, 3), mean))
        lighter = np.clip(image + 0.5 * small.STD[0] * 255, 0, 255)
        np.testing.assert_allclose(kinds[2], lighter, atol=1)
        np.testing.assert_array_equal(kinds[3], np.full((4, 4, 3), mean))
    assert (picture[64:66] == 255).all()


def test_a_split_with_fewer_images():
    made, params, frozen = small.context(8, objective=Half(), test=TEST)
    evaluator = Reconstruction(made, data="", **SETTINGS | {"images": 100})
    evaluator.run(params, frozen)
    (picture,) = evaluator.take_images().values()
    assert len(picture) == 11 * 66 - 2
    evaluator.close()


def test_large_images_keep_their_size():
    columns = [np.zeros((2, 64, 80, 3), np.uint8)] * 3
    assert grid(columns).shape == (2 * 66 - 2, 3 * 82 - 2, 3)
