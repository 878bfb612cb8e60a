/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cam - while tokens are generated, rows that go may leave a share of their value with the kept rows after them.
 *
 *      every call    A[g][j] += attention of the last token onto row j, mean over the group
 *      compression   one set of rows for all heads, by the score's mean over heads
 *      candidates    the best scored of the rows that go, as many as calls went by
 *      for each, in ascending order: window = the first `merge` kept rows after it; p = clamp(A_j / mean A_window, 0, 1);
 *                    with probability p every value of the window gets V_j / |window|
 *
 * Zhang et al. 2024 (CaM), openreview LCTmppB165, algorithm 1.
 */
#include "presses/cam.h"
#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "kernels/random.h"
#include "presses/run_parts.h"
#include "presses/scores.h"
#include "presses/window.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct cam_options {
    int64_t merge;
};

static const struct opt cam_table[] = {
    { .name = "merge",
      .type = OPT_INT,
      .offset = offsetof(struct cam_options, merge),
      .min = 1,
      .max = 65536,
      .fallback = "32",
      .help = "kept rows that a value is shared among" },
};

/* ---- what every call adds ------------------------------------------------------------------------------------------ */

void press_cam_fini(struct press_cam *cam)
{
    for (int32_t l = 0; l < cam->layers; l++)
        free(cam->sum[l]);
    memset(cam, 0, sizeof *cam);
}

/* Room for n rows per head. */
static void cam_room(struct press_cam *cam, int32_t layer, int64_t n)
{
    int64_t room = n + n / 2 + 64;
    float *sum;

    if (n <= cam->room[layer])
        return;
    sum = mem_zero((size_t)(room * cam->heads), sizeof *sum);
    for (int32_t g = 0; g < cam->heads && cam->sum[layer]; g++)
        memcpy(sum + g * room, cam->sum[layer] + g * cam->room[layer], (size_t)cam->rows[layer] * sizeof *sum);
    free(cam->sum[layer]);
    cam->sum[layer] = sum;
    cam->room[layer] = room;
}

void press_cam_reserve(struct press_cam *cam, const struct hparams *hp, int64_t rows)
{
    cam->layers = hp->layers;
    cam->heads = hp->kv_heads;
    for (int32_t l = 0; l < hp->layers; l++)
        if (hparams_layer_is_full(hp, l))
            cam_room(cam, l, rows);
}

/* There are n rows now; those that were not known before have got nothing. */
static void cam_grow(struct press_cam *cam, int32_t layer, int64_t n)
{
    cam_room(cam, layer, n);
    for (int32_t g = 0; g < cam->heads; g++)
        for (int64_t r = cam->rows[layer]; r < n; r++)
            cam->sum[layer][g * cam->room[layer] + r] = 0;
    cam->rows[layer] = n;
}

enum status press_cam_step(struct press_run *run, struct press_cam *cam, const struct press_layer *in,
                           const struct kv_rows *rows, struct err *err)
{
    struct press_round round = run_round_open(run, in);
    struct kv_rows plain = *rows;
    int64_t n = rows->rows[0];
    const float *p;

    cam->layers = in->hp->layers;
    cam->heads = rows->heads;
    cam_grow(cam, in->layer, n);
    plain.token = NULL;
    run->be->ops->score_window(run->be, &plain, in->q, in->hp->q_heads, 1, n, NULL, 1, 0.0f, run->score);
    p = press_scores_get(&round, &plain, run->score);
    for (int32_t g = 0; g < rows->heads; g++) {
        float *sum = cam->sum[in->layer] + g * cam->room[in->layer];
        double others = 0;

        for (int64_t r = 0; r + 1 < n; r++) {
            sum[r] += p[rows->at[g] + r];
            others += p[rows->at[g] + r];
        }
        sum[n - 1] += (float)(1.0 - others); /* the token's own row */
    }
    work_back(&run->work, (struct press_scratch){ 0, 0 });
    return run_had_room(run, ST_OK, err);
}

/* ---- the merge -------------------------------------------------------------------------------------------------------- */

/* Mean of what the window's rows got. */
static float window_mean(const struct cam_merge *m, int32_t head, const int32_t *window, int64_t count)
{
    float sum = 0;

    for (int64_t i = 0; i < count; i++)
        sum += m->sum[head * m->stride + window[i]];
    return sum / (float)count;
}

static void merge_row(const struct cam_merge *m, const float *old, int32_t row, const int32_t *window, int64_t count)
{
    for (int32_t g = 0; g < m->heads; g++) {
        float p = m->sum[g * m->stride + row] / window_mean(m, g, window, count);
        const float *from = old + ((int64_t)g * m->n + row) * m->dim;

        p = isnan(p) ? 0.0f : fminf(fmaxf(p, 0.0f), 1.0f);
        if (!m->coin(m->ctx, p, m->layer, g, row))
            continue;
        for (int64_t i = 0; i < count; i++)
            for (int32_t d = 0; d < m->dim; d++)
                m->v[((int64_t)g * m->n + window[i]) * m->dim + d] += from[d] / (float)count;
    }
}

/* Ascending lists of the first `kept` rows of the order, and of the `merges` after them. */
static void split_rows(const struct cam_merge *m, int64_t merges, int32_t *kept, int32_t *gone)
{
    memset(m->mark, 0, (size_t)m->n);
    for (int64_t i = 0; i < m->kept + merges; i++)
        m->mark[m->order[i]] = i < m->kept ? 1 : 2;
    for (int32_t r = 0; r < m->n; r++) {
        if (m->mark[r] == 1)
            *kept++ = r;
        else if (m->mark[r] == 2)
            *gone++ = r;
    }
}

