# SPDX-License-Identifier: Apache-2.0
platen_test(test_backend SOURCES test_backend.c LINK platen_kernels LABELS unit)
platen_test(test_weights SOURCES test_weights.c LINK platen_kernels LABELS unit)
platen_test(test_steps SOURCES test_steps.c LINK platen_kernels platen_kv LABELS unit)
target_link_options(test_steps PRIVATE
    LINKER:--wrap=malloc LINKER:--wrap=calloc LINKER:--wrap=realloc LINKER:--wrap=posix_memalign)
