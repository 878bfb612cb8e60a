# SPDX-License-Identifier: Apache-2.0
foreach(file health reflection service signals)
    platen_test(test_${file} SOURCES test_${file}.c LINK platen_service LABELS unit)
endforeach()
