/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_safetensors.c - a safetensors file from anywhere; the ends of every tensor it is said to hold are read. */
#include "common/model/safetensors.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct tensors tensors = { 0 };
    struct arena arena = { 0 };
    struct err err = { 0 };

    if (safetensors_read(&tensors, &arena, data, bytes, &err) == ST_OK && tensors_seal(&tensors, &err) == ST_OK)
        for (size_t i = 0; i < tensors.count; i++)
            assert(tensors.items[i].data[0] + tensors.items[i].data[tensors.items[i].bytes - 1] < 512);
    tensors_fini(&tensors);
    arena_fini(&arena);
    return 0;
}
