# SPDX-License-Identifier: Apache-2.0
platen_test(test_parts SOURCES test_parts.c ../support/captured.c LINK platen_node LABELS unit)
platen_test(test_program SOURCES test_program.c LINK platen_node LABELS unit)
