#!/bin/bash
# vit-b16 on one of its workers: v5p:4x4x4 (1 x v5p-128): 64 chips, 16 hosts of 4
ENVIRONMENT=environment-4be58f77f2cd
REQUIREMENT='./vit_jax-0.1.0-py3-none-any.whl[tpu,gcs]'
COMMAND=(train --config=configs/vit_i21k.py:B/16 --workdir=gs://bucket/run --config.train.batch_size=4096)
SECRETS=(WANDB_API_KEY)
export TFDS_DATA_DIR=gs://bucket/tfds

