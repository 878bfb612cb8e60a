/* SPDX-License-Identifier: Apache-2.0 */
/* parts.c - choosing from consecutive chunks of rows, each for itself. */
#include "presses/parts.h"

#include <math.h>
#include <string.h>

struct kv_rows parts_view(const struct kv_rows *view, int64_t from, int64_t length)
{
    struct kv_rows part = *view;

    for (int32_t g = 0; g < view->heads; g++) {
        int64_t begin = from < view->rows[g] ? from : view->rows[g], left = view->rows[g] - begin;

        part.first[g] += begin;
        part.at[g] += begin;
        part.rows[g] = left < length ? left : length;
    }
    return part;
}

/* rows= speaks of the whole: a chunk keeps the same fraction. */
static struct press_keep chunk_keep(const struct press_keep *keep, int64_t n)
{
    struct press_keep k = { press_keep_ratio(keep, n), 0 };

    return k;
}

int64_t parts_rows(const struct press_keep *keep, int64_t length, int64_t n)
{
    struct press_keep k = chunk_keep(keep, n);
    int64_t rows = n / length * press_keep_rows(&k, length);

    return rows + press_keep_rows(&k, n % length);
}

/* Chooses from one part; appends to each head's list of rows of the whole. */
static void part_choose(struct press_round *round, const struct kv_rows *part, int64_t from, int32_t *device,
                        const struct press_keep *keep, int32_t *lists, int64_t *count)
{
    struct select_args args = { .score = round->score, .total = -1, .protected_score = INFINITY };
    int64_t first[KV_HEADS_MAX + 1];
    const int32_t *rows;

    for (int32_t g = 0; g < part->heads; g++)
        args.keep[g] = press_keep_rows(keep, part->rows[g]);
    args.protected_score = press_protected(round, part, round->score);
    round->be->ops->select(round->be, part, &args, device, first);
    rows = press_index_get(round, device, first[part->heads]);
    for (int32_t g = 0; g < part->heads; g++)
        for (int64_t i = first[g]; i < first[g + 1]; i++)
            lists[round->view.at[g] + count[g]++] = rows[i] + (int32_t)from;
}

enum status parts_select(struct press_round *round, int64_t length, int32_t *index, int64_t *first, struct err *err)
{
    const struct kv_rows *view = &round->view;
    uint64_t bytes = (uint64_t)view->at[view->heads] * sizeof(int32_t);
    int32_t *lists = press_work_host(round, bytes);
    int64_t count[KV_HEADS_MAX] = { 0 }, n = view->rows[0];
    struct press_keep keep = chunk_keep(&round->keep, n);
    void *device;
    enum status st = press_work_device(round, bytes, &device, err);

    if (st != ST_OK)
        return st;
    for (int64_t from = 0; from < n; from += length) {
        struct kv_rows part = parts_view(view, from, length);

        part_choose(round, &part, from, device, &keep, lists, count);
    }
    first[0] = 0;
    for (int32_t g = 0; g < view->heads; g++) {
        memmove(lists + first[g], lists + view->at[g], (size_t)count[g] * sizeof *lists);
        first[g + 1] = first[g] + count[g];
    }
    press_index_put(round, index, lists, first[view->heads]);
    return ST_OK;
}
