# SPDX-License-Identifier: Apache-2.0
platen_test(test_every_press SOURCES test_every_press.c ../support/small_layer.c ../support/small_files.c ../support/tensor_file.c
            LINK platen_presses PkgConfig::JANSSON LABELS contract TIMEOUT 120)
platen_test(test_every_decode_press SOURCES test_every_decode_press.c ../support/small_layer.c ../support/small_files.c
            ../support/tensor_file.c LINK platen_presses PkgConfig::JANSSON LABELS contract)
