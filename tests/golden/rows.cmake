# SPDX-License-Identifier: Apache-2.0
platen_test(golden_press_rows SOURCES test_press_rows.c tiny.c ../support/small_layer.c ../support/tensor_file.c
            LINK platen_client PkgConfig::JANSSON LABELS golden TIMEOUT 600)
