#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# gpu.sh [OPS] - every check of the CUDA back end in both dtypes, one line each; a summary line and a JSON line last.
# OPS: the program `ops` (default: ../bin/ops beside this script, as in a bundle). SANITIZE=memcheck|racecheck|initcheck runs
# them under compute-sanitizer. Exit code 0: all hold; 1: some do not; 77: no GPU here.
here=$(cd "$(dirname "$0")" && pwd)
ops=${1:-$here/../bin/ops}
checks=$here/checks.def
[ -f "$checks" ] || checks=$here/ops/checks.def
tool=()
[ -n "${SANITIZE:-}" ] && tool=(compute-sanitizer --tool "$SANITIZE" --error-exitcode 9)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0 failed=()

for dtype in f32 bf16; do
    for check in ${CHECKS:-$(sed -nE 's/^CHECK\(([a-z_]+)\)$/\1/p' "$checks")}; do
        timeout "${LIMIT:-120}" "${tool[@]}" "$ops" --backend "${BACKEND:-cuda:0}" --dtype $dtype "$check" > "$log" 2>&1
        code=$?
        if [ $code = 77 ]; then
            cat "$log"
            exit 77
        elif [ $code = 0 ]; then
            passed=$((passed + 1))
        else
            failed+=("$dtype.$check")
            echo "BROKEN $dtype.$check (exit $code)"
            head -c 1500 "$log"
        fi
    done
done
printf '%d checks hold, %d do not: %s\n' $passed ${#failed[@]} "${failed[*]}"
printf '{"passed":%d,"failed":[%s],"tool":"%s"}\n' $passed "$(printf '"%s",' "${failed[@]}" | sed 's/"",//; s/,$//')" "${SANITIZE:-}"
[ ${#failed[@]} = 0 ]
