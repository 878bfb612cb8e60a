#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# readme.sh CC - the press that README.md shows is a file that compiles as it stands there, as the tree is compiled.
cd "$(dirname "$0")/../.." || exit 2
shown=$(sed -n '/^## Add a press/,/^## /s/^    //p' README.md)
if ! grep -q 'const struct press press_' <<< "$shown"; then
    echo "README.md shows no press under \"Add a press\"" >&2
    exit 1
fi
"$1" -fsyntax-only -std=c11 -Wall -Wextra -Wpedantic -Werror -I. -x c - <<< "$shown"
