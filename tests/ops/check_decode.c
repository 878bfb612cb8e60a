/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check_decode.c - steps of a decode node: ragged blocks, growing tails, questions of many rows beside single rows, tokens
 * taken from the step before. Every row of every step is judged by attention over lists that the check keeps itself.
 */
#include "common/kv/block.h"
#include "tests/ops/ops.h"
#include "tests/ops/reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    SLOTS = 4,
    LAYERS = 2,
    VOCAB = 97,
    PAGES_PER_SLOT = 7,
    ROWS_MAX = 330,
    TAIL_MAX = PAGES_PER_SLOT * 64,
    STEPS = 5
};

struct decode_case {
    int32_t q_heads, kv_heads, dim, window;
    enum kv_codec codec;
    int32_t k_dim;                /* channels that K rows have; 0: all */
    int64_t block_rows[SLOTS][4]; /* of each head; the second layer has 3 fewer */
};

/* What the check knows of a slot's layer: K, V of every head, block then tail. */
struct known {
    double *k, *v; /* [G][block_max + TAIL_MAX][D] */
    int64_t block[4];
    int64_t stride;
};

struct run {
    struct ops *o;
    const struct decode_case *c;
    struct known known[SLOTS][LAYERS];
    int32_t tail[SLOTS], pages_given[SLOTS], next_page;
    float freq[KV_HEAD_DIM_MAX];
    struct rope_table rope;
};

static int64_t block_rows(const struct decode_case *c, int slot, int layer, int head)
{
    int64_t rows = c->block_rows[slot][head] - (c->window ? 0 : 3 * layer);

    return rows < 0 ? 0 : rows;
}

/* Drops channels of a head at random until k_dim are left; their order in K rows is ascending. */
static void choose_channels(struct ops *o, const struct kv_block *b, uint8_t *mask)
{
    for (int32_t c = 0, left = b->k_dim; c < b->dim; c++)
        if (ops_below(o, b->dim - c) < left) {
            mask[c / 8] = (uint8_t)(mask[c / 8] | 1 << c % 8);
            left--;
        }
}

/* Random rows, as the block's codec holds them, to the device and to `known`. Some channels of K are much larger than
 * others, as in models. */
static void fill_block(struct run *r, struct known *n, struct kv_block *b)
{
    struct ops *o = r->o;
    const int64_t rows = kv_block_rows(b);
    const uint64_t mask_bytes = ((uint64_t)b->dim + 7) / 8;
    float *k = ops_random(o, rows * b->k_dim + 1, 1.0f), *v = ops_random(o, rows * b->dim + 1, 1.0f);
    uint8_t *host = arena_alloc(&o->arena, b->bytes + 1);
    double *row = ops_doubles(o, b->dim);
    struct kv_parts parts;

    for (int64_t i = 0; b->codec != KV_PLAIN && i < rows * b->k_dim; i++)
        k[i] *= i % b->k_dim == 5 ? 8.0f : 1.0f;
    kv_block_parts(b, &parts);
    ref_block_write(b, k, v, host);
    for (int g = 0; g < b->heads; g++) {
        uint8_t *mask = host + parts.offset[KV_PART_MASKS] + (uint64_t)g * mask_bytes;

        if (b->k_dim < b->dim)
            choose_channels(o, b, mask);
        for (int64_t i = 0; i < n->block[g]; i++) {
            double *to = n->k + (g * n->stride + i) * b->dim;

            ref_block_row(b, host, g, i, row, n->v + (g * n->stride + i) * b->dim);
            for (int32_t c = 0, from = 0; c < b->dim; c++)
                to[c] = b->k_dim == b->dim || mask[c / 8] >> c % 8 & 1 ? row[from++] : 0;
        }
    }
    b->data = ops_up_bytes(o, host, b->bytes);
}

