# SPDX-License-Identifier: Apache-2.0
platen_test(test_chain SOURCES test_chain.c LINK platen_presses LABELS unit)
platen_test(test_press_vectors SOURCES test_press_vectors.c ../support/small_layer.c LINK platen_presses PkgConfig::JANSSON
            LABELS unit)
platen_test(test_press_decode SOURCES test_press_decode.c ../support/small_layer.c LINK platen_presses PkgConfig::JANSSON
            LABELS unit)
