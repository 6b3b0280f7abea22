#!/bin/bash
# vit-b16 on Cloud TPU: v5p:4x4x4 (1 x v5p-128): 64 chips, 16 hosts of 4
NAME=vit-b16
WHERE=(--zone=us-central2-b)
ACCELERATOR=(--accelerator-type=v5p-128 --runtime-version=v2-alpha-tpuv5 --node-id=vit-b16 --spot)
EXTRA=()
NODES=(vit-b16)
HOSTS=16
FILES=(worker.sh vit_jax-0.1.0-py3-none-any.whl)
RETRIES=3
