# SPDX-License-Identifier: Apache-2.0
platen_test(test_codec SOURCES test_codec.c LINK platen_kv LABELS unit)
platen_test(test_kv_block SOURCES test_kv_block.c LINK platen_kv LABELS unit)
platen_test(test_wire SOURCES test_wire.c LINK platen_kv LABELS unit)
