/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvcompose - rows that the context looks at when it is read a second time; heads keep their own best, layers compete.
 *
 *      second pass: the same tokens again, on top of the full cache      a[l][h][j] = largest (mean) attention onto row j
 *      s = mean (largest) over the group, times |v| (vnorm), plus the mean over KV heads (share)
 *      every head sorted by s; composite c[l][i] = mean (largest) over heads of the i-th best
 *      structured: the best P n (1 - ratio) composites say how many rows each layer keeps, the same in all its heads
 *      else      : the best P G n (1 - ratio) of all heads' sorted scores say it per head
 *
 * Akulov et al. 2025, arXiv:2509.05165, section 3.
 */
#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "presses/held.h"
#include "presses/scores.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BY_MAX, BY_MEAN };

struct kvcompose_options {
    bool structured;
    int64_t task, group, head;
    bool vnorm, share;
    int64_t floor;
};

#define AT(member) offsetof(struct kvcompose_options, member)
static const struct opt kvcompose_table[] = {
    { .name = "structured",
      .type = OPT_FLAG,
      .offset = AT(structured),
      .fallback = "on",
      .help = "all heads of a layer keep equally many rows" },
    { .name = "task",
      .type = OPT_WORD,
      .offset = AT(task),
      .words = "max|mean",
      .fallback = "max",
      .help = "over the tokens read again" },
    { .name = "group",
      .type = OPT_WORD,
      .offset = AT(group),
      .words = "max|mean",
      .fallback = "mean",
      .help = "over the heads of a group" },
    { .name = "head",
      .type = OPT_WORD,
      .offset = AT(head),
      .words = "max|mean",
      .fallback = "mean",
      .help = "over the KV heads of a layer" },
    { .name = "vnorm",
      .type = OPT_FLAG,
      .offset = AT(vnorm),
      .fallback = "off",
      .help = "times the norm of the value" },
    { .name = "share", .type = OPT_FLAG, .offset = AT(share), .fallback = "on", .help = "add the mean over KV heads" },
    { .name = "floor",
      .type = OPT_INT,
      .offset = AT(floor),
      .min = 0,
      .max = INT32_MAX,
      .fallback = "0",
      .help = "rows per head that stay in any case" },
};
#undef AT

static void kvcompose_needs(const struct press_stage *stage, int64_t query_tokens, struct chain_needs *needs)
{
    (void)stage;
    (void)query_tokens;
    needs->all_layers = true;
    needs->second_pass = true;
}

static int32_t kvcompose_feeds(const struct press_stage *stage, const struct press_prompt *prompt)
{
    (void)stage;
    (void)prompt;
    return 1;
}

static int64_t kvcompose_feed(const struct press_stage *stage, const struct press_prompt *prompt, int32_t feed,
                              int32_t *token)
{
    (void)stage;
    (void)feed;
    if (token)
        memcpy(token, prompt->token, (size_t)prompt->tokens * sizeof *token);
    return prompt->tokens;
}

static void kvcompose_feed_needs(const struct press_stage *stage, struct chain_needs *needs)
{
    (void)stage;
    needs->q_rotated = true;
    needs->lse = true;
}

static enum status kvcompose_feed_layer(const struct press_stage *stage, struct press_round *round, int32_t feed,
                                        int64_t rows, struct err *err)
{
    const struct kvcompose_options *o = stage->options;
    const struct press_layer *in = round->in;
    const struct kv_rows *view = &round->view;
    struct column_args args = { .q = in->q,
                                .rows = rows,
                                .q_heads = in->hp->q_heads,
                                .scale = in->hp->attn_scale,
                                .lse = in->lse,
                                .lse_stride = in->lse_stride,
                                .position = INT64_MAX,
                                .largest = o->task == BY_MAX,
                                .group_largest = o->group == BY_MAX };
    uint64_t bytes = (uint64_t)view->at[view->heads] * sizeof(float);
    void *squares = NULL;
    const float *v2;
    float *host;
    enum status st = ST_OK;

    (void)feed;
    round->be->ops->score_columns(round->be, view, &args, round->score);
    if (o->vnorm) {
        st = press_work_device(round, bytes, &squares, err);
        if (st != ST_OK)
            return st;
        round->be->ops->row_squares(round->be, view, NULL, 0, NULL, squares);
    }
    host = press_scores_get(round, view, round->score);
    v2 = o->vnorm ? press_scores_get(round, view, squares) : NULL;
    for (int64_t i = 0; i < view->at[view->heads]; i++) {
        host[i] /= o->task == BY_MEAN ? (float)rows : 1.0f;
        host[i] *= v2 ? sqrtf(v2[i]) : 1.0f;
    }
    if (o->share)
        for (int64_t r = 0; r < view->rows[0]; r++) {
            float sum = 0;

            for (int32_t g = 0; g < view->heads; g++)
                sum += host[view->at[g] + r];
            for (int32_t g = 0; g < view->heads; g++)
                host[view->at[g] + r] += sum / (float)view->heads;
        }
    memcpy(held_scores(round->held, round->place), host, bytes);
    return ST_OK;
}

/* ---- how much each layer and head keeps ---------------------------------------------------------------------------- */

static int descending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return (x < y) - (x > y);
}

