# SPDX-License-Identifier: Apache-2.0
foreach(format press params)
    platen_fuzz(fuzz_${format} SEEDS ${format} SOURCES fuzz_${format}.c LINK platen_presses)
endforeach()