void cam_merge_values(const struct cam_merge *m)
{
    int64_t gone = m->n - m->kept, merges = m->merges < gone ? m->merges : gone;
    int32_t *kept = m->rows, *rows = m->rows + m->kept;

    split_rows(m, merges, kept, rows);
    memcpy(m->old, m->v, (size_t)(m->heads * m->n * m->dim) * sizeof *m->old);
    for (int64_t i = 0, at = 0; i < merges; i++) {
        int64_t count;

        while (at < m->kept && kept[at] < rows[i])
            at++;
        count = m->kept - at < m->window ? m->kept - at : m->window;
        if (count > 0)
            merge_row(m, m->old, rows[i], kept + at, count);
    }
}

/* ---- the stage ----------------------------------------------------------------------------------------------------------- */

static bool fair_coin(void *ctx, float p, int32_t layer, int32_t head, int64_t row)
{
    (void)ctx;
    return random_unit(0, layer, head, row) < p;
}

/* Rows by score, best first; equal ones: the smaller row stays, and of those that go the later one merges first. */
static int32_t *shared_order(struct press_round *round)
{
    const struct kv_rows *view = &round->view;
    int32_t *order = press_work_host(round, (uint64_t)view->rows[0] * sizeof *order);
    float *score = press_scores_get(round, view, round->score);

    scores_share(view, score);
    press_scores_put(round, view, round->score, score);
    scores_order(score, view->rows[0], order);
    return order;
}

/* V of the view as f32 [G][n][D]; and back. */
static float *values_get(struct press_round *round)
{
    const struct kv_rows *view = &round->view;
    uint64_t count = (uint64_t)(view->at[view->heads] * view->dim), bytes = dtype_bytes(view->dtype, count);
    float *v = press_work_host(round, count * sizeof *v);
    void *raw = press_work_host(round, bytes);

    round->be->ops->download(round->be, LANE_PRESS, raw, view->v, bytes);
    round->be->ops->wait(round->be, LANE_PRESS);
    dtype_to_f32(v, raw, view->dtype, count);
    return v;
}

static void values_put(struct press_round *round, const float *v)
{
    const struct kv_rows *view = &round->view;
    uint64_t count = (uint64_t)(view->at[view->heads] * view->dim), bytes = dtype_bytes(view->dtype, count);
    void *raw = press_work_host(round, bytes);

    dtype_from_f32(raw, view->dtype, v, count);
    round->be->ops->upload(round->be, LANE_PRESS, (void *)(uintptr_t)view->v, raw, bytes);
    round->be->ops->wait(round->be, LANE_PRESS);
}

/* What each head of the cache got, for the rows that stay: the first of m->rows. */
static void cam_cut(struct press_cam *cam, int32_t layer, const struct cam_merge *m)
{
    for (int32_t g = 0; g < cam->heads; g++)
        for (int64_t i = 0; i < m->kept; i++)
            cam->sum[layer][g * cam->room[layer] + i] = cam->sum[layer][g * cam->room[layer] + m->rows[i]];
    cam->rows[layer] = m->kept;
}

static enum status cam_budget(const struct press_stage *stage, struct press_round *round, struct err *err)
{
    const struct kv_rows *view = &round->view;
    struct press_cam *cam = round->cam;
    int32_t layer = round->in->layer;
    struct cam_merge m = { .n = view->rows[0],
                           .kept = round->budget.keep[0],
                           .merges = round->cam_calls,
                           .window = ((const struct cam_options *)stage->options)->merge,
                           .heads = view->heads,
                           .dim = view->dim,
                           .layer = layer,
                           .coin = round->cam_coin ? round->cam_coin : fair_coin };

    for (int32_t g = 1; g < view->heads; g++)
        if (view->rows[g] != view->rows[0])
            return err_set(err, ST_EINVAL, "cam needs equally many rows in every head");
    if (!cam || cam->heads != view->heads)
        return err_set(err, ST_EINTERNAL, "cam has no sums of attention");
    m.order = shared_order(round);
    cam_grow(cam, layer, m.n);
    m.sum = cam->sum[layer];
    m.stride = cam->room[layer];
    m.v = values_get(round);
    m.old = press_work_host(round, (uint64_t)(m.heads * m.n * m.dim) * sizeof *m.old);
    m.rows = press_work_host(round, (uint64_t)m.n * sizeof *m.rows);
    m.mark = press_work_host(round, (uint64_t)m.n);
    cam_merge_values(&m);
    values_put(round, m.v);
    cam_cut(cam, layer, &m);
    round->budget.protected_score = INFINITY;
    return ST_OK;
}

static void cam_decode(const struct press_stage *stage, struct chain_decode *out)
{
    out->cam_merge = ((const struct cam_options *)stage->options)->merge;
}

const struct press press_cam = {
    .name = "cam",
    .kind = PRESS_REFINE,
    .summary = "merges values of rows that go into kept ones after them, while tokens are generated",
    .source = "openreview LCTmppB165",
    .reference = "CAMPress",
    .cost = "T H D per call",
    .differs = "Draws its own coins, the same on every run.",
    .options = cam_table,
    .option_count = ARRAY_LEN(cam_table),
    .options_bytes = sizeof(struct cam_options),
    .even_only = true,
    .decode_only = true,
    .budget = cam_budget,
    .decode = cam_decode,
};
