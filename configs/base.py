"""Every field of a config with its default. An experiment edits a copy:

    from configs import base

    def get_config(arg="S/16"):
        config = base.get_config()
        config.model.variant = arg
        return config

`objective`, `optim` and each entry of `evals` are replaced whole, by the functions of
the files beside this one, which are here as well: `base.sgd()`. Sequences are tuples,
and a placeholder is a field that may stay unset, so that every field can be set on a
command line: `--config.optim.learning_rate=3e-4`.
"""

from ml_collections import ConfigDict, config_dict

from configs.durations import duration
from configs.evaluators import (
    classification,
    fewshot,
    knn,
    linear_probe,
    reconstruction,
    robustness,
    robustness_sets,
)
from configs.objectives import (
    autoregressive,
    distillation,
    mae,
    masked_patch,
    supervised,
)
from configs.optimizers import adafactor, adamw, lamb, lars, lion, muon, sgd

__all__ = [
    "adafactor",
    "adamw",
    "autoregressive",
    "classification",
    "distillation",
    "duration",
    "fewshot",
    "get_config",
    "knn",
    "lamb",
    "lars",
    "linear_probe",
    "lion",
    "mae",
    "masked_patch",
    "muon",
    "reconstruction",
    "robustness",
    "robustness_sets",
    "sgd",
    "supervised",
]


