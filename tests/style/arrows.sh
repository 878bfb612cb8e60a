#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# arrows.sh - includes point down the layers of docs/DESIGN.md section 4, and a library from outside is included only by
# the layer that hides it.
cd "$(dirname "$0")/../.." || exit 2
broken=0

# may_include FILE: what a file may include besides its own folder, as one regular expression.
may_include()
{
    local base='common/base/' tensor='common/tensor/' kv='common/kv/' metrics='common/metrics/' rpc='common/rpc/'

    case $1 in
    common/base/*) echo '$^' ;;
    common/tensor/* | common/metrics/*) echo "^$base" ;;
    common/kv/* | common/model/*) echo "^($base|$tensor)" ;;
    common/rpc/*) echo "^($base|$metrics|proto/)" ;;
    kernels/*) echo "^($base|$tensor|common/kv/layout\.h$|common/model/hparams\.h$)" ;;
    common/transport/*) echo "^($base|$kv|$metrics|$rpc|proto/)" ;;
    presses/*) echo "^($base|$tensor|$kv|kernels/)" ;;
    common/service/*) echo "^($base|$metrics|$rpc|proto/)" ;;
    common/node/* | prefill-node/* | decode-node/*) echo "^(common/|kernels/|presses/|proto/)" ;;
    docs/examples/*) echo '^presses/press\.h$' ;; # one header is all that a plug-in includes
    client/* | tests/* | deploy/*) echo '.' ;;
    *) echo '$^' ;;
    esac
}

# hidden_in HEADER: the only folder that may include <HEADER>, or nothing when any may.
hidden_in()
{
    case $1 in
    grpc/* | grpc.h) echo common/rpc ;;
    cuda* | cublas* | cudnn* | curand* | dnnl* | oneapi/*) echo kernels ;;
    nccl*) echo common/transport ;;
    pcre2* | utf8proc*) echo common/model ;;
    microhttpd*) echo common/metrics ;;
    esac
}

complain()
{
    echo "$1: includes $2, which $3" >&2
    broken=1
}

for file in $(tests/style/files.sh '*.c' '*.h' '*.cu' '*.cuh' '*.def'); do
    folder=$(dirname "$file")
    layer=$(echo "$file" | grep -oE '^(common/[^/]+|[^/]+)/')
    allowed=$(may_include "$file")
    while read -r header; do
        [[ $header == */* ]] || { complain "$file" "\"$header\"" "is not written from the root"; continue; }
        [[ $header == "$layer"* ]] && continue
        if [[ $header =~ ^(client|tests|deploy)/ && ! $file =~ ^(client|tests|deploy)/ ]]; then
            complain "$file" "\"$header\"" "nothing may include"
        elif ! [[ $header =~ $allowed ]]; then
            complain "$file" "\"$header\"" "does not lie below $folder"
        fi
    done < <(sed -nE 's/^[ \t]*#[ \t]*include[ \t]*"([^"]+)".*/\1/p' "$file")
    [[ $file == tests/* || $file == client/* ]] && continue
    while read -r header; do
        home=$(hidden_in "$header")
        [[ -z $home || $file == "$home"/* ]] || complain "$file" "<$header>" "only $home may include"
    done < <(sed -nE 's/^[ \t]*#[ \t]*include[ \t]*<([^>]+)>.*/\1/p' "$file")
done
exit $broken
