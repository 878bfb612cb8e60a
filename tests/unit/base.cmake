# SPDX-License-Identifier: Apache-2.0
foreach(file arena bytes clock file opt pool queue status text thread)
    platen_test(test_${file} SOURCES test_${file}.c LINK platen_base LABELS unit)
endforeach()
platen_test(test_log SOURCES test_log.c ../support/captured.c LINK platen_base LABELS unit)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson)
platen_test(test_trace SOURCES test_trace.c LINK platen_base PkgConfig::JANSSON m LABELS unit)