/* Makes the block of (slot, layer) on the device and in `known`. */
static void make_block(struct run *r, int slot, int layer, struct kv_block *b)
{
    struct ops *o = r->o;
    const struct decode_case *c = r->c;
    struct known *n = &r->known[slot][layer];

    memset(b, 0, sizeof *b);
    *b =
        (struct kv_block){ .layer = layer, .heads = c->kv_heads, .dim = c->dim, .dtype = o->be->kv, .codec = c->codec };
    b->k_dim = c->k_dim > 0 ? c->k_dim : c->dim;
    n->stride = TAIL_MAX;
    for (int g = 0; g < c->kv_heads; g++) {
        n->block[g] = block_rows(c, slot, layer, g);
        b->first[g + 1] = b->first[g] + n->block[g];
        if (n->block[g] + TAIL_MAX > n->stride)
            n->stride = n->block[g] + TAIL_MAX;
    }
    ops_true(o, "the block is planned", kv_block_plan(b, NULL) == ST_OK);
    n->k = ops_doubles(o, c->kv_heads * n->stride * c->dim);
    n->v = ops_doubles(o, c->kv_heads * n->stride * c->dim);
    fill_block(r, n, b);
}

static double as_stored(struct ops *o, double x)
{
    return o->be->kv == DT_BF16 ? (double)bf16_to_f32(f32_to_bf16((float)x)) : (double)(float)x;
}

/* Appends row `row` of qkv to the lists of its slot, and gives its rotated q. */
static void know_row(struct run *r, const float *qkv, int layer, int slot, int64_t at, int32_t position, double *q)
{
    const struct decode_case *c = r->c;
    struct known *n = &r->known[slot][layer];
    const int32_t dim = c->dim;

    for (int i = 0; i < c->q_heads * dim; i++)
        q[i] = (double)qkv[i];
    for (int h = 0; h < c->q_heads; h++)
        ref_rotate(q + h * dim, r->freq, r->rope.dims / 2, position, 1.0);
    for (int g = 0; g < c->kv_heads; g++) {
        double *k = n->k + (g * n->stride + n->block[g] + at) * dim,
               *v = n->v + (g * n->stride + n->block[g] + at) * dim;

        for (int i = 0; i < dim; i++) {
            k[i] = (double)qkv[(c->q_heads + g) * dim + i];
            v[i] = as_stored(r->o, (double)qkv[(c->q_heads + c->kv_heads + g) * dim + i]);
        }
        ref_rotate(k, r->freq, r->rope.dims / 2, position, 1.0);
        for (int i = 0; i < dim; i++)
            k[i] = as_stored(r->o, k[i]);
    }
}

static void judge_layer(struct run *r, const struct step *step, int layer)
{
    struct ops *o = r->o;
    const struct decode_case *c = r->c;
    const int32_t dim = c->dim, width = (c->q_heads + 2 * c->kv_heads) * dim, group = c->q_heads / c->kv_heads;
    const double scale = 1 / sqrt(dim), p_eps = o->be->kv == DT_BF16 ? ldexp(1, -7) : ldexp(1, -20);
    struct qkv_shape shape = { .q_heads = c->q_heads, .kv_heads = c->kv_heads, .dim = dim };
    float *qkv = ops_random(o, (int64_t)step->rows * width, 1.0f), *got;
    double *want = ops_doubles(o, dim), *tolerance = ops_doubles(o, dim), *q = ops_doubles(o, c->q_heads * dim);
    void *q_out = ops_poisoned_act(o, (int64_t)step->rows * c->q_heads * dim);
    void *out = ops_poisoned_act(o, (int64_t)step->rows * c->q_heads * dim);

    for (int i = 0; i < dim; i++)
        tolerance[i] = 4 * (p_eps + 2 * ops_eps_act(o));
    o->be->ops->qkv_to_tail(o->be, &shape, &r->rope, layer, ops_up_x(o, qkv, (int64_t)step->rows * width), q_out);
    o->be->ops->attn_decode(o->be, layer, q_out, c->q_heads, (float)scale, c->window, out);
    got = ops_down(o, LANE_COMPUTE, out, (int64_t)step->rows * c->q_heads * dim);
    for (int s = 0; s < step->seqs; s++)
        for (int i = 0; i < step->seq[s].rows; i++) {
            int row = step->seq[s].row + i, slot = step->seq[s].slot;
            const struct known *n = &r->known[slot][layer];

            know_row(r, qkv + (int64_t)row * width, layer, slot, step->seq[s].tail + i, step->position[row], q);
            for (int h = 0; h < c->q_heads; h++) {
                int g = h / group;
                int64_t seen = n->block[g] + step->seq[s].tail + i + 1;
                int64_t from = c->window > 0 && seen > c->window ? seen - c->window : 0;

                ref_attend(q + h * dim, n->k + g * n->stride * dim, n->v + g * n->stride * dim, from, seen, dim, scale,
                           want, NULL);
                ops_near(o, "decode attention", got + ((int64_t)row * c->q_heads + h) * dim, want, tolerance, dim);
            }
        }
}

