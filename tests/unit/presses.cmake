# SPDX-License-Identifier: Apache-2.0
platen_test(test_chain SOURCES test_chain.c LINK platen_presses LABELS unit)
foreach(file press_vectors press_values)
    platen_test(test_${file} SOURCES test_${file}.c ../support/small_layer.c ../support/small_files.c
                LINK platen_presses PkgConfig::JANSSON LABELS unit)
endforeach()
platen_test(test_press_decode SOURCES test_press_decode.c ../support/small_layer.c LINK platen_presses PkgConfig::JANSSON
            LABELS unit)
