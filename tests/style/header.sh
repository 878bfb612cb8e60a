#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# header.sh CC CXX HEADER FLAG... - HEADER compiles alone, as C11 and as C++17, without a warning. Skipped (77) when it
# includes a header of a GPU library that this machine has not got.
cc=$1 cxx=$2 header=$3
shift 3

for needed in $(sed -nE 's/^[ \t]*#[ \t]*include[ \t]*<((cu|nccl)[^>]*)>.*/\1/p' "$header"); do
    if ! echo "#include <$needed>" | "$cc" "$@" -E -x c - > /dev/null 2>&1; then
        echo "$header: needs <$needed>, which is not here" >&2
        exit 77
    fi
done
warnings="-Wall -Wextra -Wpedantic -Werror -D_GNU_SOURCE=1 -fsyntax-only"
# Twice, so that the include guard is seen to work.
printf '#include "%s"\n#include "%s"\n' "$header" "$header" | "$cc" "$@" $warnings -std=c11 -x c - || exit 1
printf '#include "%s"\n#include "%s"\n' "$header" "$header" | "$cxx" "$@" $warnings -std=c++17 -x c++ - || exit 1
