"""Every field of a config with its default. An experiment edits a copy:

    from configs import base

    def get_config(arg="S/16"):
        config = base.get_config()
        config.model.variant = arg
        return config

`objective`, `optim` and each entry of `evals` are replaced whole, by the functions
below. Sequences are tuples, and a placeholder is a field that may stay unset, so that
every field can be set on a command line: `--config.optim.learning_rate=3e-4`.
"""

from ml_collections import ConfigDict, config_dict


def duration(*, epochs=None, steps=None, examples=None):
    """A length of training, in one of three units; the command line may set another."""
    fields = ConfigDict(
        dict(
            epochs=config_dict.placeholder(float),  # passes over data.split
            steps=config_dict.placeholder(int),  # updates of the parameters
            examples=config_dict.placeholder(int),  # images
        )
    )
    fields.update(
        {
            unit: value
            for unit, value in dict(
                epochs=None if epochs is None else float(epochs),
                steps=steps,
                examples=examples,
            ).items()
            if value is not None
        }
    )
    return fields


def supervised(**changes):
    """Classification with labels."""
    return ConfigDict(
        dict(
            name="supervised",
            loss="softmax",  # softmax | sigmoid (summed over classes)
            label_smoothing=0.0,
        )
        | changes
    )


def adamw(**changes):
    """AdamW; weight_decay is multiplied by the learning rate, as in its paper."""
    return ConfigDict(
        dict(
            name="adamw",
            learning_rate=1e-3,  # the peak; schedule gives the shape
            weight_decay=0.1,
            decay_mask="kernels",  # kernels | matrices (rank > 1) | all
            b1=0.9,
            b2=0.999,
            eps=1e-8,
            mu_dtype="float32",  # bfloat16 halves the first moment
            nu_dtype="float32",  # bfloat16 halves the second, rounded at random
            clip_norm=1.0,  # global norm of the gradients; 0.0 = off
            layer_decay=1.0,  # on the rate from a block to the one before; 1.0 = off
        )
        | changes
    )


def sgd(**changes):
    """SGD with momentum."""
    return ConfigDict(
        dict(
            name="sgd",
            learning_rate=0.03,
            momentum=0.9,
            nesterov=False,
            mu_dtype="float32",  # of the momentum: float32 | bfloat16
            weight_decay=0.0,  # multiplied by the learning rate
            decay_mask="kernels",
            clip_norm=1.0,
            layer_decay=1.0,  # as adamw's
        )
        | changes
    )


def adafactor(**changes):
    """Adafactor as for ViT-g (arXiv 2106.04560), whose batch is 16,384."""
    return ConfigDict(
        dict(
            name="adafactor",
            learning_rate=8e-4,
            weight_decay=0.03,  # multiplied by the learning rate, as all below
            head_weight_decay=3.0,  # the classifier's, in its place
            decay_mask="kernels",
            momentum=0.9,  # average of past updates; 0.0 = none
            decay_power=0.8,  # the second moment's decay is 1 - step ** -power,
            b2_cap=0.999,  # and at most this
            min_factored=32,  # smaller dimensions keep a whole second moment
            eps=1e-30,
            clip_rms=0.0,  # of a parameter's update, before momentum; 0.0 = off
            mu_dtype="bfloat16",
            clip_norm=1.0,
            layer_decay=1.0,  # as adamw's
        )
        | changes
    )


def lamb(**changes):
    """LAMB, as DeiT III trains (arXiv 2204.07118) with a batch of 2,048."""
    return ConfigDict(
        dict(
            name="lamb",
            learning_rate=3e-3,
            weight_decay=0.05,
            decay_mask="kernels",
            trust_mask="kernels",  # whose updates scale with their norm, as decay_mask
            b1=0.9,
            b2=0.999,
            eps=1e-6,
            mu_dtype="float32",
            nu_dtype="float32",
            clip_norm=1.0,
            layer_decay=1.0,  # as adamw's
        )
        | changes
    )


def lars(**changes):
    """LARS as for MAE's linear probe: 0.1 for each 256 images of a batch."""
    return ConfigDict(
        dict(
            name="lars",
            learning_rate=0.4,  # of 1,024 images
            weight_decay=0.0,
            decay_mask="matrices",
            trust_coefficient=0.001,  # an update's norm as a share of its parameter's
            trust_mask="matrices",  # whose updates are scaled so, as decay_mask
            momentum=0.9,
            mu_dtype="float32",
            clip_norm=0.0,
            layer_decay=1.0,  # as adamw's
        )
        | changes
    )


def lion(**changes):
    """Lion: a rate 3 to 10 times below AdamW's, a decay as many times above."""
    return ConfigDict(
        dict(
            name="lion",
            learning_rate=1e-4,
            weight_decay=1.0,
            decay_mask="kernels",
            b1=0.9,  # of the average whose sign is the update
            b2=0.99,  # of the momentum
            mu_dtype="bfloat16",
            clip_norm=1.0,
            layer_decay=1.0,  # as adamw's
        )
        | changes
    )


def muon(**changes):
    """Muon for attention's and the MLPs' kernels, AdamW for all other parameters."""
    return ConfigDict(
        dict(
            name="muon",
            learning_rate=1e-3,
            weight_decay=0.1,
            decay_mask="kernels",
            momentum=0.95,
            nesterov=True,
            iterations=5,  # of Newton and Schulz
            rms=0.2,  # of updates, as AdamW's; 0.0 = by the shape alone
            adam_rate=1.0,  # AdamW's learning rate as a share of learning_rate
            adam_weight_decay=0.1,
            b1=0.9,  # these three are AdamW's
            b2=0.999,
            eps=1e-8,
            mu_dtype="float32",
            nu_dtype="float32",  # AdamW's
            clip_norm=1.0,
            layer_decay=1.0,  # as adamw's
        )
        | changes
    )


def classification(**changes):
    """Accuracy and loss over a whole split, exact to the last example."""
    return ConfigDict(
        dict(
            name="classification",
            split="validation",
            batch_size=config_dict.placeholder(int),  # unset: train.batch_size
            resize=256,  # smaller side before the central crop; 0 = no crop
            every=duration(epochs=1),
        )
        | changes
    )


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
            # auto | xla | cudnn (NVIDIA GPUs) | splash (TPU); auto chooses by hardware,
            # tokens, head size and dtype, on a CPU always xla
            attention="auto",
            remat="none",  # none | attention | dots | full
            unroll=1,  # blocks written out per loop iteration
            init_from="",  # work directory or weights to take parameters from
        )
    )
    config.objective = supervised()

    config.data = ConfigDict(
        dict(
            # A TFDS name ("name/config", "name:version"), tfrecord:NAME, folder:PATH,
            # arrays:PATH.npz, arrays:digits, synthetic, synthetic:NUMBER, or mix
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
            example_ids=False,  # a checksum of each logged step's example ids
            profile=(0, 0),  # trace the steps after the first number up to the second
        )
    )
    return config.lock()
