#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# tidy.sh BUILD [REVISION] - clang-tidy (.clang-tidy in the root) over the C sources of the layers that changed since
# REVISION, or of all of them. BUILD holds compile_commands.json (every preset writes one) and has been built, so that
# the generated headers are there. Skipped (77) without clang-tidy.
cd "$(dirname "$0")/../.." || exit 2
build=$1 revision=$2
if ! command -v clang-tidy > /dev/null; then
    echo "clang-tidy is needed" >&2
    exit 77
fi
if [ ! -f "$build/compile_commands.json" ]; then
    echo "usage: tests/style/tidy.sh BUILD [REVISION]; $build/compile_commands.json is missing" >&2
    exit 2
fi

layers='common kernels presses prefill-node decode-node client'
if [ -n "$revision" ]; then
    layers=$(git diff --name-only "$revision" -- $layers | grep -E '\.(c|h|def)$' | xargs -r -n 1 dirname | sort -u)
fi
for layer in $layers; do
    tests/style/files.sh "$layer/*.c"
done | sort -u | while read -r file; do
    grep -q "\"file\": \".*/$file\"" "$build/compile_commands.json" && echo "$file" # not what this build leaves out
done | xargs -r -n 4 -P "$(nproc)" clang-tidy -p "$build" --quiet
