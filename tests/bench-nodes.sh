#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# bench-nodes.sh [--nodes P+D] [--seconds N] [--bin DIR] [--json FILE] [--cpu] ... - prefill and decode nodes of one host as one
# service, with as many GPUs as there are: links, equal answers, time to first token, goodput of 1+1 to P+D, kill -9 under load.
# DIR: folder of the programs (default: ../bin, as in a bundle). --cpu: small, without a GPU, to try the script itself.
# JSON lines, a table, one summary line. Exit code 0: all holds; 1: not; 77: no GPU here.
here=$(cd "$(dirname "$0")" && pwd)
case " $* " in
*" --bin "*) exec python3 -B "$here/bench/nodes.py" "$@" ;;
*) exec python3 -B "$here/bench/nodes.py" --bin "$here/../bin" "$@" ;;
esac
