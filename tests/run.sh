#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# run.sh [PRESET] [CTEST OPTIONS] - installs what the tests need, builds build/PRESET (dev unless given: dev, asan, tsan),
# fetches the default model, and runs every test; what failed beside others runs once more, alone. CTest's log stays in
# build/PRESET/Testing/Temporary.
#
#   tests/run.sh                       all tests
#   tests/run.sh asan -L unit          unit tests under AddressSanitizer
#   tests/run.sh dev -R e2e.ask        tests whose name matches
set -u -o pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../deploy/steps.sh"
trap steps_hand_over EXIT

case ${1:-} in
--help | -h)
    sed -n '3,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
'' | -*) preset=dev ;;
*)
    preset=$1
    shift
    ;;
esac

steps_install "${packages_build[@]}" "${packages_model[@]}" "${packages_tests[@]}"
mkdir -p "$root/build"
steps_model || say "no default model: the tests that need it will be skipped"
steps_python grpcio==1.62.3 grpcio-tools==1.62.3 || say "no Python modules: the tests that need them will be skipped"
steps_build "$preset"
say "testing build/$preset"
steps_test "$preset" -j "$(nproc)" "$@"
