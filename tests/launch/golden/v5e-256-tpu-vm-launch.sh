#!/bin/bash
# vit-b16 on Cloud TPU: v5e:16x16 (1 x v5e-256): 256 chips, 64 hosts of 4
NAME=vit-b16
WHERE=(--zone=us-central2-b)
ACCELERATOR=(--accelerator-type=v5litepod-256 --runtime-version=v2-alpha-tpuv5-lite --node-id=vit-b16 --spot)
EXTRA=()
NODES=(vit-b16)
HOSTS=64
FILES=(worker.sh vit_jax-0.1.0-py3-none-any.whl)
RETRIES=3
