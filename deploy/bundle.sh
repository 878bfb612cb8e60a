#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# bundle.sh [BUILD] - makes platen-VERSION-linux-x86_64.tar.gz in BUILD (default: build/bundle): programs, the GPU tests and
# benches, proto files, licences, and the shared libraries that a bare machine lacks, found beside the programs by
# $ORIGIN/../lib. Not in it: glibc (2.36 or newer is needed), libstdc++, and CUDA's libraries, which are opened at run time
# where they are. With CUDA's compiler on PATH the CUDA back end is built in.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
build=${1:-$root/build/bundle}
version=$(sed -nE 's/^project\(platen VERSION ([0-9.]+).*/\1/p' "$root/CMakeLists.txt")
name=platen-$version-linux-$(uname -m)
stage=$build/$name
cuda=OFF
if command -v nvcc > /dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then
    cuda=ON
    PATH=$PATH:/usr/local/cuda/bin
fi

# DT_RPATH, not DT_RUNPATH: it also serves the libraries of the libraries.
cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DPLATEN_TESTS=ON -DPLATEN_CUDA=$cuda \
    -DCMAKE_EXE_LINKER_FLAGS=-Wl,--disable-new-dtags '-DCMAKE_BUILD_RPATH=$ORIGIN/../lib' \
    ${PLATEN_BUNDLE_CMAKE:-} > /dev/null
programs=(platen prefill-node decode-node)
tests=(ops gpu_wire golden_families golden_family_presses)
[ $cuda = ON ] && tests+=(gpu_ops)
ninja -C "$build" ${PLATEN_BUNDLE_NINJA:-} "${programs[@]}" "${tests[@]}" > /dev/null

rm -rf "$stage"
mkdir -p "$stage"/{bin,lib,tests,proto,licences}
for p in "${programs[@]}"; do install -s "$build/bin/$p" "$stage/bin/"; done
for t in "${tests[@]}"; do install -s "$build/tests/bin/$t" "$stage/bin/"; done
cp "$root/tests/gpu.sh" "$root"/tests/gpu-{model,bench}.py "$root/tests/bench-gpu.sh" "$root/tests/bench/gpu_peers.py" \
    "$root/tests/ops/checks.def" "$stage/tests/"
cp "$root"/tests/{gpu-nccl,bench-nodes}.sh "$stage/tests/"
(cd "$root" && cp --parents tests/bench/{nodes,shape_model,nccl_table}.py tests/e2e/tiny_model.py client/shapes.def docs/timeline.py "$stage/")
mkdir -p "$stage/tests/golden"
(cd "$root" && cp --parents tests/golden/family_rows.json tests/golden/families/*/*.{json,safetensors} "$stage/")
cp -r "$root"/tests/golden/{compare.py,gates.py,texts} "$stage/tests/golden/"
sed -nE 's/.*golden\("([a-z0-9_.]+)"\).*/\1/p' "$root/tests/gpu-model.py" | sort -u | # what it reads
    while read -r name; do cp "$root/tests/golden/$name" "$stage/tests/golden/"; done
for file in LICENSE README.md CHANGELOG.md; do
    if [ -f "$root/$file" ]; then cp "$root/$file" "$stage/"; fi
done
(cd "$root/proto" && find . -name '*.proto' -exec cp --parents {} "$stage/proto/" \;)

# Libraries, and what their packages say about copying.
ldd "$stage"/bin/* | awk '$3 ~ /^\// { print $3 }' | sort -u |
    grep -vE '/(libc|libm|libdl|librt|libpthread|libresolv|libgcc_s|libstdc\+\+)\.so' | while read -r library; do
    cp -L "$library" "$stage/lib/"
    package=$(dpkg -S "$(readlink -f "$library")" 2> /dev/null | head -1 | cut -d: -f1) || true
    if [ -n "$package" ] && [ -f "/usr/share/doc/$package/copyright" ]; then
        cp "/usr/share/doc/$package/copyright" "$stage/licences/$package"
    fi
done
needed=$(ldd "$stage"/bin/*) # whole before it is searched: with pipefail an early end of grep would count as a failure
if grep 'not found' <<< "$needed" || ! grep -qF "$stage/bin/../lib/libgrpc" <<< "$needed"; then
    echo "bundle: the programs do not find their libraries beside them" >&2
    exit 1
fi
tar -C "$build" -czf "$build/$name.tar.gz" "$name"
echo "$build/$name.tar.gz $(stat -c %s "$build/$name.tar.gz") bytes, cuda=$cuda"
