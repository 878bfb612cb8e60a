/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compactor - leverage of the keys and attention without a mask, blended; first and last rows stay.
 *
 *      | sink |  score = blend * leverage + noncausal, both of this part alone  | tail |
 *
 * The ends get the largest score (not one more, as other scores do it). blend=auto is the round's ratio.
 *
 * Chari and Van Durme 2025, arXiv:2507.08143.
 */
#include "presses/compactor.h"
#include "common/base/bytes.h"
#include "presses/scores.h"

#include <math.h>

extern const struct press press_compactor;

struct compactor_options {
    int64_t sink, tail, chunk, sketch;
    double blend;
    int64_t seed;
};

static const struct opt compactor_table[] = {
    { .name = "sink",
      .type = OPT_INT,
      .offset = offsetof(struct compactor_options, sink),
      .min = 0,
      .max = 65536,
      .fallback = "8",
      .help = "rows at the beginning that stay" },
    { .name = "tail",
      .type = OPT_INT,
      .offset = offsetof(struct compactor_options, tail),
      .min = 0,
      .max = 65536,
      .fallback = "4",
      .help = "rows at the end that stay" },
    { .name = "chunk",
      .type = OPT_INT,
      .offset = offsetof(struct compactor_options, chunk),
      .min = 1,
      .max = 4096,
      .fallback = "256",
      .help = "rows that attend to each other" },
    { .name = "sketch",
      .type = OPT_INT,
      .offset = offsetof(struct compactor_options, sketch),
      .min = 1,
      .max = 256,
      .fallback = "48",
      .help = "channels of the random projection" },
    { .name = "blend",
      .type = OPT_FLOAT,
      .offset = offsetof(struct compactor_options, blend),
      .min = 0,
      .max = 1000,
      .words = "auto",
      .value = "auto or a number from 0 to 1000",
      .fallback = "auto",
      .help = "weight of the leverage; auto: the round's ratio" },
    { .name = "seed",
      .type = OPT_INT,
      .offset = offsetof(struct compactor_options, seed),
      .min = 0,
      .max = INT32_MAX,
      .fallback = "0",
      .help = "another seed, another projection" },
};

static void compactor_needs(const struct press_stage *stage, int64_t query_tokens, struct chain_needs *needs)
{
    (void)stage;
    (void)query_tokens;
    noncausal_needs(needs);
}

static int64_t compactor_tail(const struct press_stage *stage, int64_t query_tokens)
{
    (void)query_tokens;
    return ((const struct compactor_options *)stage->options)->tail;
}

/* The rows between the ends, with scores in the places of the whole. */
static struct kv_rows middle(const struct kv_rows *view, int64_t sink, int64_t tail)
{
    struct kv_rows part = *view;

    for (int32_t g = 0; g < view->heads; g++) {
        struct span s = scores_body(view, g, sink, tail);

        part.first[g] += s.begin;
        part.rows[g] = s.end - s.begin;
        part.at[g] += s.begin;
    }
    return part;
}

static enum status compactor_score(const struct press_stage *stage, struct press_round *round,
                                   const struct kv_rows *view, float *score, struct err *err)
{
    const struct compactor_options *o = stage->options;
    double blend = isnan(o->blend) ? press_keep_ratio(&round->keep, view->rows[0]) : o->blend;
    struct kv_rows part = middle(view, o->sink, o->tail);
    int64_t from = view->token ? 0 : round->part_begin + o->sink; /* of the part's first row, where rows are tokens */
    const float *other;
    float *host, largest, end;
    void *leverage = NULL;
    enum status st = press_work_device(round, (uint64_t)view->at[view->heads] * sizeof(float), &leverage, err);

    if (st == ST_OK && part.rows[0] > 0)
        st = leverage_part(round, &part, from, o->sketch, o->seed, leverage, err);
    if (st == ST_OK && part.rows[0] > 0)
        st = noncausal_part(round, &part, round->q_part ? o->sink : from, o->tail, o->chunk, score, err);
    if (st != ST_OK)
        return st;
    host = press_scores_get(round, view, score);
    other = press_scores_get(round, view, leverage);
    for (int32_t g = 0; g < view->heads; g++)
        for (int64_t i = part.at[g]; i < part.at[g] + part.rows[g]; i++)
            host[i] = (float)blend * other[i] + host[i];
    largest = scores_largest(view, host, o->sink, o->tail);
    end = isinf(largest) ? 1.0f : largest;
    scores_set_ends(view, host, o->sink, o->tail, end);
    for (int32_t g = 0; g < view->heads;
         g++) /* the first rows before the last ones, and of those the first one first */
        for (int64_t r = 0; r < o->sink && r < view->rows[g]; r++)
            host[view->at[g] + r] = end + (float)(o->sink - r) * 0x1p-18f * fmaxf(1.0f, fabsf(end));
    press_scores_put(round, view, score, host);
    return ST_OK;
}

bool compactor_follows_ratio(const struct press_stage *stage)
{
    return stage->press == &press_compactor && isnan(((const struct compactor_options *)stage->options)->blend);
}

static enum status compactor_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    enum status st = noncausal_admit(stage, door, err);

    return st == ST_OK ? leverage_admit(stage, door, err) : st;
}

const struct press press_compactor = {
    .name = "compactor",
    .kind = PRESS_SCORE,
    .summary = "keeps keys that others cannot stand in for and that are attended to without a mask",
    .source = "arXiv:2507.08143",
    .reference = "CompactorPress",
    .cost = "T chunk H D",
    .differs = "Draws its own random projection, the same on every device.",
    .options = compactor_table,
    .option_count = ARRAY_LEN(compactor_table),
    .options_bytes = sizeof(struct compactor_options),
    .first_only = true,
    .prefill_only = true,
    .needs = compactor_needs,
    .admit = compactor_admit,
    .tail = compactor_tail,
    .score = compactor_score,
};
