#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# licence.sh - every source begins with its SPDX line (after #! where there is one).
cd "$(dirname "$0")/../.." || exit 2
broken=0
for file in $(tests/style/files.sh '*.c' '*.h' '*.cu' '*.cuh' '*.def' '*.proto' '*.cmake' '*CMakeLists.txt' '*.sh' '*.py' \
    '*.yml' '*.yaml'); do
    if ! head -n 2 "$file" | grep -q 'SPDX-License-Identifier: Apache-2.0'; then
        echo "$file: no SPDX-License-Identifier in the first two lines" >&2
        broken=1
    fi
done
exit $broken
