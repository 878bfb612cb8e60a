/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fallback.c - what a library refused and a kernel of ours does instead, for whoever tells it: the nodes do.
 *
 * The engine thread adds at a shape's first use, numbers and constant words alone; any thread reads. Entries never change
 * once the count has passed them, so nobody locks. A table that is full tells no more: 256 shapes say enough.
 */
#include "kernels/cuda/cuda.h"

#include <string.h>

static bool is_same(const struct fallback *a, const struct fallback *b)
{
    return strcmp(a->instead, b->instead) == 0 && memcmp(a->shape, b->shape, sizeof a->shape) == 0;
}

/* hot: where a shape is not taken, at each of its launches that no recorded step replays */
void cuda_fell_back(struct cuda *c, const struct fallback *f)
{
    const int32_t count = c->fallbacks;

    for (int32_t i = 0; i < count; i++)
        if (is_same(&c->fallback[i], f))
            return;
    if (count == FALLBACKS_MAX)
        return;
    c->fallback[count] = *f;
    __atomic_store_n(&c->fallbacks, count + 1, __ATOMIC_RELEASE); /* the entry is whole for whoever sees the count */
}

const struct fallback *cuda_fallback_at(struct backend *be, int32_t index)
{
    const struct cuda *c = (const struct cuda *)be;

    return index < __atomic_load_n(&c->fallbacks, __ATOMIC_ACQUIRE) ? &c->fallback[index] : NULL;
}
