#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# gpu.sh [--only WORD] [--limit SECONDS] [--tools LIST] [--each N] [--json FILE] [OPS]
#
# Every check of the CUDA back end in both dtypes, the tiny checkpoint of every family (golden/), then the checks at small sizes
# under compute-sanitizer, then the default model through the programs (gpu-model.py; $PLATEN_MODEL), spread over all GPUs of this machine: a process sees one GPU (CUDA_VISIBLE_DEVICES), --each of them (default 2) share it. One line for whatever
# does not hold, then a summary line and a JSON line (also to FILE).
#
#   --only WORD      only checks with WORD in their name: f32.select, bf16.golden_families, memcheck.bf16.decode_step
#   --limit SECONDS  none is begun after that, and what runs then is ended; what was not run counts as not held
#   --tools LIST     of memcheck,racecheck,initcheck (default: all three; none: no sanitizer)
#   OPS              the program `ops` (default: ../bin/ops beside this script, as in a bundle)
#
# Exit code 0: all hold; 1: some do not, or were not run; 77: no GPU here.
here=$(cd "$(dirname "$0")" && pwd)
only='' limit=3600 tools=memcheck,racecheck,initcheck each=2 json=/dev/null ops=$here/../bin/ops
while [ $# -gt 0 ]; do
    case $1 in
    --only) only=$2; shift ;;
    --limit) limit=$2; shift ;;
    --tools) tools=${2/none/}; shift ;;
    --each) each=$2; shift ;;
    --json) json=$2; shift ;;
    -*) echo "gpu.sh: no option $1" >&2; exit 2 ;;
    *) ops=$1 ;;
    esac
    shift
done
programs=$(cd "$(dirname "$ops")" && pwd)
checks=$here/checks.def
[ -f "$checks" ] || checks=$here/ops/checks.def
PATH=$PATH:/usr/local/cuda/bin
command -v compute-sanitizer > /dev/null || { [ -n "$tools" ] && echo "gpu.sh: no compute-sanitizer here"; tools=; }

room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
end=$((SECONDS + limit))

"$ops" --backend cuda:0 add_normed > "$room/first" 2>&1
if [ $? = 77 ]; then
    cat "$room/first"
    exit 77
fi
gpus=$CUDA_VISIBLE_DEVICES
[ -n "$gpus" ] || gpus=$(nvidia-smi --query-gpu=index --format=csv,noheader 2> /dev/null | paste -sd,)
[ -n "$gpus" ] || gpus=0

