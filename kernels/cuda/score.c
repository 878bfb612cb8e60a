/* SPDX-License-Identifier: Apache-2.0 */
/*
 * score.c - scores that single presses need: statistics of rows and queries, attention by columns, norms after Wo,
 * systems per head, and values merged.
 */
#include "kernels/cuda/cuda.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static struct cuda_queue press(const struct cuda *c)
{
    return c->queue[LANE_PRESS];
}

void cuda_row_squares(struct backend *be, const struct kv_rows *in, const float *sketch, int32_t sketch_dim, float *k2,
                      float *v2)
{
    struct cuda *c = cuda_of(be);
    const struct rows_view v = press_view(in);

    cuda_failed(c, launch_row_squares(press(c), in->dtype, &v, sketch, sketch_dim, k2, v2), "row_squares");
}

void cuda_score_key_diff(struct backend *be, const struct kv_rows *in, float *score)
{
    struct cuda *c = cuda_of(be);
    const struct rows_view v = press_view(in);
    const uint64_t stretches = (uint64_t)(v.rows_longest + KEYS_STRETCH - 1) / KEYS_STRETCH;

    if (press_reserve(c, (stretches + 1) * (uint64_t)(v.heads * v.dim) * 4))
        cuda_failed(c, launch_key_diff(press(c), in->dtype, &v, c->press, score), "score_key_diff");
}

void cuda_score_key_dot(struct backend *be, const struct kv_rows *in, const float *filter, float factor, float *score)
{
    struct cuda *c = cuda_of(be);
    const struct rows_view v = press_view(in);

    cuda_failed(c, launch_key_dot(press(c), in->dtype, &v, filter, factor, score), "score_key_dot");
}

void cuda_score_lag(struct backend *be, const struct kv_rows *in, int64_t from, int64_t lag, float *score)
{
    struct cuda *c = cuda_of(be);
    const struct rows_view v = press_view(in);

    assert(lag > 0 && from >= 0);
    if (press_reserve(c, (uint64_t)v.at[v.heads] * 4))
        cuda_failed(c, launch_lag(press(c), in->dtype, &v, (int32_t)from, (int32_t)lag, c->press, score), "score_lag");
}

void cuda_channel_squares(struct backend *be, const struct kv_rows *in, const int32_t *index, const int64_t *first,
                          float *out)
{
    struct cuda *c = cuda_of(be);
    const struct rows_view v = press_view(in);
    struct head_firsts firsts;

    memcpy(firsts.at, first, (size_t)(in->heads + 1) * sizeof *first);
    cuda_failed(c, launch_channel_squares(press(c), in->dtype, &v, index, &firsts, out), "channel_squares");
}

void cuda_keep_channels(struct backend *be, const struct kv_rows *in, const int32_t *index, const int64_t *first,
                        const int32_t *channel, int32_t k_dim)
{
    struct cuda *c = cuda_of(be);
    const struct rows_view v = press_view(in);
    const uint64_t bytes = (uint64_t)in->heads * (uint64_t)((in->dim + 7) / 8);
    uint8_t masks[KV_HEADS_MAX * (KV_HEAD_DIM_MAX / 8)];
    struct head_firsts firsts;

    assert(in->dtype == be->kv && k_dim > 0);
    if (!press_reserve(c, bytes))
        return;
    channel_masks(channel, in->heads, k_dim, in->dim, masks);
    cuda_upload(be, LANE_PRESS, c->press, masks, bytes); /* from pageable memory: taken when the call returns */
    memcpy(firsts.at, first, (size_t)(in->heads + 1) * sizeof *first);
    cuda_failed(c, launch_keep_channels(press(c), in->dtype, &v, index, &firsts, c->press), "keep_channels");
}

void cuda_query_stats(struct backend *be, const void *q, int32_t q_heads, int32_t dim, int64_t rows, float *mean,
                      float *cov)
{
    struct cuda *c = cuda_of(be);

    assert(rows > 0);
    if (press_reserve(c, query_stats_bytes(press(c), q_heads, dim, rows)))
        cuda_failed(c, launch_query_stats(press(c), be->act, q, q_heads, dim, rows, mean, cov, c->press),
                    "query_stats");
}

void cuda_rotate_stats(struct backend *be, const struct rope_table *rope, int64_t from, int64_t count, int32_t q_heads,
                       int32_t dim, float *mean, float *cov)
{
    struct cuda *c = cuda_of(be);
    struct turn_args a = { .inv_freq = rope->inv_freq,
                           .rope_dims = rope->dims,
                           .dim = dim,
                           .from = from,
                           .count = count,
                           .scale = rope->scale,
                           .mean = mean,
                           .cov = cov };

    if (!rope->inv_freq || !press_reserve(c, (uint64_t)rope->dims * sizeof *a.turn))
        return;
    a.turn = c->press;
    cuda_failed(c, launch_turn_stats(press(c), &a, q_heads), "rotate_stats");
}

