#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# format.sh - the C sources are formatted with .clang-format. Skipped (77) without clang-format, or with another major
# version than Debian 12's: they do not agree on details.
cd "$(dirname "$0")/../.." || exit 2
version=$(clang-format --version 2> /dev/null | sed -nE 's/.*version ([0-9]+).*/\1/p')
if [ "$version" != 14 ]; then
    echo "clang-format 14 is needed, found ${version:-none}" >&2
    exit 77
fi
tests/style/files.sh '*.c' '*.h' | xargs -r -n 20 -P 2 clang-format --dry-run --Werror || exit 1
