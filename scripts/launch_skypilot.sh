#!/bin/bash
# SkyPilot: a managed job.
#
#   WORKDIR=... scripts/launch_skypilot.sh [what else vit-jax launch skypilot takes]
#
# The variables below, then the same as the command: it plans, checks and writes
# launch/NAME; add --submit to hand it over. What runs there is in
# vit_jax/launch/templates, once.
set -euo pipefail
CONFIG=${CONFIG:-configs/vit_s16_i1k.py}
TOPOLOGY=${TOPOLOGY:-h100:1x8}
WORKDIR=${WORKDIR:?a bucket: WORKDIR=gs://BUCKET/runs/s16}
DATA_DIR=${DATA_DIR:?where the data set is: DATA_DIR=gs://BUCKET/tfds}
VIT_JAX=${VIT_JAX:-vit-jax}

exec "$VIT_JAX" launch skypilot --config="$CONFIG" --topology="$TOPOLOGY" \
  --workdir="$WORKDIR" --config.data.dir="$DATA_DIR" "$@"
