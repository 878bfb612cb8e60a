# SPDX-License-Identifier: Apache-2.0
# Benchmarks of the CUDA back end: run by hand or by tests/bench-gpu.sh on a machine with a GPU.
add_executable(gpu_ops gpu_ops.c)
target_link_libraries(gpu_ops PRIVATE platen_flags platen_kernels m)
set_target_properties(gpu_ops PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests/bin)
