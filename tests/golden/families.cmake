# SPDX-License-Identifier: Apache-2.0
platen_test(golden_families SOURCES test_families.c family.c LINK platen_prefill platen_decode PkgConfig::JANSSON LABELS golden)
platen_test(golden_family_presses SOURCES test_family_presses.c family.c LINK platen_prefill platen_decode PkgConfig::JANSSON
            LABELS golden)
