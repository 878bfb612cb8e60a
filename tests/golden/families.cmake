# SPDX-License-Identifier: Apache-2.0
platen_test(golden_families SOURCES test_families.c family.c LINK platen_prefill platen_decode PkgConfig::JANSSON LABELS golden)
platen_test(golden_family_presses SOURCES test_family_presses.c family.c LINK platen_prefill platen_decode PkgConfig::JANSSON
            LABELS golden)

# The same on other back ends (family.h).
function(families_on program backend dtype label)
    set(name ${program}.${backend}.${dtype})
    add_test(NAME ${name} COMMAND ${program} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    set_tests_properties(${name} PROPERTIES TIMEOUT 300 LABELS ${label} SKIP_RETURN_CODE 77
                         ENVIRONMENT "PLATEN_TEST_BACKEND=${backend};PLATEN_TEST_DTYPE=${dtype}")
endfunction()

families_on(golden_families cpu bf16 golden)
if(PLATEN_CUDA)
    families_on(golden_families cuda:0 f32 gpu)
    families_on(golden_families cuda:0 bf16 gpu)
    families_on(golden_family_presses cuda:0 f32 gpu)
endif()
