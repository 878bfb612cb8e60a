/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chunkkv - whole chunks stay or go, the same ones for all heads.
 *
 *      chunk score = mean over its tokens of the sum over heads      max(1, trunc(chunks (1 - ratio))) chunks stay
 *
 * The last chunk may be shorter and counts like the others, so how many rows stay depends on whether it does. Without one
 * whole chunk the rows are chosen one by one.
 *
 * Liu et al. 2025, arXiv:2502.00299, algorithm 1.
 */
#include "common/base/bytes.h"
#include "presses/scores.h"
#include "presses/shared.h"

#include <string.h>

struct chunkkv_options {
    int64_t length;
};

static const struct opt chunkkv_table[] = {
    { .name = "length",
      .type = OPT_INT,
      .offset = offsetof(struct chunkkv_options, length),
      .min = 1,
      .max = INT32_MAX,
      .fallback = "20",
      .help = "tokens of a chunk" },
};

/* Chunks that stay of `count`, for n rows. */
static int64_t chunks_kept(const struct press_keep *keep, int64_t count, int64_t n)
{
    struct press_keep k = { press_keep_ratio(keep, n), 0 };

    return press_keep_rows(&k, count);
}

static enum status chunkkv_choose(const struct press_stage *stage, struct press_round *round, int32_t *index,
                                  int64_t *first, struct err *err)
{
    int64_t length = ((const struct chunkkv_options *)stage->options)->length, n = round->view.rows[0];
    int64_t count = (n + length - 1) / length, kept = chunks_kept(&round->keep, count, n);
    float *t, *mean;
    int32_t *order;
    uint8_t *mark;

    (void)err;
    if (n < length) {
        round->be->ops->select(round->be, &round->view, &round->budget, index, first);
        return ST_OK;
    }
    t = shared_sum(round);
    mean = press_work_host(round, (uint64_t)count * sizeof *mean);
    order = press_work_host(round, (uint64_t)count * sizeof *order);
    mark = press_work_host(round, (uint64_t)n);
    for (int64_t c = 0; c < count; c++) {
        int64_t end = (c + 1) * length < n ? (c + 1) * length : n;
        double sum = 0;

        for (int64_t r = c * length; r < end; r++)
            sum += t[r];
        mean[c] = (float)sum / (float)(end - c * length); /* two rows that critical is sure of: infinite, as in f32 */
    }
    scores_order(mean, count, order);
    memset(mark, 0, (size_t)n);
    for (int64_t i = 0; i < kept; i++) {
        int64_t begin = order[i] * length, rows = n - begin < length ? n - begin : length;

        memset(mark + begin, 1, (size_t)rows);
    }
    shared_choose(round, mark, index, first);
    return ST_OK;
}

static int64_t chunkkv_rows_max(const struct press_stage *stage, const struct press_keep *keep, int32_t place,
                                int32_t places, int64_t n)
{
    int64_t length = ((const struct chunkkv_options *)stage->options)->length;
    int64_t rows = n < length ? press_keep_rows(keep, n) : chunks_kept(keep, (n + length - 1) / length, n) * length;

    (void)place;
    (void)places;
    return rows < n ? rows : n;
}

const struct press press_chunkkv = {
    .name = "chunkkv",
    .kind = PRESS_REFINE,
    .summary = "keeps whole chunks, the same ones for all heads",
    .source = "arXiv:2502.00299",
    .reference = "ChunkKVPress",
    .cost = "T G",
    .differs = "",
    .options = chunkkv_table,
    .option_count = ARRAY_LEN(chunkkv_table),
    .options_bytes = sizeof(struct chunkkv_options),
    .even_only = true,
    .choose = chunkkv_choose,
    .rows_max = chunkkv_rows_max,
};
