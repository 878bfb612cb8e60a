# SPDX-License-Identifier: Apache-2.0
platen_test(test_rpc_call SOURCES test_rpc_call.c rpc_pair.c LINK platen_rpc LABELS unit)
