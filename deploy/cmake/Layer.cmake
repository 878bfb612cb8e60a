# SPDX-License-Identifier: Apache-2.0
# How a layer, a program and a test of platen are declared; compiler flags for all of them.

option(PLATEN_TESTS "build tests/" OFF)
option(PLATEN_FUZZ "build the fuzz targets (clang)" OFF)
option(PLATEN_CUDA "build the CUDA back end" OFF)
set(PLATEN_SANITIZE "" CACHE STRING "comma-separated list for -fsanitize=")

set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)

# assert() guards our own mistakes and stays on in every build.
set(CMAKE_C_FLAGS_RELEASE "-O3 -g1")
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O2 -g")

add_library(platen_flags INTERFACE)
target_compile_definitions(platen_flags INTERFACE _GNU_SOURCE)
target_include_directories(platen_flags INTERFACE ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR})
target_compile_options(platen_flags INTERFACE
    $<$<COMPILE_LANGUAGE:C>:-Wall -Wextra -Wpedantic -Werror -fno-math-errno -ffp-contract=off>)
if(PLATEN_SANITIZE)
    target_compile_options(platen_flags INTERFACE
        $<$<COMPILE_LANGUAGE:C>:-fsanitize=${PLATEN_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all>)
    target_link_options(platen_flags INTERFACE -fsanitize=${PLATEN_SANITIZE})
endif()
if(PLATEN_FUZZ)
    target_compile_options(platen_flags INTERFACE $<$<COMPILE_LANGUAGE:C>:-fsanitize=fuzzer-no-link>)
endif()

# platen_layer(NAME SOURCES a.c ... [LINK platen_base ...]): a static library that links only layers above it.
function(platen_layer name)
    cmake_parse_arguments(L "" "" "SOURCES;LINK" ${ARGN})
    add_library(${name} STATIC ${L_SOURCES})
    target_link_libraries(${name} PUBLIC platen_flags ${L_LINK})
endfunction()

# platen_program(NAME SOURCES a.c ... LINK ...): a program in bin/, installed.
function(platen_program name)
    cmake_parse_arguments(L "" "" "SOURCES;LINK" ${ARGN})
    add_executable(${name} ${L_SOURCES})
    target_link_libraries(${name} PRIVATE platen_flags ${L_LINK})
    set_target_properties(${name} PROPERTIES ENABLE_EXPORTS ON) # press plug-ins call presses/press.h
    install(TARGETS ${name} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endfunction()

# promises_of(OUT SOURCES): the names of all promises (cmocka_unit_test...(NAME)) in those sources of a test program that
# run through tests/support/cmocka_main.h, which takes one name as its argument. Read again when a source changes.
function(promises_of out sources)
    set(names "")
    foreach(source IN LISTS sources)
        get_filename_component(path ${source} ABSOLUTE) # one spelling, also for what several folders share
        set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${path})
        file(READ ${path} text)
        if(NOT text MATCHES "tests/support/cmocka_main\\.h")
            continue()
        endif()
        string(REGEX MATCHALL "cmocka_unit_test[a-z_]*\\([ \n]*[a-z0-9_]+" uses "${text}")
        foreach(use IN LISTS uses)
            string(REGEX REPLACE ".*\\([ \n]*" "" promise "${use}")
            list(APPEND names ${promise})
        endforeach()
    endforeach()
    set(${out} ${names} PARENT_SCOPE)
endfunction()

# platen_test(NAME SOURCES a.c ... LINK ... [LABELS unit] [TIMEOUT 60] [WHOLE]): one cmocka program, and one ctest entry
# `NAME.promise` for each of its promises, run alone in a process of its own. WHOLE, and programs that do not take a
# promise's name, are one entry `NAME`: for those whose set-up is dear, or whose promises come from a table.
function(platen_test name)
    cmake_parse_arguments(T "WHOLE" "TIMEOUT" "SOURCES;LINK;LABELS" ${ARGN})
    if(NOT T_TIMEOUT)
        set(T_TIMEOUT 60)
    endif()
    add_executable(${name} ${T_SOURCES})
    target_link_libraries(${name} PRIVATE platen_flags ${T_LINK} PkgConfig::CMOCKA)
    set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests/bin)

    set(entries "")
    if(NOT T_WHOLE)
        promises_of(promises "${T_SOURCES}")
        foreach(promise IN LISTS promises)
            add_test(NAME ${name}.${promise} COMMAND ${name} ${promise} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
            list(APPEND entries ${name}.${promise})
        endforeach()
    endif()
    if(NOT entries)
        add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
        set(entries ${name})
    endif()
    set_tests_properties(${entries} PROPERTIES TIMEOUT ${T_TIMEOUT} LABELS "${T_LABELS}" SKIP_RETURN_CODE 77)
endfunction()