void cuda_score_weigh(struct backend *be, const struct kv_rows *in, int64_t from, const float *v2, float eps,
                      float *score)
{
    struct cuda *c = cuda_of(be);
    const struct rows_view v = press_view(in);

    if (press_reserve(c, sizeof(uint32_t)))
        cuda_failed(c,
                    launch_weigh(press(c), &v, from < v.rows_longest ? (int32_t)from : (int32_t)v.rows_longest, v2, eps,
                                 c->press, score),
                    "score_weigh");
}

void cuda_score_share(struct backend *be, const struct kv_rows *in, int64_t tail, float *score)
{
    struct cuda *c = cuda_of(be);
    const struct rows_view v = press_view(in);

    if (v.rows_longest > 0 && press_reserve(c, sizeof(uint32_t)))
        cuda_failed(c, launch_share(press(c), &v, tail, c->press, score), "score_share");
}

/* Exponents, their softmax over rows, and its mean over the group. */
static cudaError_t expected(struct cuda *c, enum dtype t, const struct rows_view *v, const struct meet_args *form,
                            const struct group_args *group, float *column, float *partial, float *score)
{
    const bool matrix = t == DT_BF16 && (v->dim == 64 || v->dim == 96 || v->dim == 128);
    cudaError_t e;

    if (matrix && form->cov && press(c).warpgroups) {
        e = launch_form_split(press(c), v->dim, form);
        return e == cudaSuccess ? launch_expected_wgmma(press(c), v, form, column, partial, score) : e;
    }
    e = launch_meet(press(c), t, MEET_FORM, v, form, column);
    if (e == cudaSuccess)
        e = launch_softmax(press(c), v, form->q_heads, form->from, form->out_stride, column);
    return e == cudaSuccess ? launch_group(press(c), v, group, score) : e;
}

void cuda_score_expected(struct backend *be, const struct kv_rows *in, int64_t from, const float *mean,
                         const float *cov, int32_t q_heads, float *score)
{
    struct cuda *c = cuda_of(be);
    const struct rows_view v = press_view(in);
    const int64_t all = v.at[v.heads], split = ((int64_t)q_heads * all + 3) / 4 * 4; /* copied in units of 16 bytes */
    const int64_t partial = split + (int64_t)q_heads * in->dim * in->dim;
    struct meet_args form = { .q_heads = q_heads,
                              .out_stride = all,
                              .scale = 1.0f / sqrtf((float)in->dim),
                              .factor = 0.5f / (float)in->dim,
                              .mean = mean,
                              .cov = cov,
                              .position = INT64_MAX,
                              .from = (int32_t)from };
    struct group_args group = { .stride = all, .group = q_heads / in->heads, .from = (int32_t)from };
    float *room;

    if (v.rows_longest <= from ||
        !press_reserve(c, 4 * (uint64_t)(partial + expected_partial_floats(press(c), q_heads))))
        return;
    room = c->press;
    group.column = room;
    form.split = room + split;
    cuda_failed(c, expected(c, in->dtype, &v, &form, &group, room, room + partial, score), "score_expected");
}

void cuda_score_cap(struct backend *be, const struct kv_rows *in, int64_t from, const float *mean, int32_t q_heads,
                    float tau, float eps, float *score)
{
    struct cuda *c = cuda_of(be);
    const struct rows_view v = press_view(in);
    const struct cap_args cap = { .mean = mean, .q_heads = q_heads, .from = (int32_t)from, .tau = tau, .eps = eps };
    const struct solve_room r = solve_room_for(press(c), &v, q_heads, (int32_t)from, 0);

    if (v.rows_longest > from && press_reserve(c, 8 * (uint64_t)r.doubles + 4 * (uint64_t)r.floats))
        cuda_failed(c, launch_cap(press(c), in->dtype, &v, &cap, c->press, score), "score_cap");
}

void cuda_score_leverage(struct backend *be, const struct kv_rows *in, const struct rope_table *rope, int64_t position,
                         const float *sketch, int32_t sketch_dim, float *score)
{
    struct cuda *c = cuda_of(be);
    const struct rows_view v = press_view(in);
    const struct leverage_args l = { .inv_freq = rope->inv_freq,
                                     .sketch = sketch,
                                     .rope_dims = rope->dims,
                                     .sketch_dim = sketch_dim,
                                     .rope_scale = rope->scale,
                                     .position = position };
    const struct solve_room r = solve_room_for(press(c), &v, in->heads, 0, sketch_dim);

    assert(sketch_dim > 0 && sketch_dim <= KV_HEAD_DIM_MAX);
    if (press_reserve(c, 8 * (uint64_t)r.doubles + 4 * (uint64_t)r.floats))
        cuda_failed(c, launch_leverage(press(c), in->dtype, &v, &l, c->press, score), "score_leverage");
}

