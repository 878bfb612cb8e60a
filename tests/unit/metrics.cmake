# SPDX-License-Identifier: Apache-2.0
foreach(file metrics page)
    platen_test(test_${file} SOURCES test_${file}.c LINK platen_metrics LABELS unit)
endforeach()
