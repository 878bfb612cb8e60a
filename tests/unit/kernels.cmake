# SPDX-License-Identifier: Apache-2.0
platen_test(test_backend SOURCES test_backend.c LINK platen_kernels LABELS unit)
platen_test(test_weights SOURCES test_weights.c LINK platen_kernels LABELS unit)
platen_test(test_steps SOURCES test_steps.c ../support/allocations.c LINK platen_kernels platen_kv LABELS unit)
if(PLATEN_CUDA)
    platen_test(test_cuda SOURCES test_cuda.c LINK platen_kernels LABELS unit)
    target_include_directories(test_cuda SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
endif()
