#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# gpu-nccl.sh - the transports between GPUs, on a machine that has them.
#
#   tests/gpu-nccl.sh BUILD [KILL_ROUNDS] [--seconds N]
#
# Two GPUs: blocks of 1 / 16 / 64 / 256 MiB over NCCL and CUDA IPC beside a plain peer copy; kill -9 of either process at random
# moments (while they meet, before, in the middle of and after a block, before the commit); and what each lost NCCL peer leaves
# on the device, by how its communicator is ended. One GPU: CUDA IPC alone. JSON lines on stdout and in $JSON (default:
# gpu-nccl.json), then tables and one summary line. Exit code 0: every bar holds; 1: not; 77: no GPU here.
# NVLink multicast stays off.
set -o pipefail
build= rounds=200 seconds=0
while [ $# -gt 0 ]; do
    case $1 in
    --seconds) seconds=$2; shift ;;
    *) if [ -z "$build" ]; then build=$1; else rounds=$1; fi ;;
    esac
    shift
done
[ -n "$build" ] || { sed -n 's/^#   tests/tests/p' "$0"; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
wire=$build/tests/bin/gpu_wire
[ -x "$wire" ] || wire=$build/gpu_wire
json=${JSON:-gpu-nccl.json}
export NCCL_NVLS_ENABLE=0
: > "$json"

gpus=$(nvidia-smi -L 2> /dev/null | grep -c '^GPU')
[ "$gpus" -ge 1 ] || { echo "gpu-nccl: no GPU here"; exit 77; }
begin=$SECONDS

# share PERCENT: so much of the seconds, or no bound.
share() { if [ "$seconds" -gt 0 ]; then echo $((seconds * $1 / 100)); else echo 3600; fi; }

# run LIMIT_S ...: one program; its lines are kept whatever becomes of it.
run()
{
    local limit=$1
    shift
    timeout $((limit + 30)) "$@" 2> >(head -c 2000 >&2) | tee -a "$json" || echo "{\"failed\":\"${*: -7}\"}" | tee -a "$json"
}

leaks() # VARIANT MOMENT [NAME=VALUE]
{
    [ $((SECONDS - begin)) -lt "$leaks_end" ] || return
    run 60 env ${3:+"$3"} "$wire" leak 0 1 4 "$1" "$2" "${3:-}"
}

echo "{\"gpus\":$gpus,\"card\":\"$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1)\"}" | tee -a "$json"
if [ "$gpus" -ge 2 ]; then
    for i in 1 2; do # in turn, twice: a plain copy before and after
        run 60 "$wire" copy 0 1 20 1 16 64 256
        run 60 "$wire" bench ipc 0 1 20 1 16 64 256
        run 60 "$wire" bench nccl 0 1 20 1 16 64 256
    done
    run "$(share 40)" "$wire" kill nccl 0 1 "$rounds" 2 "$(share 35)"
    run "$(share 15)" "$wire" kill ipc 0 1 "$rounds" 3 "$(share 12)"
fi
run 60 "$wire" bench ipc 0 0 20 1 16 64 256
run "$(share 10)" "$wire" kill ipc 0 0 "$rounds" 1 "$(share 8)"
if [ "$gpus" -ge 2 ]; then
    leaks_end=$(share 100)
    for moment in middle after making leaves; do leaks plain $moment; done
    # Only where an abort itself leaves memory is there something to tell apart.
    if awk -F'"mib_a_round":' '/"leak":"plain"/ && !/leaves/ { if ($2 + 0 > 8) bad = 1 } END { exit !bad }' "$json"; then
        leaks plain middle NCCL_CUMEM_ENABLE=0
        for variant in late settled finalize sync revoke; do leaks $variant middle; done
        leaks plain middle NCCL_RUNTIME_CONNECT=0
        leaks plain middle NCCL_P2P_DISABLE=1
        leaks plain middle NCCL_BUFFSIZE=1048576
    fi
fi
exec python3 -B "$here/bench/nccl_table.py" "$json" $((SECONDS - begin))
