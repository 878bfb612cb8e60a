#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# files.sh PATTERN... - the files of this tree whose path matches one of the git patterns, one a line. Tracked files
# where there is a git, all but build/ where there is none (a source package).
cd "$(dirname "$0")/../.." || exit 2
if git rev-parse --is-inside-work-tree > /dev/null 2>&1; then
    git ls-files -- "$@" | while read -r path; do [ -f "$path" ] && echo "$path"; done
    exit 0
fi
for pattern in "$@"; do
    find . -path ./build -prune -o -path "*$pattern" -type f -print | sed 's,^\./,,'
done | sort -u
