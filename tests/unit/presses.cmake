# SPDX-License-Identifier: Apache-2.0
platen_test(test_chain SOURCES test_chain.c LINK platen_presses LABELS unit)
foreach(file press_vectors press_values press_goes_on)
    platen_test(test_${file} SOURCES test_${file}.c ../support/small_layer.c ../support/small_vectors.c ../support/small_files.c
                ../support/tensor_file.c LINK platen_presses PkgConfig::JANSSON LABELS unit)
endforeach()
platen_test(test_press_decode SOURCES test_press_decode.c ../support/small_layer.c ../support/small_vectors.c
            LINK platen_presses PkgConfig::JANSSON LABELS unit)

# The examples of docs/NEW-PRESS.md as an operator builds them, and one that was built for another version.
foreach(example own_score own_choice own_budget)
    add_library(example_${example} MODULE ${PROJECT_SOURCE_DIR}/docs/examples/${example}.c)
endforeach()
add_library(example_old MODULE ../support/old_plugin.c)
add_library(example_empty MODULE ../support/no_plugin.c)
set(examples example_own_score example_own_choice example_own_budget example_old example_empty)
foreach(example IN LISTS examples)
    target_link_libraries(${example} PRIVATE platen_flags)
    set_target_properties(${example} PROPERTIES PREFIX "" LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests/plugins)
endforeach()
platen_test(test_press_plugin SOURCES test_press_plugin.c LINK platen_presses LABELS unit)
set_target_properties(test_press_plugin PROPERTIES ENABLE_EXPORTS ON)
target_compile_definitions(test_press_plugin PRIVATE PLUGINS="${PROJECT_BINARY_DIR}/tests/plugins")
add_dependencies(test_press_plugin ${examples})
