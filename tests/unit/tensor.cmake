# SPDX-License-Identifier: Apache-2.0
platen_test(test_dtype SOURCES test_dtype.c LINK platen_tensor m LABELS unit)
platen_test(test_quant SOURCES test_quant.c LINK platen_tensor LABELS unit)
