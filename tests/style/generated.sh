#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# generated.sh - generated code stays in the build folder.
cd "$(dirname "$0")/../.." || exit 2
if tests/style/files.sh '*.pb-c.c' '*.pb-c.h' '*.pb.c' '*.pb.h' '*.pb.cc' '*_pb2.py' '*_pb2_grpc.py' '*.o' '*.a' '*.so' |
    grep .; then
    echo "these are generated and must not be committed" >&2
    exit 1
fi
