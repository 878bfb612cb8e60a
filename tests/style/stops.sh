#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# stops.sh - the twelve stops of docs/DESIGN.md section 3 are where it says: each file is there, opens by saying which stop
# it is, and defines the function.
cd "$(dirname "$0")/../.." || exit 2
broken=0 rows=0

complain()
{
    echo "docs/DESIGN.md: stop $1: $2" >&2
    broken=1
}

while IFS='|' read -r _ stop where _; do
    number=$(echo "$stop" | grep -oE '[0-9]+')
    rows=$((rows + 1))
    [ "$number" = $rows ] || complain "$number" "stands at place $rows"
    while read -r file function; do
        if [ ! -f "$file" ]; then
            complain "$number" "there is no $file"
            continue
        fi
        head -n 6 "$file" | grep -qE "stops? ([0-9]+ and )?$number( and [0-9]+)? of 12" || complain "$number" "$file does not open with it"
        grep -qE "^[a-z].*[ *]$function\(" "$file" || complain "$number" "$file has no $function()"
    done < <(echo "$where" | grep -oE '[a-z-]+/[a-z_/]+\.c: `[a-z_]+`' | tr -d ':`')
done < <(grep -E '^\| [0-9]+ [a-z]+ \| [a-z-]+/' docs/DESIGN.md)
[ $rows = 12 ] || complain "$rows" "is the last, there should be 12"
exit $broken
