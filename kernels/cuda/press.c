/* SPDX-License-Identifier: Apache-2.0 */
/*
 * press.c - what presses ask of the device: scores, the choice of rows, packing, checksums. All on LANE_PRESS.
 *
 * Arguments that live on the host travel to the kernels by value. The room that a window's scores need grows with the
 * longest context seen and is kept.
 */
#include "kernels/cuda/cuda.h"

#include <assert.h>
#include <math.h>
#include <string.h>
#include <xxhash.h>

struct rows_view press_view(const struct kv_rows *in)
{
    struct rows_view v = { .k = in->k, .v = in->v, .token = in->token, .heads = in->heads, .dim = in->dim };

    for (int32_t g = 0; g < in->heads; g++) {
        v.first[g] = in->first[g];
        v.rows[g] = (int32_t)in->rows[g];
        v.at[g] = in->at[g];
        v.rows_longest = in->rows[g] > v.rows_longest ? in->rows[g] : v.rows_longest;
    }
    v.at[in->heads] = in->at[in->heads];
    return v;
}

static struct cuda_queue press(const struct cuda *c)
{
    return c->queue[LANE_PRESS];
}

static void starve(struct cuda *c, const struct err *why)
{
    pthread_mutex_lock(&c->lock);
    if (c->starved.code == ST_OK)
        err_set(&c->starved, ST_EEXHAUSTED, "room for a press: %s", why->text);
    __atomic_store_n(&c->is_starved, true, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&c->lock);
}

enum status cuda_press_room(struct backend *be, struct err *err)
{
    struct cuda *c = (struct cuda *)be;
    enum status st = ST_OK;

    pthread_mutex_lock(&c->lock);
    if (c->starved.code != ST_OK)
        st = err_set(err, c->starved.code, "%s", c->starved.text);
    err_clear(&c->starved);
    __atomic_store_n(&c->is_starved, false, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&c->lock);
    return st;
}

bool press_reserve(struct cuda *c, uint64_t bytes)
{
    const uint64_t most = bytes + bytes / 4;
    struct err err = { 0 };

    if (bytes <= c->press_bytes)
        return true;
    cuda_free(&c->base, c->press);
    c->press = NULL;
    c->press_bytes = 0;
    if (cuda_alloc(&c->base, most, "activations", &c->press, NULL) == ST_OK)
        c->press_bytes = most;
    else if (cuda_alloc(&c->base, bytes, "activations", &c->press, &err) == ST_OK)
        c->press_bytes = bytes;
    else
        starve(c, &err);
    return c->press_bytes > 0;
}

void cuda_score_key_norm(struct backend *be, const struct kv_rows *in, float factor, float *score)
{
    struct cuda *c = cuda_of(be);
    const struct rows_view v = press_view(in);

    assert(in->dtype == be->kv);
    cuda_failed(c, launch_key_norm(press(c), in->dtype, &v, factor, score), "score_key_norm");
}

void cuda_score_window(struct backend *be, const struct kv_rows *in, const void *q, int32_t q_heads, int32_t window,
                       int64_t tokens, const float *row_weight, int32_t kernel, float pad, float *score)
{
    struct cuda *c = cuda_of(be);
    const struct rows_view v = press_view(in);
    const uint64_t partial = (uint64_t)window_partial_floats(v.rows_longest, v.heads, q_heads, window);
    const uint64_t kept = (uint64_t)window_kept_floats(v.rows_longest, v.heads, q_heads, window);
    const uint64_t lse = (uint64_t)q_heads * (uint64_t)window, raw = (uint64_t)v.at[v.heads];
    struct window_args a = { .q = q,
                             .q_heads = q_heads,
                             .window = window,
                             .kernel = kernel,
                             .tokens = tokens,
                             .scale = 1.0f / sqrtf((float)in->dim),
                             .pad = pad };

    assert(in->dtype == be->kv && window > 0 && kernel > 0 && kernel % 2 == 1);
    if (!press_reserve(c, 4 * (kept + partial + lse + raw + (uint64_t)window + 64)))
        return;
    a.kept = kept > 0 ? c->press : NULL;
    a.partial = (float *)c->press + kept;
    a.lse = a.partial + partial;
    a.raw = a.lse + lse;
    if (row_weight) { /* from pageable memory: taken when the call returns */
        float *weight = a.raw + raw;
        cuda_upload(be, LANE_PRESS, weight, row_weight, (uint64_t)window * 4);
        a.row_weight = weight;
    }
    a.largest = (uint32_t *)(a.raw + raw + window);
    cuda_failed(c, launch_score_window(press(c), in->dtype, &v, &a, score), "score_window");
}