# Names of what is to be done, the longest first in each group.
names()
{
    local tool dtype check
    local all
    all=$(sed -nE 's/^CHECK\(([a-z_0-9]+)\)$/\1/p' "$checks")
    for check in bf16.golden_families f32.golden_family_presses f32.golden_families; do
        [ -x "$programs/${check#*.}" ] && echo "$check"
    done
    for tool in "" ${tools//,/ }; do
        for check in decode_step select statistics score_window replay $all; do
            for dtype in bf16 f32; do
                grep -qx "$check" <<< "$all" && echo "${tool:+$tool.}$dtype.$check"
            done
        done
    done
}
names | awk '!seen[$0]++' | grep -F -- "$only" > "$room/jobs"

# racecheck leaves out cuDNN's kernels: its attention orders its accesses by what racecheck does not see. cuBLAS's nvjet kernels
# are watched, since they fail beside others when they are not, but what is said of them alone does not count (theirs).
# Versions of the tool spell the filter in their own ways.
ours=()
libraries=(cudnn cutlass xmma gemm gemv cublas splitK)
if [[ $tools == *racecheck* ]]; then
    for option in "--kernel-name-exclude kns=" "--kernel-name-exclude kernel_substring=" "--kernel-regex-exclude kns="; do
        words=()
        for library in "${libraries[@]}"; do words+=("${option% *}" "${option#* }$library"); done
        timeout 60 compute-sanitizer --tool racecheck --error-exitcode 9 "${words[@]}" "$ops" --backend cuda:0 add_normed > /dev/null 2>&1 || continue
        ours=("${words[@]}")
        break
    done
    [ ${#ours[@]} -gt 0 ] || echo "gpu.sh: this racecheck does not leave out kernels: the libraries' count too"
fi

# theirs NAME: the check held, and every access that racecheck names is in a kernel of cuBLAS.
theirs()
{
    [[ $1 == racecheck.* ]] && grep -q ' ok$' "$room/log.$1" && grep -q 'access at nvjet_' "$room/log.$1" &&
        ! grep 'access at ' "$room/log.$1" | grep -qv 'access at nvjet_'
}

# families NAME GPU: the tiny checkpoints, as golden/family.h says; both nodes' forward passes, and presses.
families()
{
    (cd "$here/.." && CUDA_VISIBLE_DEVICES=$2 PLATEN_TEST_BACKEND=cuda:0 PLATEN_TEST_DTYPE=${1%%.*} \
        exec timeout $((end - SECONDS)) "$programs/${1#*.}")
}

# run NAME GPU: one check, its verdict as a line of $room/done.
run()
{
    local name=$1 tool=() small=() code left=$((end - SECONDS)) most=120
    local rest=$name
    case $name in
    *check.*)
        tool=(compute-sanitizer --tool "${name%%.*}" --error-exitcode 9 --print-limit 100)
        small=(--small 1)
        rest=${name#*.}
        case $name in
        racecheck.*) # fails by itself while candidates of cuBLASLt are timed: that is done before, and kept
            small=(--small 2 --cache "$room/cache.$name") tool+=("${ours[@]}")
            mkdir "$room/cache.$name"
            CUDA_VISIBLE_DEVICES=$2 timeout 60 "$ops" --backend cuda:0 --dtype "${rest%%.*}" "${small[@]}" "${rest#*.}" > /dev/null 2>&1
            ;;
        esac
        ;;
    esac
    [ "$left" -lt $most ] && most=$left
    if [[ $name == *.golden_* ]]; then
        families "$name" "$2" > "$room/log.$name" 2>&1
    else
        CUDA_VISIBLE_DEVICES=$2 timeout "$most" "${tool[@]}" "$ops" --backend cuda:0 --dtype "${rest%%.*}" "${small[@]}" \
            "${rest#*.}" > "$room/log.$name" 2>&1
    fi
    code=$?
    [ $code = 9 ] && theirs "$name" && code=0
    echo "$code $name" >> "$room/done"
    [ $code = 0 ] && return
    flock "$room/print" sh -c "echo 'BROKEN $name (exit $code)'; head -c 1500 '$room/log.$name'"
}

# Takes jobs until there are none or the time is over. Every worker locks through a file that it opened itself.
worker()
{
    local name
    exec 8> "$room/lock"
    while [ $SECONDS -lt $end ]; do
        flock 8
        read -r name <&9 || name=
        flock -u 8
        [ -n "$name" ] || return
        run "$name" "$1"
    done
}
touch "$room/done"
exec 9< "$room/jobs"
for gpu in ${gpus//,/ }; do
    for _ in $(seq "$each"); do worker "$gpu" & done
done
wait

# The default model through the programs, where there is one: its checks count with the others.
model=${PLATEN_MODEL:-$here/../build/models/SmolLM2-135M-Instruct.Q4_1.gguf}
bin=$programs
[ -x "$bin/platen" ] || bin=$bin/../../bin # as in a build tree
case model in *"$only"*) whole=1 ;; *) whole= ;; esac
if [ -n "$whole" ] && [ -f "$model" ] && [ -x "$bin/platen" ] && [ $SECONDS -lt $end ]; then
    python3 "$here/gpu-model.py" --model "$model" --bin "$bin" --each "$each" --limit $((end - SECONDS))
    echo "$? model" >> "$room/done"
    echo model >> "$room/jobs"
elif [ -n "$whole" ]; then
    echo "gpu.sh: model not run (no model at $model, no programs in $bin, or no time left)"
fi

quoted() { sed 's/.*/"&"/' | paste -sd,; }
passed=$(grep -c '^0 ' "$room/done")
grep -v '^0 ' "$room/done" | cut -d' ' -f2 | sort > "$room/failed"
cut -d' ' -f2 "$room/done" | sort | comm -13 - <(sort "$room/jobs") > "$room/missing"
printf '%d checks hold, %d do not, %d were not run: %s\n' "$passed" "$(wc -l < "$room/failed")" "$(wc -l < "$room/missing")" \
    "$(paste -sd' ' "$room/failed" "$room/missing")"
printf '{"passed":%d,"failed":[%s],"not_run":[%s],"tools":[%s],"gpus":[%s],"seconds":%d}\n' "$passed" "$(quoted < "$room/failed")" \
    "$(quoted < "$room/missing")" "$(tr , '\n' <<< "$tools" | grep . | quoted)" "$(tr , '\n' <<< "$gpus" | quoted)" "$SECONDS" |
    tee "$json"
[ "$passed" -gt 0 ] && [ ! -s "$room/failed" ] && [ ! -s "$room/missing" ]
