#!/bin/bash
# vit-b16 on Cloud TPU: 2*v6e:16x16 (2 x v6e-256): 512 chips, 128 hosts of 4
NAME=vit-b16
WHERE=(--zone=us-central2-b)
ACCELERATOR=(--accelerator-type=v6e-256 --runtime-version=v2-alpha-tpuv6e --node-count=2 --node-prefix=vit-b16 --spot)
EXTRA=()
NODES=(vit-b16-0 vit-b16-1)
HOSTS=128
FILES=(worker.sh vit_jax-0.1.0-py3-none-any.whl)
RETRIES=3
