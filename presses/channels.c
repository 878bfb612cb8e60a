/* SPDX-License-Identifier: Apache-2.0 */
/* channels.c - zeros in the place of key channels that went, for stages and rounds that still look at keys. */
#include "presses/run_parts.h"

#include <string.h>

/* gone[dim - channels] = the channels that `stays` does not name; both ascending. */
static int32_t channels_gone(const int32_t *stays, int32_t channels, int32_t dim, int32_t *gone)
{
    int32_t count = 0;

    for (int32_t c = 0, at = 0; c < dim; c++)
        if (at < channels && stays[at] == c)
            at++;
        else
            gone[count++] = c;
    return count;
}

void run_clear_channels(struct press_round *round, const int32_t *index, const int64_t *first)
{
    const struct kv_rows *view = &round->view;
    const uint64_t bytes = dtype_bytes(view->dtype, 1), row_bytes = bytes * (uint64_t)view->dim;
    const int32_t *rows = press_index_get(round, index, first[view->heads]);
    int32_t gone[KV_HEAD_DIM_MAX];

    for (int32_t g = 0; g < view->heads; g++) {
        int32_t count = channels_gone(round->channel + g * round->channels, round->channels, view->dim, gone);

        for (int64_t i = first[g]; i < first[g + 1]; i++) {
            char *k = (char *)(uintptr_t)view->k + (uint64_t)(view->first[g] + rows[i]) * row_bytes;

            for (int32_t c = 0; c < count; c++)
                memset(k + (uint64_t)gone[c] * bytes, 0, bytes);
        }
    }
}
