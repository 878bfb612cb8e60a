#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# names.sh - no file is called for being a drawer.
cd "$(dirname "$0")/../.." || exit 2
if tests/style/files.sh '*' | grep -iE '(^|[/_.-])(utils?|helpers?|misc|managers?|common_stuff)([/_.-]|$)'; then
    echo "a name says what is inside: not util, helper, misc or manager" >&2
    exit 1
fi
