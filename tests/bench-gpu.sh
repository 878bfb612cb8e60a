#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# bench-gpu.sh [--only WORD] [--seconds N] [--json FILE] [--bin DIR] [--rounds R] [--list] - every GPU bench line; see gpu-bench.py.
# bench-gpu.sh --nodes P+D ... - several nodes as one service; see bench-nodes.sh.
here=$(cd "$(dirname "$0")" && pwd)
[ "${1:-}" = --nodes ] && exec "$here/bench-nodes.sh" "$@"
exec python3 "$here/gpu-bench.py" "$@"
