/* SPDX-License-Identifier: Apache-2.0 */
/* tensors.c - a sorted list with binary search: a few thousand names, filled once, asked a few thousand times at open. */
#include "common/model/tensors.h"

#include "common/base/bytes.h"

#include <stdlib.h>
#include <string.h>

static int entry_order(const void *a, const void *b)
{
    return strcmp(((const struct tensor_entry *)a)->name, ((const struct tensor_entry *)b)->name);
}

void tensors_add(struct tensors *t, const struct tensor_entry *entry)
{
    if (t->count == t->room) {
        t->room = t->room ? t->room * 2 : 256;
        t->items = mem_grow(t->items, t->room * sizeof t->items[0]);
    }
    t->items[t->count++] = *entry;
}

enum status tensors_seal(struct tensors *t, struct err *err)
{
    if (t->count)
        qsort(t->items, t->count, sizeof t->items[0], entry_order);
    for (size_t i = 1; i < t->count; i++)
        if (strcmp(t->items[i - 1].name, t->items[i].name) == 0)
            return err_set(err, ST_EINVAL, "tensor %s is there twice", t->items[i].name);
    return ST_OK;
}

struct tensor_entry *tensors_find(const struct tensors *t, const char *name)
{
    struct tensor_entry key = { .name = name };

    return t->count ? bsearch(&key, t->items, t->count, sizeof t->items[0], entry_order) : NULL;
}

void tensors_fini(struct tensors *t)
{
    free(t->items);
    memset(t, 0, sizeof *t);
}

bool tensor_size(enum dtype dtype, const int64_t *shape, int32_t dims, uint64_t *bytes)
{
    uint64_t values = 1;
    uint64_t block = (uint64_t)dtype_block_values(dtype);

    for (int32_t i = 0; i < dims; i++)
        if (shape[i] <= 0 || !size_mul(values, (uint64_t)shape[i], &values))
            return false;
    if ((uint64_t)(dims ? shape[dims - 1] : 1) % block != 0)
        return false;
    return size_mul(values / block, (uint64_t)dtype_block_bytes(dtype), bytes);
}
