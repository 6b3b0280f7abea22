#!/bin/bash
# vit-b16 on one of its workers: 2*v6e:16x16 (2 x v6e-256): 512 chips, 128 hosts of 4
ENVIRONMENT=environment-4be58f77f2cd
REQUIREMENT='./vit_jax-0.1.0-py3-none-any.whl[tpu,gcs]'
COMMAND=(train --config=configs/vit_i21k.py:B/16 --workdir=gs://bucket/run --config.train.batch_size=4096)
SECRETS=(WANDB_API_KEY)
export TFDS_DATA_DIR=gs://bucket/tfds

