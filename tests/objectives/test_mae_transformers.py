"""The masked autoencoder's loss is that of transformers' ViTMAE with the same noise."""

import jax
import jax.numpy as jnp
import numpy as np

from configs import base
from tests.models import reference, tiny
from tests.objectives import small
from vit_jax.objectives.base import merge

KEY = jax.random.key(7)
MODEL = {
    "image_size": (12, 12),
    "patch_size": (4, 4),
    "width": 16,
    "num_heads": 2,
    "mlp_dim": 24,
    "cls_token": True,
    "pool": "cls",
    "position": "sincos2d_mae",
    "activation": "gelu",
}


def theirs():
    """Their model with random weights and the fixed positions."""
    from tests import foreign

    config = foreign.transformers.ViTMAEConfig(
        image_size=12,
        patch_size=4,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        decoder_hidden_size=24,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=3,
        decoder_intermediate_size=96,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
        norm_pix_loss=True,
        mask_ratio=0.6,
    )
    model = foreign.transformers.ViTMAEForPreTraining(config)
    model = foreign.randomise(model)
    # Their own tables stay at zero in some versions; those of the reference go in.
    for table in (
        model.vit.embeddings.position_embeddings,
        model.decoder.decoder_pos_embed,
    ):
        rows = reference.sincos2d_mae(3, 3, table.shape[-1])
        rows = np.pad(rows, ((1, 0), (0, 0)))[None]
        table.data.copy_(foreign.torch.from_numpy(rows))
    return model


def ours(state):
    """The package's parameters out of theirs."""

    def dense(name):
        return {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}

    def norm(name):
        return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}

    def stack(name, width, heads):
        head = (heads, width // heads)

        def block(name):
            into = {
                part: jax.tree.map(
                    lambda leaf: leaf.reshape(*leaf.shape[:-1], *head),
                    dense(f"{name}.attention.{part[0]}_proj"),
                )
                for part in ("query", "key", "value")
            }
            out = dense(f"{name}.attention.o_proj")
            out["kernel"] = out["kernel"].reshape(*head, width)
            return {
                "attention_norm": norm(f"{name}.layernorm_before"),
                "attention": {**into, "out": out},
                "mlp_norm": norm(f"{name}.layernorm_after"),
                "mlp": {
                    "hidden": dense(f"{name}.mlp.fc1"),
                    "out": dense(f"{name}.mlp.fc2"),
                },
            }

        blocks = [block(f"{name}.{index}") for index in range(2)]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)

    patches = "vit.embeddings.patch_embeddings.projection"
    return {
        "encoder": {
            "cls": state["vit.embeddings.cls_token"],
            "embedding": {
                "kernel": state[f"{patches}.weight"].transpose(2, 3, 1, 0),
                "bias": state[f"{patches}.bias"],
            },
            "blocks": stack("vit.layers", 16, 2),
            "norm": norm("vit.layernorm"),
        },
        "decoder": {
            "embedding": dense("decoder.decoder_embed"),
            "mask_token": state["decoder.mask_token"],
            "blocks": stack("decoder.decoder_layers", 24, 3),
            "norm": norm("decoder.decoder_norm"),
            "prediction": dense("decoder.decoder_pred"),
        },
    }


def test_the_loss_is_that_of_transformers():
    from tests import foreign

    model = theirs()
    images = tiny.images(batch=3, **MODEL)
    noise = np.asarray(jax.random.uniform(jax.random.split(KEY)[0], (3, 9)))
    expected = foreign.run(
        model, np.asarray(images), noise=foreign.torch.from_numpy(noise.copy())
    )
    section = base.mae(
        mask_rate=0.6, decoder_width=24, decoder_depth=2, decoder_heads=3
    )
    graphdef, shapes = tiny.shapes(lambda key: small.build(section, key=key, **MODEL))
    params = ours({name: value.numpy() for name, value in model.state_dict().items()})
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda s: s.shape, shapes)

    @tiny.jit
    def run(params):
        objective = merge(graphdef, params, {})
        loss, _ = objective.loss({"images": images}, key=KEY)
        return loss, objective._run(images, KEY)

    loss, (predicted, mask) = run(jax.tree.map(jnp.asarray, params))
    np.testing.assert_array_equal(mask.masked, expected.mask.numpy())
    # As in the tests of encoder and decoder against transformers.
    assert tiny.error(predicted, expected.logits.numpy()) < 2e-5
    np.testing.assert_allclose(loss, expected.loss.numpy(), rtol=2e-5)
