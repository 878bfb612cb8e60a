#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# aarch64.sh GENERATED [FLAGS...] - every C source compiles for aarch64 with the project's warnings; GENERATED holds proto/.
# The libraries' headers are this machine's: those that are used differ between architectures in nothing. Skipped (77)
# without aarch64-linux-gnu-gcc (Debian: gcc-aarch64-linux-gnu).
cd "$(dirname "$0")/../.." || exit 2
generated=$1
shift
compiler=aarch64-linux-gnu-gcc
if ! command -v $compiler > /dev/null || ! echo '#include <stdio.h>' | $compiler -xc -fsyntax-only - 2> /dev/null; then
    echo "$compiler and its libc are needed"
    exit 77
fi
tests/style/files.sh 'common/*.c' 'kernels/*.c' 'presses/*.c' 'prefill-node/*.c' 'decode-node/*.c' 'client/*.c' |
    grep -vE '^kernels/cuda/|^kernels/cpu/(tile_amx|direct)\.c$' |
    xargs -n 8 -P "$(nproc)" $compiler -fsyntax-only -std=c11 -O2 -D_GNU_SOURCE -DCPU_ISA=plain -DPLATEN_VERSION='"0"' \
        -Wall -Wextra -Wpedantic -Werror -I. -I"$generated" -isystem "$generated/proto" "$@" -idirafter /usr/include
