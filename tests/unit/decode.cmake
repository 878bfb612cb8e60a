# SPDX-License-Identifier: Apache-2.0
platen_test(test_blocks SOURCES test_blocks.c LINK platen_decode LABELS unit)
platen_test(test_context SOURCES test_context.c LINK platen_decode LABELS unit)
platen_test(test_create SOURCES test_create.c rpc_pair.c LINK platen_decode LABELS unit)
platen_test(test_lookup SOURCES test_lookup.c LINK platen_decode LABELS unit)
platen_test(test_tails SOURCES test_tails.c LINK platen_decode LABELS unit)
platen_test(test_batcher SOURCES test_batcher.c small_decode.c small_model.c ../support/allocations.c LINK platen_decode LABELS unit)
platen_test(test_decode_part SOURCES test_decode_part.c small_decode.c small_model.c small_gate.c ../support/allocations.c
            ../support/tensor_file.c LINK platen_decode PkgConfig::JANSSON LABELS unit)
