#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# bench-gpu.sh [BIN] - every GPU bench line: single operations (gpu_ops), then whole models with random weights (platen
# bench). BIN: folder of the programs (default: ../bin, as in a bundle). QUICK=1 leaves out the long ones. JSON lines go to
# $JSON (default: bench-gpu.json); the last line says how many there are. Exit code 77: no GPU here.
here=$(cd "$(dirname "$0")" && pwd)
bin=${1:-$here/../bin}
json=${JSON:-bench-gpu.json}
part=$(mktemp)
trap 'rm -f "$part"' EXIT
: > "$json"

for what in decode products presses attention stage; do
    timeout 120 "$bin/gpu_ops" --backend "${BACKEND:-cuda:0}" --only $what --json "$part"
    code=$?
    [ $code = 77 ] && exit 77
    cat "$part" >> "$json"
done
model()
{
    local line
    line=$(timeout 180 "$bin/platen" bench --backend "${BACKEND:-cuda:0}" --rounds "${ROUNDS:-5}" --json "$@" 2>&1 | tail -1)
    echo "$* $line"
    echo "$line" >> "$json"
}
model --random llama-8b --decode 64 --batch 1 --context 4096
model --random llama-8b --decode 32 --batch 64 --context 4096
model --random llama-8b --prefill 8192
if [ -z "${QUICK:-}" ]; then
    model --random llama-8b --decode 32 --batch 8 --context 32768
    for ratio in 0.5 0.75; do
        model --random llama-8b --decode 32 --batch 64 --context 4096 --press "snapkv | ratio=$ratio"
    done
    model --random llama-8b --decode 32 --batch 64 --context 4096 --ragged 0.8
    model --random llama-1b --decode 64 --batch 1 --context 4096
    model --random smollm2 --decode 64 --batch 1 --context 4096
    for tokens in 4096 32768; do
        for press in knorm snapkv tova streaming expected; do
            model --random llama-8b --prefill $tokens --press "$press | ratio=0.5"
        done
    done
fi
echo "$(wc -l < "$json") lines in $json"