def get_config():
    """The defaults, locked: assigning an unknown key is an error."""
    config = ConfigDict()
    config.seed = 0  # initialisation, order of examples, augmentation, dropout

    config.model = ConfigDict(
        dict(
            variant="S/16",  # SIZE/PATCH, R50+B/16 (vit_jax/models/variants.py); source
            patch_size=config_dict.placeholder(tuple),  # these five: unset = variant's
            width=config_dict.placeholder(int),
            depth=config_dict.placeholder(int),
            mlp_dim=config_dict.placeholder(int),  # unset: 4 * width, if width is set
            num_heads=config_dict.placeholder(int),
            image_size=(224, 224),  # height, width
            channels=3,
            num_classes=config_dict.placeholder(int),  # unset: the data's; 0: no head
            pool="gap",  # cls | gap | map | cls_gap
            cls_token=config_dict.placeholder(bool),  # unset: when pool needs it
            registers=0,  # tokens beside CLS
            distillation="none",  # none | token | head (a second one, averaged)
            # learned | learned_cls | learned_prefix | sincos2d | sincos2d_mae | none
            position="sincos2d",
            rope="none",  # rotary embedding: none | axial | dinov3
            rope_base=100.0,
            dynamic_size=False,  # take images of other sizes than image_size
            patch_sizes=(),  # sides of patches that training draws from
            stem=config_dict.placeholder(tuple),  # a ResNet's units; unset: variant's
            activation="gelu_tanh",  # gelu_tanh | gelu
            mlp="dense",  # dense | swiglu
            norm="layer",  # layer | rms
            norm_epsilon=1e-6,
            final_norm="tokens",  # tokens | features (pooled) | both
            qk_norm=False,  # norms of queries and keys
            layer_scale=0.0,  # first value of the branches' scales; 0 = off
            parallel_blocks=False,  # attention and MLP side by side
            pre_logits=0,  # width of a tanh layer before the head; -1 = model width
            head_bias=0.0,
            dropout=0.0,
            attention_dropout=0.0,
            drop_path=0.0,  # at the last block, rising linearly from 0
            patch_dropout=0.0,  # share of patches left out in training
            dtype="bfloat16",  # of the computation; parameters are float32
            # that kernels' gradients are computed and summed over devices in:
            # compute (as dtype) | float32, which sends twice as much
            gradient_dtype="compute",
            # auto | xla | cudnn (NVIDIA GPUs) | splash (TPU); auto chooses by hardware,
            # tokens, head size and dtype, on a CPU always xla
            attention="auto",
            # what the backward pass computes again (vit_jax/models/stack.py):
            # none | elementwise | attention | dots | full | offload
            remat="elementwise",
            unroll=1,  # blocks written out per loop iteration
            init_from="",  # work directory or weights to take parameters from
        )
    )
    config.objective = supervised()

    config.data = ConfigDict(
        dict(
            # A TFDS name ("name/config", "name:version"), tfrecord:NAME, folder:PATH,
            # arrays:PATH.npz, arrays:digits, synthetic (noise) or patterns (of visible
            # classes), of either :NUMBER of images, or mix
            name="imagenet2012",
            # Of mix: (("imagenet2012", "train", 0.7), ("folder:/x", "train", 0.3));
            # its splits are "train", and those of part 0 as "0.validation"
            mix=(),
            mix_classes="same",  # same | concat: each part has classes of its own
            split="train",
            dir="",  # unset: $TFDS_DATA_DIR or ~/tensorflow_datasets
            image_key="image",
            label_key="label",
            mean=(0.5, 0.5, 0.5),  # of pixels in 0..1; one value fits all channels
            std=(0.5, 0.5, 0.5),
            shuffle=True,
            threads=0,  # that decode and augment; 0 = one a core
            # Processes that do it instead, for hosts with very many cores; 0 = threads,
            # which gave 1,355 images a CPU-second on 2 cores, two workers 1,246
            workers=0,
            prefetch=2,  # batches ready on the device
            cache_mb=256,  # keep encoded examples of a split in memory if they fit
            bad="stop",  # a damaged example: stop, or skip (another takes its place)
            max_bad=100,  # skip: more than these in a run stop it all the same
            max_pixels=100_000_000,  # an image whose header says more is damaged
            augment=dict(
                crop="inception",  # inception | random | pad | resize | simple
                area=(0.05, 1.0),  # inception: share of the image
                resize=(256, 256),  # random: size before the crop
                pad=4,  # pad, simple: pixels on each side
                policy="none",  # none | randaugment | autoaugment | three_augment
                randaugment_layers=2,  # operations an image
                randaugment_magnitude=10.0,  # 10 is the usual one; 0 is not "off"
                color_jitter=0.0,  # strength of brightness, contrast, saturation
                repeats=1,  # augmented copies of an image in a batch
                views=1,  # augmented copies of an image, as an axis after the batch
                # On the device, in the step:
                flip=True,  # left-right
                mixup=0.0,  # Beta(p, p); 0 = off
                cutmix=0.0,  # Beta(p, p); 0 = off
                mix_prob=1.0,  # share of mixed examples (or batches)
                mix_switch=0.5,  # where both are on: share that is cutmix
                mix_per="batch",  # one weight a batch, or an "example"
                erase=0.0,  # share of images with a random rectangle erased
                erase_fill="noise",  # noise | zero
            ),
        )
    )
    config.optim = adamw()
    config.schedule = ConfigDict(
        dict(
            name="cosine",  # cosine | linear | rsqrt | wsd | constant
            warmup=duration(steps=10_000),  # linear from 0
            cooldown=duration(steps=0),  # linear to `final`; wsd and rsqrt want one
            final=0.0,  # last value, as a share of the peak
            timescale=10_000,  # of rsqrt, in steps
        )
    )
    config.train = ConfigDict(
        dict(
            batch_size=1024,  # images a step, over all devices
            duration=duration(epochs=90),
            accumulate=1,  # micro-batches a step
            ema=0.0,  # decay of the parameters' moving average; 0 = off
            max_nonfinite=10,  # steps in a row with no finite loss before it stops
            rollback=dict(  # to the last checkpoint when the loss jumps
                factor=0.0,  # over the median of the last logged ones; 0.0 = off
                window=20,  # logged losses
                max=3,  # rollbacks before the run stops
            ),
            watchdog=dict(  # no progress for so long ends the run; 0.0 = off
                seconds=60.0,  # at least
                factor=10.0,  # times the phase's median duration
                compile_seconds=1800.0,  # limit of a compilation
            ),
        )
    )
    config.mesh = ConfigDict(  # devices along each axis; -1 = the rest
        dict(slices=1, data=-1, fsdp=1, tensor=1, sequence=1)
    )
    config.checkpoint = ConfigDict(
        dict(
            every=duration(epochs=1),
            keep=2,  # newest verified ones, at least 2
            verify=True,  # read each back after writing, in the background
            best="val/accuracy",  # also kept: the best by this metric; "" = none
        )
    )
    config.evals = ConfigDict()
    config.log = ConfigDict(
        dict(
            every=duration(steps=50),
            tensorboard=True,
            wandb="",  # a project of Weights & Biases to write to as well; "" = off
            figures=True,  # drawn at the end, in figures/ and for TensorBoard
            example_ids=False,  # a checksum of each logged step's example ids
            profile=(0, 0),  # trace the steps after the first number up to the second
        )
    )
    return config.lock()