void cuda_score_ranges(struct backend *be, const struct kv_rows *in, const int64_t *begin, const float *value,
                       int32_t count, float *score)
{
    struct cuda *c = cuda_of(be);
    const struct rows_view v = press_view(in);
    struct score_ranges r = { .count = count };

    assert(count > 0);
    if (count > CUDA_RANGES_MAX) {
        cuda_broken(c, "score_ranges", "more ranges than a launch takes");
        return;
    }
    memcpy(r.begin, begin, (size_t)(count + 1) * sizeof *begin);
    memcpy(r.value, value, (size_t)count * sizeof *value);
    cuda_failed(c, launch_score_ranges(press(c), &v, &r, score), "score_ranges");
}

void cuda_score_random(struct backend *be, const struct kv_rows *in, uint64_t seed, int32_t layer, float *score)
{
    struct cuda *c = cuda_of(be);
    const struct rows_view v = press_view(in);

    cuda_failed(c, launch_score_random(press(c), &v, seed, layer, score), "score_random");
}

static int32_t at_most(int64_t wanted, int64_t rows)
{
    return (int32_t)(wanted < 0 ? 0 : wanted < rows ? wanted : rows);
}

void cuda_select(struct backend *be, const struct kv_rows *in, const struct select_args *args, int32_t *index,
                 int64_t *first)
{
    struct cuda *c = cuda_of(be);
    const uint64_t bytes = (uint64_t)(in->heads + 1) * sizeof *first;
    struct select_plan p = { .score = args->score,
                             .heads = in->heads,
                             .joint = args->total >= 0,
                             .protected_score = args->protected_score,
                             .total = args->total };

    memcpy(p.at, in->at, bytes);
    for (int32_t g = 0; g < in->heads; g++) {
        p.rows[g] = (int32_t)in->rows[g];
        p.rows_longest = in->rows[g] > p.rows_longest ? in->rows[g] : p.rows_longest;
        p.keep[g] = at_most(p.joint ? args->safe[g] : args->keep[g], in->rows[g]);
        p.first[g + 1] = p.first[g] + p.keep[g];
    }
    memcpy(first, p.first, bytes);
    if (cuda_failed(c, launch_select(press(c), &p, index, c->first_device, c->select_room), "select") || !p.joint)
        return; /* each head's share is known beforehand: nothing to wait for */
    cuda_download(be, LANE_PRESS, c->first_host, c->first_device, bytes);
    cuda_wait(be, LANE_PRESS);
    memcpy(first, c->first_host, bytes);
}

/* Zeros from the end of a part to where the next begins, so that equal rows give equal bytes. */
static void pad_part(struct cuda *c, const struct kv_block *block, uint64_t from, uint64_t to)
{
    if (to > from)
        cuda_failed(c, cudaMemsetAsync((char *)block->data + from, 0, to - from, c->stream[LANE_PRESS]), "pack");
}

void channel_masks(const int32_t *channel, int32_t heads, int32_t k_dim, int32_t dim,
                   uint8_t masks[KV_HEADS_MAX * (KV_HEAD_DIM_MAX / 8)])
{
    const int32_t bytes = (dim + 7) / 8;

    memset(masks, 0, (size_t)heads * (size_t)bytes);
    for (int32_t i = 0; i < heads * k_dim; i++)
        masks[i / k_dim * bytes + channel[i] / 8] |= (uint8_t)(1u << channel[i] % 8);
}

