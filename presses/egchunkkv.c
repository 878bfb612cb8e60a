/* SPDX-License-Identifier: Apache-2.0 */
/*
 * egchunkkv - as chunkkv, but a chunk whose score lies on few tokens keeps only those.
 *
 *      per chunk: mean score, entropy of the scores      best mean first, until the budget is used up
 *      mean at or above its median and entropy below its median: at most `low` tokens of the chunk, else as many as fit
 *
 * What is left of the budget goes to the best tokens anywhere. Exactly the budget stays, the same tokens for all heads.
 * kvpress pull request 263.
 */
#include "common/base/bytes.h"
#include "presses/scores.h"
#include "presses/shared.h"

#include <math.h>
#include <string.h>

struct egchunkkv_options {
    int64_t length, low;
};

static const struct opt egchunkkv_table[] = {
    { .name = "length",
      .type = OPT_INT,
      .offset = offsetof(struct egchunkkv_options, length),
      .min = 2,
      .max = INT32_MAX,
      .fallback = "10",
      .help = "tokens of a chunk" },
    { .name = "low",
      .type = OPT_INT,
      .offset = offsetof(struct egchunkkv_options, low),
      .min = 1,
      .max = INT32_MAX,
      .fallback = "4",
      .help = "tokens that a chunk of low entropy keeps" },
};

/* What is known of every chunk. */
struct gate {
    int64_t length, count, n;
    const float *t;
    float *mean, *entropy;
    uint8_t *mark;
    float protected_sum; /* t of a window that does not fit the budget: of those rows the newest stay; else NAN */
};

static enum status egchunkkv_check(const struct press_stage *stage, const struct opt **at, struct err *err)
{
    const struct egchunkkv_options *o = stage->options;

    if (o->low < o->length)
        return ST_OK;
    *at = &egchunkkv_table[1];
    return err_set(err, ST_EINVAL, "egchunkkv: low is less than length (%lld), not \"%lld\"", (long long)o->length,
                   (long long)o->low);
}

static int64_t chunk_end(const struct gate *e, int64_t chunk)
{
    return (chunk + 1) * e->length < e->n ? (chunk + 1) * e->length : e->n;
}

/* Entropy of the chunk's scores, from 0 (one token has it all) to 1 (all the same); NAN where a score is infinite (two
 * heads that critical is sure of). */
static float entropy_of(const struct gate *e, int64_t begin, int64_t end)
{
    float least = 0, sum = 0, entropy = 0;

    for (int64_t r = begin; r < end; r++)
        least = e->t[r] < least ? e->t[r] : least;
    for (int64_t r = begin; r < end; r++)
        sum += e->t[r] - least;
    for (int64_t r = begin; r < end && end - begin > 1; r++) {
        float p = (e->t[r] - least) / (sum + 1e-8f);

        entropy -= p * logf(p + 1e-8f);
    }
    if (end - begin > 1)
        entropy /= logf((float)(end - begin));
    return isnan(entropy) ? NAN : fminf(fmaxf(entropy, 0.0f), 1.0f);
}

static void measure(struct gate *e)
{
    for (int64_t c = 0; c < e->count; c++) {
        float sum = 0;

        for (int64_t r = c * e->length; r < chunk_end(e, c); r++)
            sum += e->t[r];
        e->mean[c] = sum / (float)(chunk_end(e, c) - c * e->length);
        e->entropy[c] = entropy_of(e, c * e->length, chunk_end(e, c));
    }
}

/* The lower median: element (count - 1) / 2 of the sorted values; NAN, with which no comparison holds, where one is. */
static float lower_median(const float *x, int64_t count, int32_t *order)
{
    for (int64_t i = 0; i < count; i++)
        if (isnan(x[i]))
            return NAN;
    scores_order(x, count, order);
    return x[order[count - 1 - (count - 1) / 2]];
}

/* Marks the best `want` unmarked rows of [begin, end). */
static void mark_best(struct gate *e, int64_t begin, int64_t end, int64_t want)
{
    while (want-- > 0) {
        int64_t best = -1;

        for (int64_t r = begin; r < end; r++) {
            if (e->mark[r])
                continue;
            if (best < 0 || e->t[r] > e->t[best] || (e->t[r] == e->t[best] && e->t[r] >= e->protected_sum))
                best = r;
        }
        if (best < 0)
            return;
        e->mark[best] = 1;
    }
}

static void mark_chunks(struct gate *e, int64_t low, int64_t budget, int32_t *order)
{
    float mean = lower_median(e->mean, e->count, order), entropy = lower_median(e->entropy, e->count, order);

    scores_order(e->mean, e->count, order);
    for (int64_t i = 0; i < e->count && budget > 0; i++) {
        int64_t c = order[i], begin = c * e->length, end = chunk_end(e, c);
        int64_t want = end - begin < budget ? end - begin : budget;

        if (e->mean[c] >= mean && e->entropy[c] < entropy)
            want = want < low ? want : low;
        mark_best(e, begin, end, want);
        budget -= want;
    }
    mark_best(e, 0, e->n, budget);
}

static enum status egchunkkv_choose(const struct press_stage *stage, struct press_round *round, int32_t *index,
                                    int64_t *first, struct err *err)
{
    const struct egchunkkv_options *o = stage->options;
    struct gate e = { .length = o->length, .n = round->view.rows[0] };
    int32_t *order;

    (void)err;
    e.count = (e.n + e.length - 1) / e.length;
    e.t = shared_sum(round);
    e.mean = press_work_host(round, (uint64_t)e.count * sizeof(float));
    e.entropy = press_work_host(round, (uint64_t)e.count * sizeof(float));
    order = press_work_host(round, (uint64_t)e.count * sizeof(int32_t));
    e.mark = press_work_host(round, (uint64_t)e.n);
    memset(e.mark, 0, (size_t)e.n);
    e.protected_sum = NAN;
    if (!isinf(round->budget.protected_score) && press_keep_rows(&round->keep, e.n) < round->tail)
        e.protected_sum = e.t[e.n - 1];
    measure(&e);
    mark_chunks(&e, o->low, press_keep_rows(&round->keep, e.n), order);
    shared_choose(round, e.mark, index, first);
    return ST_OK;
}

const struct press press_egchunkkv = {
    .name = "egchunkkv",
    .kind = PRESS_REFINE,
    .summary = "keeps chunks, of those with low entropy only the best tokens; the same for all heads",
    .source = "kvpress pull request 263",
    .reference = "EntropyGatedChunkKVPress",
    .cost = "T G",
    .differs = "",
    .options = egchunkkv_table,
    .option_count = ARRAY_LEN(egchunkkv_table),
    .options_bytes = sizeof(struct egchunkkv_options),
    .even_only = true,
    .check = egchunkkv_check,
    .choose = egchunkkv_choose,
};
