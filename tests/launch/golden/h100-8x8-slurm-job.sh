#!/bin/bash
# vit-b16: h100:8x8 (1 x h100-64): 64 chips, 8 hosts of 8
#SBATCH --job-name=vit-b16
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --output=/folder/launch/log-%j.txt

LAUNCH=/folder/launch
ENVIRONMENT=/folder/launch/environment-4be58f77f2cd
REQUIREMENT='/folder/launch/vit_jax-0.1.0-py3-none-any.whl[cuda]'
COMMAND=(train --config=configs/vit_i21k.py:B/16 --workdir=/shared/run --config.train.batch_size=4096)
SECRETS=(WANDB_API_KEY)
RETRIES=3
export TFDS_DATA_DIR=gs://bucket/tfds

