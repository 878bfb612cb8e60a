/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_params.c - a parameter file from anywhere (safetensors, npy, text): read whole or refused, never read past its end. */
#include "presses/params.h"

#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void read_all(const struct params *p)
{
    static const int64_t shapes[][3] = { { -1, -1, -1 }, { -1, -1, 1 }, { -1, 1, 1 } };
    static const char *const names[] = { "q_filters", "query_mean", "layers.0.weight", "b" };

    for (size_t n = 0; n < sizeof names / sizeof names[0]; n++)
        for (int32_t rank = 1; rank <= 3; rank++) {
            float *values = NULL;

            (void)params_has(p, names[n]);
            (void)params_size(p, names[n], rank);
            if (params_read(p, names[n], shapes[3 - rank], rank, &values, NULL) == ST_OK)
                assert(values);
            free(values);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct params *p = NULL;
    char path[64];
    int fd = memfd_create("params", 0);

    assert(fd >= 0 && write(fd, data, bytes) == (ssize_t)bytes);
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (params_open(&p, path, NULL) == ST_OK)
        read_all(p);
    params_close(p);
    (void)close(fd);
    return 0;
}
