#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# bench-gpu.sh [--only WORD] [--seconds N] [--json FILE] [--bin DIR] [--rounds R] [--list] - every GPU bench line; see gpu-bench.py.
here=$(cd "$(dirname "$0")" && pwd)
exec python3 "$here/gpu-bench.py" "$@"
