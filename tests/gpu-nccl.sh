#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# gpu-nccl.sh - the transports between GPUs, on a machine that has them.
#
#   tests/gpu-nccl.sh BUILD [KILL_ROUNDS]
#
# Two GPUs: blocks of 1 / 16 / 64 / 256 MiB over NCCL and CUDA IPC beside a plain peer copy, then kill -9 of either process.
# One GPU: CUDA IPC alone. JSON lines on stdout; it ends with the first thing that does not hold. NVLink multicast stays off.
set -eu

build=${1:?usage: tests/gpu-nccl.sh BUILD [KILL_ROUNDS]}
rounds=${2:-200}
wire=$build/tests/bin/gpu_wire
export NCCL_NVLS_ENABLE=0

gpus=$(nvidia-smi -L | wc -l)
echo "{\"gpus\":$gpus,\"card\":\"$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1)\"}"
"$wire" bench ipc 0 0 20 1 16 64 256
"$wire" kill ipc 0 0 "$rounds" 1
[ "$gpus" -ge 2 ] || exit 0
"$wire" copy 0 1 20 1 16 64 256
"$wire" bench nccl 0 1 20 1 16 64 256
"$wire" copy 0 1 20 1 16 64 256
"$wire" bench ipc 0 1 20 1 16 64 256
"$wire" kill nccl 0 1 "$rounds" 2
"$wire" kill ipc 0 1 "$rounds" 3