void cuda_score_noncausal(struct backend *be, const struct kv_rows *in, const void *q, int32_t q_heads, int64_t chunk,
                          float *score)
{
    struct cuda *c = cuda_of(be);
    const struct rows_view v = press_view(in);
    struct chunk_args a = { .q = q, .q_heads = q_heads, .chunk = (int32_t)chunk, .stride = v.at[v.heads] };

    assert(in->dtype == be->act && chunk > 0);
    if (!press_reserve(c, (uint64_t)(q_heads * a.stride) * 4))
        return;
    a.lse = c->press;
    cuda_failed(c, launch_noncausal(press(c), in->dtype, &v, &a, score), "score_noncausal");
}

void cuda_merge_values(struct backend *be, const struct kv_rows *in, const int32_t *index, const int64_t *first,
                       float threshold, double fraction)
{
    struct cuda *c = cuda_of(be);
    const struct rows_view v = press_view(in);
    const int64_t all = v.at[v.heads];
    struct merge_args a = { .index = index, .threshold = threshold, .fraction = fraction };

    memcpy(a.first.at, first, (size_t)(in->heads + 1) * sizeof *first);
    if (!press_reserve(c, (uint64_t)(5 * all + in->heads) * 4))
        return;
    a.k2 = c->press;
    a.v2 = a.k2 + all;
    a.cosine = a.v2 + all;
    a.gate = a.cosine + all;
    a.gone = (int32_t *)(a.gate + in->heads);
    a.nearest = a.gone + all;
    cuda_failed(c, launch_merge(press(c), in->dtype, &v, &a), "merge_values");
}

void cuda_score_columns(struct backend *be, const struct kv_rows *in, const struct column_args *args, float *score)
{
    struct cuda *c = cuda_of(be);
    const struct rows_view v = press_view(in);
    const int64_t all = v.at[v.heads], stride = (args->rows + MEET_TILE - 1) / MEET_TILE * MEET_TILE;
    struct meet_args columns = { .vectors = args->q,
                                 .head_stride = in->dim,
                                 .row_stride = (int64_t)args->q_heads * in->dim,
                                 .count = args->rows,
                                 .q_heads = args->q_heads,
                                 .out_stride = all,
                                 .scale = args->scale,
                                 .lse = args->lse,
                                 .lse_stride = args->lse_stride,
                                 .weight = args->weight,
                                 .position = args->position,
                                 .offset_stride = stride };
    struct group_args group = { .column_weight = args->column_weight,
                                .stride = all,
                                .group = args->q_heads / in->heads,
                                .largest = args->group_largest,
                                .update = args->update };

    if (!press_reserve(c, (uint64_t)(args->q_heads * (stride + all)) * 4))
        return;
    columns.offset = c->press;
    group.column = columns.offset + args->q_heads * stride;
    cuda_failed(c,
                launch_meet(press(c), in->dtype, args->largest ? MEET_LARGEST : MEET_SUM, &v, &columns,
                            (float *)c->press + args->q_heads * stride),
                "score_columns");
    cuda_failed(c, launch_group(press(c), &v, &group, score), "score_columns");
}

void cuda_value_out_norms(struct backend *be, const struct kv_rows *in, const int32_t *index, const int64_t *first,
                          const struct weight *o, int32_t q_heads, int32_t power, float *out)
{
    struct cuda *c = cuda_of(be);
    const struct rows_view v = press_view(in);
    const struct meet_args norms = { .vectors = o->data,
                                     .head_stride = in->dim,
                                     .row_stride = o->cols,
                                     .count = o->rows,
                                     .q_heads = q_heads,
                                     .values = 1,
                                     .by_group = 1,
                                     .out_stride = v.at[v.heads],
                                     .position = INT64_MAX };

    (void)index; /* all rows */
    (void)first;
    assert(o->data && o->cols == (int64_t)q_heads * in->dim);
    cuda_failed(c, launch_meet(press(c), in->dtype, power == 1 ? MEET_NORM1 : MEET_NORM2, &v, &norms, out),
                "value_out_norms");
}

void cuda_linear(struct backend *be, const void *x, int64_t rows, int64_t cols, const float *w, const float *bias,
                 int32_t outs, float *out)
{
    struct cuda *c = cuda_of(be);

    cuda_failed(c, launch_linear(press(c), be->act, x, rows, cols, w, bias, outs, out), "linear");
}
