# SPDX-License-Identifier: Apache-2.0
# Reading a press text touches no device: the files of presses/ are taken without the back ends.
get_target_property(sources platen_presses SOURCES)
list(TRANSFORM sources PREPEND ${PROJECT_SOURCE_DIR}/presses/)
add_library(platen_presses_text STATIC ${sources} ${PROJECT_SOURCE_DIR}/kernels/block.c)
target_link_libraries(platen_presses_text PUBLIC platen_flags platen_kv PkgConfig::JANSSON ${CMAKE_DL_LIBS} m)
foreach(format press params)
    platen_fuzz(fuzz_${format} SEEDS ${format} SOURCES fuzz_${format}.c LINK platen_presses_text)
endforeach()
