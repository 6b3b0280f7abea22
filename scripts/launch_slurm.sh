#!/bin/bash
# Slurm: a batch script that saves and queues again.
#
#   WORKDIR=... scripts/launch_slurm.sh [what else vit-jax launch slurm takes]
#
# The variables below, then the same as the command: it plans, checks and writes
# launch/NAME; add --submit to hand it over. What runs there is in
# vit_jax/launch/templates, once.
set -euo pipefail
CONFIG=${CONFIG:-configs/vit_s16_i1k.py}
TOPOLOGY=${TOPOLOGY:-h100:1x8}
WORKDIR=${WORKDIR:?on the shared file system: WORKDIR=/shared/runs/s16}
TIME=${TIME:-24:00:00}
VIT_JAX=${VIT_JAX:-vit-jax}

exec "$VIT_JAX" launch slurm --config="$CONFIG" --topology="$TOPOLOGY" \
  --workdir="$WORKDIR" --time="$TIME" "$@"