/* Every head's scores, best first, the first `floor` raised above all others. */
static float *sorted_scores(const struct press_held *h, int64_t floor)
{
    int64_t heads = (int64_t)h->places * h->heads;
    float *sorted = mem_alloc((size_t)(heads * h->tokens) * sizeof *sorted);

    memcpy(sorted, h->score, (size_t)(heads * h->tokens) * sizeof *sorted);
    for (int64_t i = 0; i < heads; i++) {
        qsort(sorted + i * h->tokens, (size_t)h->tokens, sizeof *sorted, descending);
        for (int64_t r = 0; r < floor && r < h->tokens; r++)
            sorted[i * h->tokens + r] += 1e9f;
    }
    return sorted;
}

/* composite[P][T] of unraised sorted scores; the first layer's is the largest of all layers'. */
static float *composites(const struct kvcompose_options *o, const struct press_held *h, const float *sorted)
{
    float *out = mem_alloc((size_t)(h->places * h->tokens) * sizeof *out);

    for (int32_t p = 0; p < h->places; p++)
        for (int64_t r = 0; r < h->tokens; r++) {
            float sum = 0, most = -INFINITY;

            for (int32_t g = 0; g < h->heads; g++) {
                float x = sorted[((int64_t)p * h->heads + g) * h->tokens + r];

                sum += x;
                most = x > most ? x : most;
            }
            out[p * h->tokens + r] = o->head == BY_MAX ? most : sum / (float)h->heads;
        }
    for (int32_t p = 0; p < h->places; p++)
        for (int64_t r = 0; r < h->tokens; r++) {
            float *x = &out[p * h->tokens + r];

            if (r < o->floor)
                *x += 1e9f;
            if (*x > out[r])
                out[r] = *x;
        }
    return out;
}

/* count[i] = how many of the `want` best of all lists [lists][tokens] lie in list i; equal ones by rank, then by list. */
static void count_best(const float *x, int64_t lists, int64_t tokens, int64_t want, int64_t *count)
{
    float *copy = mem_alloc((size_t)(lists * tokens) * sizeof *copy), cut;

    memcpy(copy, x, (size_t)(lists * tokens) * sizeof *copy);
    cut = held_kth_largest(copy, lists * tokens, want);
    free(copy);
    memset(count, 0, (size_t)lists * sizeof *count);
    for (int64_t i = 0; i < lists * tokens; i++)
        if (x[i] > cut) {
            count[i / tokens]++;
            want--;
        }
    for (int64_t r = 0; r < tokens && want > 0; r++)
        for (int64_t i = 0; i < lists && want > 0; i++)
            if (x[i * tokens + r] == cut) {
                count[i]++;
                want--;
            }
}

static enum status kvcompose_settle(const struct press_stage *stage, struct press_held *h,
                                    const struct press_keep *keep, struct err *err)
{
    const struct kvcompose_options *o = stage->options;
    int64_t lists = o->structured ? h->places : (int64_t)h->places * h->heads;
    int64_t want = keep->rows > 0 ? lists * press_keep_rows(keep, h->tokens) : press_keep_rows(keep, lists * h->tokens);
    float *sorted = sorted_scores(h, o->structured ? 0 : o->floor), *values = sorted;
    int64_t *count = mem_alloc((size_t)lists * sizeof *count), least = o->floor > 1 ? o->floor : 1;

    (void)err;
    if (o->structured)
        values = composites(o, h, sorted);
    count_best(values, lists, h->tokens, want, count);
    for (int32_t p = 0; p < h->places; p++) {
        h->total[p] = -1;
        for (int32_t g = 0; g < h->heads; g++) {
            int64_t rows = o->structured ? count[p] : count[(int64_t)p * h->heads + g];

            if (o->structured && rows < least)
                rows = least;
            h->keep[(int64_t)p * h->heads + g] = rows < h->tokens ? rows : h->tokens;
        }
    }
    free(count);
    if (values != sorted)
        free(values);
    free(sorted);
    return ST_OK;
}

static enum status kvcompose_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    return press_admit_op(stage, door, door->ops->score_columns != NULL, "score_columns", err);
}

static int64_t kvcompose_rows_max(const struct press_stage *stage, const struct press_keep *keep, int32_t place,
                                  int32_t places, int64_t n)
{
    (void)stage;
    (void)keep;
    (void)place;
    (void)places;
    return n;
}

const struct press press_kvcompose = {
    .name = "kvcompose",
    .kind = PRESS_SCORE,
    .summary = "keeps the rows that a second reading looks at; layers compete",
    .source = "arXiv:2509.05165",
    .reference = "KVComposePress",
    .cost = "a second pass over the context",
    .differs = "structured=off really drops rows; the reference leaves the second pass in the cache. vnorm=on works.",
    .options = kvcompose_table,
    .option_count = ARRAY_LEN(kvcompose_table),
    .options_bytes = sizeof(struct kvcompose_options),
    .first_only = true,
    .whole_only = true,
    .uneven = true,
    .prefill_only = true,
    .needs = kvcompose_needs,
    .admit = kvcompose_admit,
    .settle = kvcompose_settle,
    .feeds = kvcompose_feeds,
    .feed = kvcompose_feed,
    .feed_needs = kvcompose_feed_needs,
    .feed_layer = kvcompose_feed_layer,
    .rows_max = kvcompose_rows_max,
};
