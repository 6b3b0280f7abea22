#!/bin/bash
# Cloud TPU: a queued resource, training on every worker, again after a preemption.
#
#   WORKDIR=... scripts/launch_tpu_vm.sh [what else vit-jax launch tpu-vm takes]
#
# The variables below, then the same as the command: it plans, checks and writes
# launch/NAME; add --submit to hand it over. What runs there is in
# vit_jax/launch/templates, once.
set -euo pipefail
CONFIG=${CONFIG:-configs/vit_s16_i1k.py}
TOPOLOGY=${TOPOLOGY:-v5e-16}
WORKDIR=${WORKDIR:?a bucket: WORKDIR=gs://BUCKET/runs/s16}
DATA_DIR=${DATA_DIR:?where the data set is: DATA_DIR=gs://BUCKET/tfds}
ZONE=${ZONE:?of Google Cloud: ZONE=us-central2-b}
VIT_JAX=${VIT_JAX:-vit-jax}

exec "$VIT_JAX" launch tpu-vm --config="$CONFIG" --topology="$TOPOLOGY" \
  --workdir="$WORKDIR" --config.data.dir="$DATA_DIR" --zone="$ZONE" "$@"