static void give_pages(struct run *r, int slot, int32_t tail)
{
    for (; r->pages_given[slot] * KV_PAGE_TOKENS < tail; r->pages_given[slot]++) {
        r->o->be->ops->slot_page(r->o->be, slot, r->pages_given[slot], r->next_page++);
        if (r->c->window) /* other numbers than in the full layer */
            r->o->be->ops->slot_ring(r->o->be, slot, r->pages_given[slot], SLOTS * PAGES_PER_SLOT + 3 - r->next_page);
    }
}

/* Rows of each slot in each step; 0: not in it. */
static const int32_t plan[STEPS][SLOTS] = {
    { 7, 1, 0, 3 }, { 1, 1, 1, 1 }, { 1, 0, 300, 1 }, { 1, 70, 1, 2 }, { 1, 1, 1, 1 }
};

static void run_step(struct run *r, const struct weight *table, const float *table_values, int32_t number,
                     int32_t *chosen)
{
    enum { DIM = 16 };
    struct ops *o = r->o;
    struct step_seq seq[SLOTS];
    int32_t token[ROWS_MAX], position[ROWS_MAX], output[SLOTS], known_token[ROWS_MAX], ids[SLOTS], outputs = 0;
    struct step step = { .seq = seq, .token = token, .position = position, .output = output };
    void *x = ops_poisoned_x(o, ROWS_MAX * DIM), *rows = ops_poisoned_x(o, SLOTS * DIM);
    float *got, *logits = ops_random(o, SLOTS * VOCAB, 1.0f);

    for (int32_t slot = 0; slot < SLOTS; slot++) {
        int32_t n = plan[number][slot] / (r->o->small && plan[number][slot] > 8 ? 8 : 1);

        if (n == 0)
            continue;
        seq[step.seqs] = (struct step_seq){ slot, step.rows, n, r->tail[slot], 0 };
        give_pages(r, slot, r->tail[slot] + n);
        for (int32_t i = 0; i < n; i++, step.rows++) {
            bool from_before = n == 1 && chosen[slot] >= 0;

            known_token[step.rows] = from_before ? chosen[slot] : (int32_t)ops_below(o, VOCAB);
            token[step.rows] = from_before ? -1 - slot : known_token[step.rows];
            position[step.rows] = 500 * slot + r->tail[slot] + i;
        }
        output[step.seqs] = number == 0 && slot == 1 ? -1 : step.rows - 1;
        outputs += output[step.seqs++] >= 0;
        r->tail[slot] += n;
    }
    ops_true(o, "the first step of a shape is not a replay", !o->be->ops->step_begin(o->be, &step) || number > 0);
    o->be->ops->step_embed(o->be, table, 1.0f, x);
    got = ops_down_x(o, LANE_COMPUTE, x, ROWS_MAX * DIM);
    for (int32_t row = 0; row < step.rows; row++)
        ops_equal_bytes(o, "embedded token", got + row * DIM, table_values + known_token[row] * DIM,
                        DIM * sizeof(float));
    for (int layer = 0; layer < LAYERS; layer++)
        judge_layer(r, &step, layer);
    o->be->ops->step_outputs(o->be, x, DIM, rows);
    got = ops_down_x(o, LANE_COMPUTE, rows, SLOTS * DIM);
    for (int32_t s = 0, at = 0; s < step.seqs; s++)
        if (output[s] >= 0)
            ops_equal_bytes(o, "wanted row", got + at++ * DIM, table_values + known_token[output[s]] * DIM,
                            DIM * sizeof(float));
    for (int32_t i = 0; i < outputs; i++)
        logits[i * VOCAB + (number * 31 + i * 7) % VOCAB] = 50.0f;
    o->be->ops->step_choose(o->be, ops_up(o, logits, SLOTS * VOCAB), VOCAB);
    o->be->ops->step_end(o->be);
    o->be->ops->step_result(o->be, 0, ids);
    for (int32_t s = 0, at = 0; s < step.seqs; s++) {
        int32_t want = output[s] < 0 ? -1 : (number * 31 + at++ * 7) % VOCAB;

        ops_true(o, "the chosen id, in the order of the sequences", ids[s] == want);
        if (want >= 0)
            chosen[seq[s].slot] = want;
    }
}