/* The channels that K rows keep go up, as numbers for the kernel and as the block's masks. */
static const int32_t *channels_up(struct cuda *c, const int32_t *channel, const struct kv_block *block, uint8_t *mask)
{
    const uint64_t count = (uint64_t)block->heads * (uint64_t)block->k_dim, bytes = (uint64_t)(block->dim + 7) / 8;
    uint8_t masks[KV_HEADS_MAX * (KV_HEAD_DIM_MAX / 8)];

    if (!press_reserve(c, count * sizeof *channel))
        return NULL;
    channel_masks(channel, block->heads, block->k_dim, block->dim, masks);
    /* from pageable memory: taken when the calls return */
    cuda_upload(&c->base, LANE_PRESS, mask, masks, (uint64_t)block->heads * bytes);
    cuda_upload(&c->base, LANE_PRESS, c->press, channel, count * sizeof *channel);
    return c->press;
}

void cuda_pack(struct backend *be, const struct pack_args *args, const struct kv_block *block)
{
    struct cuda *c = cuda_of(be);
    const struct kv_rows *in = args->rows;
    uint8_t *data = block->data;
    struct kv_parts parts;
    struct pack_plan p = { .rows = press_view(in),
                           .index = args->index,
                           .codec = (int32_t)block->codec,
                           .k_dim = block->k_dim,
                           .token = args->token };

    kv_block_parts(block, &parts);
    p.k = data + parts.offset[KV_PART_K];
    p.v = data + parts.offset[KV_PART_V];
    p.k_scale = (float *)(void *)(data + parts.offset[KV_PART_K_SCALE]);
    p.v_scale = (float *)(void *)(data + parts.offset[KV_PART_V_SCALE]);
    p.k_whole = data + parts.offset[KV_PART_K_WHOLE];
    p.v_whole = data + parts.offset[KV_PART_V_WHOLE];
    assert(in->dtype == be->kv && block->dim == in->dim && be->ops->codecs >> block->codec & 1);
    assert(block->k_dim == block->dim || args->channel);
    memcpy(p.first, args->first, (size_t)(in->heads + 1) * sizeof p.first[0]);
    for (int32_t g = 0; g < in->heads; g++) {
        int64_t kept = p.first[g + 1] - p.first[g];
        p.kept_longest = kept > p.kept_longest ? kept : p.kept_longest;
        p.coded[g + 1] = p.coded[g] + kv_coded_rows(block->codec, kept);
    }
    if (args->rerotate) {
        p.inv_freq = args->rerotate->inv_freq;
        p.rope_dims = args->rerotate->dims;
    }
    if (block->k_dim < block->dim) {
        p.channel = channels_up(c, args->channel, block, data + parts.offset[KV_PART_MASKS]);
        if (!p.channel)
            return;
    }
    cuda_failed(c, launch_pack(press(c), in->dtype, &p), "pack");
    for (int i = 0; i < KV_PARTS; i++)
        pad_part(c, block, parts.offset[i] + parts.bytes[i], parts.offset[i] + kv_align(parts.bytes[i]));
}

uint64_t cuda_checksum(struct backend *be, enum lane lane, const void *device, uint64_t bytes)
{
    struct cuda *c = cuda_of(be);
    XXH3_state_t *state = XXH3_createState();
    uint64_t sum;

    /* the checksum is a chain over the bytes, so it is the host's; what is waited for is one part at a time */
    XXH3_64bits_reset(state);
    for (uint64_t at = 0; at < bytes; at += CHECKSUM_BYTES) {
        uint64_t part = bytes - at < CHECKSUM_BYTES ? bytes - at : CHECKSUM_BYTES;

        cuda_download(be, lane, c->bounce, (const char *)device + at, part);
        cuda_wait(be, lane);
        XXH3_64bits_update(state, c->bounce, part);
    }
    if (bytes == 0)
        cuda_wait(be, lane);
    sum = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return sum;
}
