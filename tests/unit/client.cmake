# SPDX-License-Identifier: Apache-2.0
foreach(file answers bench kept shapes sources)
    platen_test(test_${file} SOURCES test_${file}.c LINK platen_client LABELS unit)
endforeach()