/* The newest `most` rows of every head of a slot's layer, or all, as the lists know them. */
static void judge_row(struct ops *o, const char *what, const float *got, const double *want, int32_t dim)
{
    const double eps = o->be->kv == DT_BF16 ? ldexp(1, -7) : ldexp(1, -20);
    double tolerance[KV_HEAD_DIM_MAX];

    for (int i = 0; i < dim; i++)
        tolerance[i] = eps * (4 + fabs(want[i]));
    ops_near(o, what, got, want, tolerance, dim);
}

static void judge_gather(struct run *r, int slot, int layer, int64_t most)
{
    struct ops *o = r->o;
    const struct decode_case *c = r->c;
    const struct known *n = &r->known[slot][layer];
    const uint64_t row_bytes = dtype_bytes(o->be->kv, (uint64_t)c->dim);
    struct kv_block out = { .heads = c->kv_heads, .dim = c->dim, .k_dim = c->dim, .dtype = o->be->kv };
    float *k, *v;
    char *host;

    for (int g = 0; g < c->kv_heads; g++) {
        int64_t rows = n->block[g] + r->tail[slot];

        out.first[g + 1] = out.first[g] + (rows < most ? rows : most);
    }
    out.v_offset = kv_align((uint64_t)kv_block_rows(&out) * row_bytes);
    out.bytes = out.extra_offset = 2 * out.v_offset;
    host = arena_alloc(&o->arena, out.bytes + 1);
    memset(host, 0x5a, out.bytes);
    out.data = ops_up_bytes(o, host, out.bytes);
    o->be->ops->slot_gather(o->be, slot, layer, r->tail[slot], &out);
    o->be->ops->download(o->be, LANE_PRESS, host, out.data, out.bytes);
    o->be->ops->wait(o->be, LANE_PRESS);
    k = arena_alloc(&o->arena, (size_t)(kv_block_rows(&out) * c->dim + 1) * sizeof *k);
    v = arena_alloc(&o->arena, (size_t)(kv_block_rows(&out) * c->dim + 1) * sizeof *v);
    dtype_to_f32(k, host, o->be->kv, (uint64_t)(kv_block_rows(&out) * c->dim));
    dtype_to_f32(v, host + out.v_offset, o->be->kv, (uint64_t)(kv_block_rows(&out) * c->dim));
    for (int g = 0; g < c->kv_heads; g++)
        for (int64_t i = out.first[g]; i < out.first[g + 1]; i++) {
            int64_t row = n->block[g] + r->tail[slot] - (out.first[g + 1] - i);

            judge_row(o, "gathered K", k + i * c->dim, n->k + (g * n->stride + row) * c->dim, c->dim);
            judge_row(o, "gathered V", v + i * c->dim, n->v + (g * n->stride + row) * c->dim, c->dim);
        }
}

