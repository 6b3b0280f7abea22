"""Examples for the help of each verb of the `vit-jax` command."""

# By verb.
EXAMPLES = {
    "train": """\
  --config.KEY=VALUE    replaces a field, any number of times; configs/base.py
                        lists them, e.g. --config.optim.learning_rate=3e-4

examples:
  vit-jax train --config=configs/digits.py
  vit-jax train --config=configs/vit_s16_i1k.py:B/16 --workdir=runs/b16 \\
      --config.train.batch_size=4096 --config.mesh.fsdp=8
  vit-jax train --config=configs/digits.py --workdir=runs/short \\
      --config.train.duration.steps=200
  vit-jax train --config=configs/mae_i1k.py:B/16 --smoke

With --smoke any recipe runs in about a minute on a CPU: its objective, optimizer, shape
of the schedule, augmentation and loss, with a tiny model, striped images and 64 steps.

The same command again resumes where the work directory left off. Ctrl-C or SIGTERM
saves and ends with code 130 or 143; a second one leaves at once. Other codes: 1 the run
failed, 2 a mistake in the call, 3 no progress, 4 another process is gone, 5 the lock on
the work directory was lost.
""",
    "sweep": """\
  --config.KEY=VALUE    replaces a field in all trials

examples:
  vit-jax sweep --config=configs/digits.py --workdir=runs/rates --parallel=2 \\
      --set config.optim.learning_rate=1e-3,3e-3 config.seed=0,1
  vit-jax sweep --config=configs/digits.py --workdir=runs/drawn --samples=20 \\
      --set 'config.optim.learning_rate=loguniform(1e-4,1e-2)' --search=tpe
  vit-jax sweep status --workdir=runs/rates --watch
  vit-jax sweep results --workdir=runs/rates --plots

Without --set and --sweep the config file's get_sweep() says which trials there are. The
same command again finishes what is unfinished; other values add trials. Exit codes: 0
all trials are over, 1 some failed, 2 a mistake in the call or a trial that cannot run
(nothing was started), 130 and 143 after Ctrl-C and SIGTERM.
""",
    "plan": """\
  --config.KEY=VALUE    replaces a field, as for train

examples:
  vit-jax plan --config=configs/vit_s16_i1k.py --topology=v5e:4x4
  vit-jax plan --config=configs/vit_s16_i1k.py:L/16 --topology=v5p-128,h100:8x8 \\
      --config.train.batch_size=4096 --search
  vit-jax plan --config=configs/vit_i21k.py --topology=v6e-256 --json

No accelerator is needed. With libtpu (pip install 'vit-jax[plan]') the very train step
is compiled for TPUs, about a minute each; otherwise all is counted by shapes.
v5e-, v6e- and GPU names count chips; v4-, v5p- and tpu7x- names count cores, which are
two a chip.
""",
    "launch": """\
  --config.KEY=VALUE    replaces a field, as for train

examples:
  vit-jax launch tpu-vm --config=configs/vit_s16_i1k.py --topology=v5e-16 \\
      --workdir=gs://BUCKET/s16 --config.data.dir=gs://BUCKET/tfds --zone=ZONE --spot
  vit-jax launch gke --config=configs/vit_i21k.py:L/16 --topology=v6e-256 --slices=2 \\
      --config.mesh.slices=2 --workdir=gs://BUCKET/l16 --queue=tpus --submit
  vit-jax launch slurm --config=configs/mae_i1k.py:B/16 --topology=h100:8x8 \\
      --workdir=/shared/runs/mae --time=24:00:00 --partition=gpu
  vit-jax launch skypilot --config=configs/mae_i1k.py:B/16 --topology=h100:8x8 \\
      --workdir=gs://BUCKET/mae --secret=WANDB_API_KEY

The config is planned for the topology first; what does not divide or fit is refused.
Files are written to launch/NAME; --submit has the target's own tool take them. Secrets
are given by name: of the environment (slurm, skypilot), of the Kubernetes Secret
--secret_name (gke), of Secret Manager (tpu-vm). docs/guides/launch.md has more.
""",
    "recipes": """\
examples:
  vit-jax recipes                  papers, published and measured results, costs
  vit-jax recipes mae_i1k:B/16     what it sets, what to type, what to expect
  vit-jax recipes deit_i1k --json
""",
    "status": """\
examples:
  vit-jax status runs/digits
  vit-jax status runs/* --json
  vit-jax status gs://BUCKET/runs/b16

States: running; waiting (for its first step); finished; stopped (by a signal); failed
(with an error); crashed (killed, or its machine is gone). Nothing is written.
""",
    "report": """\
examples:
  vit-jax report runs/digits                       writes runs/digits/report.html
  vit-jax report runs/lr* --output=compared.html   several runs beside each other

The file needs nothing else: it opens offline, on a phone and in the dark. Runs may be
going on, and may be in buckets.
""",
    "evaluate": """\
  --config.evals.NAME.KEY=VALUE   replaces a field of an evaluation;
                                  configs/evaluators.py lists them

examples:
  vit-jax evaluate --workdir=runs/digits
  vit-jax evaluate --workdir=runs/digits --step=best
  vit-jax evaluate --workdir=runs/digits knn fewshot linear_probe \\
      --config.evals.knn.k=10 --config.evals.linear_probe.optimizer=lbfgs
  vit-jax evaluate --workdir=runs/b16 imagenet_v2 imagenet_real imagenet_a

Evaluations that the run's config has not take its training split, and split, resize and
batch size of its first evaluation, unless a field says otherwise.
""",
    "prepare": """\
examples:
  vit-jax prepare digits
  vit-jax prepare cifar10 --data_dir=/data/tfds
  vit-jax prepare imagenet2012 --convert            from TFRecord, beside it
  vit-jax prepare imagenet2012 --convert --output=/fast/tfds
  vit-jax prepare folder:photos --name=flowers      a folder per class
  vit-jax prepare idx:fashion --name=fashion_mnist  MNIST's file format
""",
    "export": """\
examples:
  vit-jax export --workdir=runs/digits --to=timm --output=exports/digits-timm
  vit-jax export --workdir=runs/digits --to=stablehlo --output=exports/digits-hlo
""",
    "convert": """\
examples:
  vit-jax convert B_16.npz exports/b16-timm --to=timm
  vit-jax convert vit.safetensors exports/vit-hf --to=huggingface --num_heads=12
""",
    "predict": """\
examples:
  vit-jax predict --workdir=runs/digits digit.png
  vit-jax predict --weights=exports/b16-timm --features=features.npz photos/*.jpg
  vit-jax predict --weights=B_16.npz --attention=attention.png cat.jpg
""",
}