static void check_case(struct ops *o, const struct decode_case *c)
{
    const int32_t window[LAYERS] = { 0, c->window }; /* the first layer is asked for one all the same */
    struct cache_config config = { .slots = SLOTS,
                                   .pages = SLOTS * PAGES_PER_SLOT,
                                   .pages_per_slot = PAGES_PER_SLOT,
                                   .rows_max = ROWS_MAX,
                                   .layers = LAYERS,
                                   .q_heads = c->q_heads,
                                   .kv_heads = c->kv_heads,
                                   .dim = c->dim,
                                   .window = c->window ? window : NULL,
                                   .ring_pages = SLOTS * PAGES_PER_SLOT + 3 };
    struct run r = { .o = o, .c = c };
    struct kv_block *blocks = arena_array(&o->arena, LAYERS, sizeof *blocks);
    int32_t chosen[SLOTS] = { -1, -1, -1, -1 };
    struct err err = { 0 };
    float *table_values;
    struct weight *table = ops_weight(o, VOCAB, 16, WEIGHT_TABLE, 1.0f, &table_values);

    for (int32_t i = 0; i < c->dim / 2; i++)
        r.freq[i] = powf(10000.0f, -2.0f * (float)i / (float)c->dim);
    r.rope = (struct rope_table){ .inv_freq = ops_up_bytes(o, r.freq, sizeof r.freq), .dims = c->dim, .scale = 1.0f };
    ops_true(o, "cache opens", o->be->ops->cache_open(o->be, &config, &err) == ST_OK);
    for (int slot = 0; slot < SLOTS; slot++) {
        for (int layer = 0; layer < LAYERS; layer++)
            make_block(&r, slot, layer, &blocks[layer]);
        o->be->ops->slot_blocks(o->be, slot, blocks);
    }
    for (int step = 0; step < STEPS; step++)
        run_step(&r, table, table_values, step, chosen);
    o->be->ops->wait(o->be, LANE_COMPUTE);
    for (int slot = 0; slot < SLOTS && o->be->ops->slot_gather; slot++)
        for (int layer = 0; layer < LAYERS; layer++) {
            judge_gather(&r, slot, layer, INT64_MAX);
            judge_gather(&r, slot, layer, c->window > 0 ? c->window : 70);
        }
    o->be->ops->cache_close(o->be);
    o->be->ops->weight_close(o->be, table);
}

void check_decode_step(struct ops *o)
{
    static const struct decode_case cases[] = {
        { 9, 3, 64, 0, KV_PLAIN, 0, { { 600, 1, 40 }, { 0, 300, 256 }, { 65, 64, 63 }, { 0, 0, 0 } } },
        { 4, 4, 80, 0, KV_PLAIN, 0, { { 10, 20, 30, 257 }, { 5, 0, 5, 5 }, { 511, 512, 513, 1 }, { 3, 2, 1, 0 } } },
        { 8, 1, 128, 50, KV_PLAIN, 0, { { 600 }, { 20 }, { 49 }, { 0 } } },
        { 4, 1, 128, 0, KV_PLAIN, 0, { { 6500 }, { 3 }, { 0 }, { 700 } } }, /* shared by dozens of blocks */
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        check_case(o, &cases[i]);
        while (o->devices > 0)
            o->be->ops->free(o->be, o->device[--o->devices]);
    }
}

/* Every codec but plain that the back end has; dropped channels, also of plain rows. */
void check_decode_codecs(struct ops *o)
{
    static const struct decode_case cases[] = {
        { 9, 3, 64, 0, KV_PLAIN, 0, { { 600, 1, 40 }, { 0, 300, 256 }, { 65, 64, 63 }, { 96, 31, 0 } } },
        { 4, 4, 80, 0, KV_PLAIN, 0, { { 10, 20, 130, 257 }, { 5, 0, 5, 5 }, { 511, 512, 513, 1 }, { 3, 2, 1, 0 } } },
        { 8, 1, 128, 50, KV_PLAIN, 0, { { 600 }, { 20 }, { 99 }, { 0 } } },
        { 9, 3, 64, 0, KV_PLAIN, 33, { { 200, 1, 40 }, { 0, 300, 256 }, { 65, 64, 63 }, { 0, 0, 0 } } },
        { 4, 2, 96, 0, KV_PLAIN, 48, { { 30, 700 }, { 64, 0 }, { 17, 129 }, { 1, 1 } } },
        { 2, 2, 256, 0, KV_PLAIN, 0, { { 90, 33 }, { 400, 0 }, { 16, 15 }, { 0, 1 } } },
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int codec = KV_PLAIN; codec < KV_CODECS; codec++) {
            struct decode_case c = cases[i];

            c.codec = (enum kv_codec)codec;
            if (o->small > 1 && (int)i % KV_CODECS != codec)
                continue;
            if ((o->be->ops->codecs >> codec & 1) && (c.k_dim > 0 || codec != KV_PLAIN))
                check_case(o, &c);
            while (o->devices > 0)
                o->be->ops->free(o->be, o->device[--o->devices]);
        }
}
