/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu_ops.c - how fast single operations of the CUDA back end are, against what the card can do in the same run.
 *
 *   gpu_ops [--backend cuda:0] [--only WORD] [--json FILE]
 *
 * Roofs first and last: a device-to-device copy (bytes read + written) and a large product. Each operation is queued many
 * times and the whole is timed; inputs are random and, where they would fit into the cache, several sets take turns.
 * Every line is the median of 9 rounds; ratios are against the roof of this run.
 */
#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/order.h"
#include "kernels/backend.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 9, LAYERS_MAX = 16 };

struct bench {
    struct backend *be;
    const char *only;
    FILE *json;
    double copy_gb_s, gemm_tflops;
};

static void must(enum status st, const struct err *err)
{
    if (st == ST_OK)
        return;
    fprintf(stderr, "gpu_ops: %s\n", err->text);
    exit(st == ST_EUNAVAILABLE ? 77 : 1);
}

static void *room(struct bench *b, uint64_t bytes)
{
    struct err err = { 0 };
    void *at = NULL;

    must(b->be->ops->alloc(b->be, bytes, "activations", &at, &err), &err);
    return at;
}

/* Random bf16 or f32 numbers on the device: a weight's memory is the way in that needs no host copy. */
static struct weight *random_matrix(struct bench *b, int64_t rows, int64_t cols, enum weight_use use, uint64_t seed)
{
    struct weight_source src = { .rows = rows, .cols = cols, .random_seed = seed, .random_scale = 1.0f };
    struct err err = { 0 };
    struct weight *w;

    must(b->be->ops->weight_open(b->be, &src, use, &w, &err), &err);
    return w;
}

static enum status read_ones(void *ctx, int64_t row, int64_t rows, float *out, struct err *err)
{
    (void)row;
    (void)err;
    for (int64_t i = 0; i < rows * *(const int64_t *)ctx; i++)
        out[i] = 1.0f;
    return ST_OK;
}

/* Random activations in memory of our own: rows of a random table, embedded and normed. */
static void *random_room(struct bench *b, int64_t numbers, uint64_t seed)
{
    enum { COLS = 4096, ROWS = 256, PIECE = 8192 };
    const struct backend_ops *ops = b->be->ops;
    const int64_t rows = (numbers + COLS - 1) / COLS, row_bytes = COLS * (int64_t)dtype_bytes(b->be->act, 1);
    int64_t cols = COLS;
    struct weight_source src = { .rows = 1, .cols = cols, .read = read_ones, .ctx = &cols };
    struct weight *table = random_matrix(b, ROWS, COLS, WEIGHT_TABLE, seed), *ones;
    int32_t *ids = mem_zero((size_t)rows, sizeof *ids), *device = room(b, (uint64_t)rows * 4);
    void *x = room(b, (uint64_t)PIECE * COLS * sizeof(float)), *out = room(b, (uint64_t)(rows * row_bytes));
    uint64_t r = seed;
    struct err err = { 0 };

    must(ops->weight_open(b->be, &src, WEIGHT_VECTOR, &ones, &err), &err);
    for (int64_t i = 0; i < rows; i++) {
        r = r * 6364136223846793005u + 1442695040888963407u;
        ids[i] = (int32_t)(r >> 40) % ROWS;
    }
    ops->upload(b->be, LANE_COMPUTE, device, ids, (uint64_t)rows * 4);
    for (int64_t i = 0; i < rows; i += PIECE) {
        const int64_t piece = rows - i < PIECE ? rows - i : PIECE;

        ops->embed(b->be, table, device + i, piece, 1.0f, x);
        ops->rms_norm(b->be, x, ones, 1e-5f, piece, COLS, (char *)out + i * row_bytes);
    }
    ops->wait(b->be, LANE_COMPUTE);
    ops->free(b->be, device);
    ops->free(b->be, x);
    ops->weight_close(b->be, table);
    ops->weight_close(b->be, ones);
    free(ids);
    return out;
}

/* Median microseconds of one call of `run`, queued `calls` times a round. */
static double time_calls(struct bench *b, enum lane lane, int calls, void (*run)(struct bench *b, void *ctx, int i),
                         void *ctx)
{
    double us[ROUNDS];

    for (int i = 0; i < calls; i++)
        run(b, ctx, i);
    b->be->ops->wait(b->be, lane);
    for (int r = 0; r < ROUNDS; r++) {
        int64_t begin = clock_now_ns();

        for (int i = 0; i < calls; i++)
            run(b, ctx, i);
        b->be->ops->wait(b->be, lane);
        us[r] = (double)(clock_now_ns() - begin) / 1e3 / calls;
    }
    qsort(us, ROUNDS, sizeof us[0], order_f64);
    return us[ROUNDS / 2];
}

static void line(struct bench *b, const char *name, double us, double value, const char *unit, double ratio,
                 const char *of)
{
    struct err err = { 0 };

    if (b->be->ops->health(b->be, &err) != ST_OK)
        must(ST_EINTERNAL, &err);
    printf("%-34s %10.2f us %9.1f %-8s", name, us, value, unit);
    if (of)
        printf(" %6.3f of %s", ratio, of);
    printf("\n");
    fflush(stdout);
    if (b->json)
        fprintf(b->json, "{\"name\":\"%s\",\"us\":%.3f,\"value\":%.3f,\"unit\":\"%s\",\"ratio\":%.4f,\"of\":\"%s\"}\n",
                name, us, value, unit, ratio, of ? of : "");
}

static bool wanted(const struct bench *b, const char *word)
{
    return !b->only || strstr(b->only, word);
}

/* ---- roofs ---- */

struct copying {
    void *to, *from;
    uint64_t bytes;
};

static void copy_once(struct bench *b, void *ctx, int i)
{
    struct copying *c = ctx;

    (void)i;
    b->be->ops->copy(b->be, LANE_COMPUTE, c->to, c->from, c->bytes);
}

struct product {
    struct weight *w[LAYERS_MAX];
    int count;
    void *in, *out;
    int64_t rows;
    bool accumulate;
};

static void product_once(struct bench *b, void *ctx, int i)
{
    struct product *p = ctx;

    b->be->ops->matmul(b->be, p->w[i % p->count], NULL, p->in, p->rows, p->out, p->accumulate);
}

static void bench_roofs(struct bench *b, const char *when)
{
    struct copying c = { .bytes = (uint64_t)1 << 30 };
    struct product p = { .count = 1, .rows = 8192 };
    char name[64];
    double us;

    c.from = random_room(b, (int64_t)(c.bytes / 2), 3);
    c.to = room(b, c.bytes);
    us = time_calls(b, LANE_COMPUTE, 8, copy_once, &c);
    b->copy_gb_s = 2.0 * (double)c.bytes / us / 1e3;
    snprintf(name, sizeof name, "copy (%s)", when);
    line(b, name, us, b->copy_gb_s, "GB/s", b->copy_gb_s / 3350.0, "3.35 TB/s");
    p.w[0] = random_matrix(b, 8192, 8192, WEIGHT_MATRIX, 5);
    p.in = c.from;
    p.out = c.to;
    us = time_calls(b, LANE_COMPUTE, 10, product_once, &p);
    b->gemm_tflops = 2.0 * 8192.0 * 8192 * 8192 / us / 1e6;
    snprintf(name, sizeof name, "gemm 8192^3 (%s)", when);
    line(b, name, us, b->gemm_tflops, "TFLOP/s", b->gemm_tflops / 989.0, "989");
    b->be->ops->weight_close(b->be, p.w[0]);
    b->be->ops->free(b->be, c.from);
    b->be->ops->free(b->be, c.to);
}

/* ---- products of the 8B shape ---- */

/* An x that products add to, without a number that the sums could not bear. */
static void *zeros_x(struct bench *b, int64_t rows, int64_t cols)
{
    const uint64_t bytes = (uint64_t)(rows * cols) * sizeof(float);
    void *x = room(b, bytes), *zeros = mem_zero(1, bytes);

    b->be->ops->upload(b->be, LANE_COMPUTE, x, zeros, bytes);
    b->be->ops->wait(b->be, LANE_COMPUTE);
    free(zeros);
    return x;
}

static void bench_products(struct bench *b, int64_t most)
{
    static const struct {
        const char *name;
        int64_t n, k;
        int sets;
        bool adds;
    } shape[] = { { "qkv", 6144, 4096, 8, false },
                  { "o", 4096, 4096, 8, true },
                  { "gate_up", 28672, 4096, 2, false },
                  { "down", 4096, 14336, 4, true } };
    static const int64_t rows[] = { 1, 4, 8, 16, 24, 32, 64, 128, 8192 };

    for (size_t s = 0; s < sizeof shape / sizeof shape[0]; s++) {
        struct product p = { .count = shape[s].sets, .accumulate = shape[s].adds };
        const int64_t out_bytes = shape[s].adds ? 2 * 4 : 2; /* x is read and written */

        for (int i = 0; i < p.count; i++)
            p.w[i] = random_matrix(b, shape[s].n, shape[s].k, shape[s].adds ? WEIGHT_ADDS : WEIGHT_MATRIX,
                                   (uint64_t)(11 + i));
        p.in = random_room(b, 8192 * shape[s].k, 7);
        p.out = shape[s].adds ? zeros_x(b, 8192, shape[s].n) : room(b, (uint64_t)(8192 * shape[s].n) * 2);
        for (size_t r = 0; r < sizeof rows / sizeof rows[0] && rows[r] <= most; r++) {
            char name[64];
            double us, bytes, flops;

            p.rows = rows[r];
            us = time_calls(b, LANE_COMPUTE, rows[r] > 1000 ? 8 : 64, product_once, &p);
            bytes = (double)(2 * shape[s].k * (shape[s].n + rows[r]) + rows[r] * shape[s].n * out_bytes);
            flops = 2.0 * (double)(rows[r] * shape[s].n * shape[s].k);
            snprintf(name, sizeof name, "%s x %lld rows", shape[s].name, (long long)rows[r]);
            if (rows[r] > 1000)
                line(b, name, us, flops / us / 1e6, "TFLOP/s", flops / us / 1e6 / b->gemm_tflops, "gemm");
            else
                line(b, name, us, bytes / us / 1e3, "GB/s", bytes / us / 1e3 / b->copy_gb_s, "copy");
        }
        for (int i = 0; i < p.count; i++)
            b->be->ops->weight_close(b->be, p.w[i]);
        b->be->ops->free(b->be, p.in);
        b->be->ops->free(b->be, p.out);
    }
}

/* ---- rows of prefill, 8B shape ---- */

struct rows {
    void *x, *wide, *q, *k, *v;
    struct weight *norm;
    int32_t *position;
    struct rope_table rope;
    int64_t tokens;
};

enum { ROWS_DIM = 4096, ROWS_HEADS = 32, ROWS_KV = 8, ROWS_HEAD_DIM = 128, ROWS_FF = 14336 };

static void rows_norm(struct bench *b, void *ctx, int i)
{
    struct rows *r = ctx;

    (void)i;
    b->be->ops->rms_norm(b->be, r->x, r->norm, 1e-5f, r->tokens, ROWS_DIM, r->q);
}

static void rows_rotate(struct bench *b, void *ctx, int i)
{
    const struct qkv_shape shape = { .q_heads = ROWS_HEADS, .kv_heads = ROWS_KV, .dim = ROWS_HEAD_DIM };
    struct rows *r = ctx;
    const struct kv_layer kv = { .dtype = b->be->kv,
                                 .heads = ROWS_KV,
                                 .dim = ROWS_HEAD_DIM,
                                 .tokens = r->tokens,
                                 .stride = r->tokens,
                                 .k = r->k,
                                 .v = r->v };

    (void)i;
    b->be->ops->qkv_to_layer(b->be, &shape, &r->rope, r->wide, r->position, r->tokens, r->q, NULL, &kv, 0);
}

static void rows_gate(struct bench *b, void *ctx, int i)
{
    struct rows *r = ctx;

    (void)i;
    b->be->ops->gated(b->be, ACT_SILU, r->wide, r->tokens, ROWS_FF, r->x);
}

static void rows_line(struct bench *b, const char *what, struct rows *r, double bytes,
                      void (*run)(struct bench *b, void *ctx, int i))
{
    const double us = time_calls(b, LANE_COMPUTE, 16, run, r);
    char name[64];

    snprintf(name, sizeof name, "%s of %lld rows", what, (long long)r->tokens);
    line(b, name, us, bytes / us / 1e3, "GB/s", bytes / us / 1e3 / b->copy_gb_s, "copy");
}

static void bench_rows(struct bench *b, int64_t tokens)
{
    const int64_t wide = (ROWS_HEADS + 2 * ROWS_KV) * ROWS_HEAD_DIM;
    const int64_t act = (int64_t)dtype_bytes(b->be->act, 1), kv_bytes = tokens * ROWS_KV * ROWS_HEAD_DIM * act;
    struct rows r = { .tokens = tokens, .rope = { .dims = ROWS_HEAD_DIM, .scale = 1.0f } };
    int32_t *position = mem_zero((size_t)tokens, sizeof *position);
    float freq[ROWS_HEAD_DIM / 2];
    void *freqs = room(b, sizeof freq);

    for (int i = 0; i < ROWS_HEAD_DIM / 2; i++)
        freq[i] = powf(500000.0f, -2.0f * (float)i / ROWS_HEAD_DIM);
    for (int64_t i = 0; i < tokens; i++)
        position[i] = (int32_t)i;
    r.x = random_room(b, tokens * ROWS_FF, 61);
    r.wide = random_room(b, tokens * 2 * ROWS_FF, 62); /* qkv reads pairs of them as f32 */
    r.q = room(b, (uint64_t)(tokens * ROWS_DIM * act));
    r.k = room(b, (uint64_t)kv_bytes);
    r.v = room(b, (uint64_t)kv_bytes);
    r.norm = random_matrix(b, 1, ROWS_DIM, WEIGHT_VECTOR, 63);
    r.position = room(b, (uint64_t)tokens * 4);
    r.rope.inv_freq = freqs;
    b->be->ops->upload(b->be, LANE_COMPUTE, r.position, position, (uint64_t)tokens * 4);
    b->be->ops->upload(b->be, LANE_COMPUTE, freqs, freq, sizeof freq);
    b->be->ops->wait(b->be, LANE_COMPUTE);
    rows_line(b, "norm", &r, (double)(tokens * ROWS_DIM * (4 + act)), rows_norm);
    rows_line(b, "rotation", &r, (double)(tokens * wide * (4 + act)), rows_rotate);
    rows_line(b, "gate", &r, (double)(3 * tokens * ROWS_FF * act), rows_gate);
    b->be->ops->weight_close(b->be, r.norm);
    for (size_t i = 0; i < 7; i++)
        b->be->ops->free(b->be, (void *[]){ r.x, r.wide, r.q, r.k, r.v, r.position, freqs }[i]);
    free(position);
}

/* ---- prefill attention ---- */

struct attention {
    struct attn_span span[8];
    int32_t spans, q_heads, window;
    void *q, *out;
    float *lse;
    int64_t lse_stride;
};

static void attention_once(struct bench *b, void *ctx, int i)
{
    struct attention *a = ctx;

    (void)i;
    b->be->ops->attn_prefill(b->be, a->span, a->spans, a->q, a->q_heads, 1.0f / sqrtf((float)a->span[0].kv.dim),
                             a->window, a->out, a->lse, a->lse_stride);
}

static void bench_attention(struct bench *b, int32_t q_heads, int32_t kv_heads, int32_t dim, int64_t tokens,
                            int32_t spans, bool own)
{
    struct attention a = { .spans = spans, .q_heads = q_heads, .window = own ? 1 << 30 : 0, .lse_stride = tokens };
    void *k = random_room(b, spans * kv_heads * tokens * dim, 21),
         *v = random_room(b, spans * kv_heads * tokens * dim, 22);
    double us, flops = 4.0 * dim * q_heads * (double)tokens * (double)(tokens + 1) / 2 * spans;
    char name[64];

    a.q = random_room(b, spans * tokens * q_heads * dim, 23);
    a.out = room(b, (uint64_t)(spans * tokens * q_heads * dim) * 2);
    a.lse = spans == 1 ? room(b, (uint64_t)(q_heads * tokens) * 4) : NULL;
    for (int32_t s = 0; s < spans; s++) {
        int64_t at = s * kv_heads * tokens * dim * 2;

        a.span[s] = (struct attn_span){ .row = s * tokens, .rows = tokens, .token = 0 };
        a.span[s].kv = (struct kv_layer){ (char *)k + at, (char *)v + at, DT_BF16, kv_heads, dim, tokens, tokens };
    }
    b->be->ops->attn_prepare(b->be, q_heads, &a.span[0].kv);
    us = time_calls(b, LANE_COMPUTE, tokens >= 32768 ? 3 : 10, attention_once, &a);
    snprintf(name, sizeof name, "%s %d/%d x %d, %d x %lld", own ? "own attention" : "attention", q_heads, kv_heads, dim,
             spans, (long long)tokens);
    line(b, name, us, flops / us / 1e6, "TFLOP/s", flops / us / 1e6 / b->gemm_tflops, "gemm");
    b->be->ops->free(b->be, k);
    b->be->ops->free(b->be, v);
    b->be->ops->free(b->be, a.q);
    b->be->ops->free(b->be, a.out);
    b->be->ops->free(b->be, a.lse);
}

/* ---- decode attention ---- */

enum spread { EQUAL, RAGGED };

struct decoding {
    int32_t layers, q_heads;
    void *q, *out;
    float scale;
};

static void decoding_once(struct bench *b, void *ctx, int i)
{
    struct decoding *d = ctx;

    b->be->ops->attn_decode(b->be, i % d->layers, d->q, d->q_heads, d->scale, 0, d->out);
}

/* Lengths between 0.05 and 4 times the mean with the same sum: an exponential shape, cut and scaled. */
static void lengths(int64_t *rows, int32_t count, int64_t mean, enum spread spread, uint64_t seed)
{
    int64_t sum = 0;

    for (int32_t i = 0; i < count; i++) {
        double u, x;

        seed = seed * 6364136223846793005u + 1442695040888963407u;
        u = (double)(seed >> 11) / 9007199254740992.0;
        x = -log(1.0 - u);
        x = x < 0.05 ? 0.05 : x > 4.0 ? 4.0 : x;
        rows[i] = spread == EQUAL ? mean : (int64_t)(x * (double)mean);
        sum += rows[i];
    }
    for (int32_t i = 0; sum != mean * count; i = (i + 1) % count) { /* the rest, evenly, within the limits */
        int64_t step = (mean * count - sum) / count;

        step = step != 0 ? step : mean * count > sum ? 1 : -1;
        if (rows[i] + step < mean / 20 || rows[i] + step > 4 * mean)
            continue;
        rows[i] += step;
        sum += step;
    }
}

static void bench_decode(struct bench *b, int32_t batch, int64_t mean, int32_t q_heads, int32_t kv_heads, int32_t dim,
                         enum spread spread)
{
    const int32_t heads = batch * kv_heads;
    const uint64_t layer_bytes = (uint64_t)heads * (uint64_t)mean * (uint64_t)dim * 4;
    const int32_t layers = (int32_t)(layer_bytes > 400u << 20                      ? 2
                                     : (800u << 20) / layer_bytes + 1 < LAYERS_MAX ? (800u << 20) / layer_bytes + 1
                                                                                   : LAYERS_MAX);
    struct cache_config config = { .slots = batch,
                                   .pages = batch,
                                   .pages_per_slot = 1,
                                   .rows_max = batch,
                                   .layers = layers,
                                   .q_heads = q_heads,
                                   .kv_heads = kv_heads,
                                   .dim = dim };
    struct decoding d = { layers, q_heads, random_room(b, batch * q_heads * dim, 31), NULL, 1.0f / sqrtf((float)dim) };
    int64_t *rows = mem_zero((size_t)heads, sizeof *rows);
    struct kv_block *blocks = mem_zero((size_t)layers, sizeof *blocks);
    struct step_seq *seq = mem_zero((size_t)batch, sizeof *seq);
    int32_t *zeros = mem_zero((size_t)batch, sizeof *zeros), *none = mem_zero((size_t)batch, sizeof *none);
    struct step step = { .rows = batch, .seqs = batch, .seq = seq, .token = zeros, .position = zeros, .output = none };
    void *data = random_room(b, (int64_t)(layer_bytes / 2) * layers, 33);
    struct err err = { 0 };
    char name[64];
    double us, bytes = (double)layer_bytes + (double)heads * dim * 4;

    d.out = room(b, (uint64_t)(batch * q_heads * dim) * 2);
    must(b->be->ops->cache_open(b->be, &config, &err), &err);
    lengths(rows, heads, mean, spread, 99);
    for (int32_t s = 0, at = 0; s < batch; s++) {
        int64_t before = 0;

        for (int32_t i = 0; i < at; i++)
            before += rows[i];
        for (int32_t l = 0; l < layers; l++) {
            blocks[l] = (struct kv_block){ .layer = l, .heads = kv_heads, .dim = dim, .k_dim = dim, .dtype = DT_BF16 };
            for (int32_t g = 0; g < kv_heads; g++)
                blocks[l].first[g + 1] = blocks[l].first[g] + rows[at + g];
            blocks[l].data = (char *)data + (uint64_t)l * layer_bytes + (uint64_t)before * (uint64_t)dim * 4;
            blocks[l].v_offset = (uint64_t)blocks[l].first[kv_heads] * (uint64_t)dim * 2;
        }
        b->be->ops->slot_blocks(b->be, s, blocks);
        b->be->ops->slot_page(b->be, s, 0, s);
        seq[s] = (struct step_seq){ s, s, 1, 0, 0 };
        none[s] = -1;
        at += kv_heads;
    }
    b->be->ops->step_begin(b->be, &step);
    us = time_calls(b, LANE_COMPUTE, layer_bytes > 400u << 20 ? 16 : 128, decoding_once, &d);
    b->be->ops->step_end(b->be);
    snprintf(name, sizeof name, "decode %d/%d x %d B=%d %lld %s", q_heads, kv_heads, dim, batch, (long long)mean,
             spread == EQUAL ? "equal" : "ragged");
    line(b, name, us, bytes / us / 1e3, "GB/s", bytes / us / 1e3 / b->copy_gb_s, "copy");
    b->be->ops->wait(b->be, LANE_COMPUTE);
    b->be->ops->cache_close(b->be);
    b->be->ops->free(b->be, data);
    b->be->ops->free(b->be, d.q);
    b->be->ops->free(b->be, d.out);
    free(rows), free(blocks), free(seq), free(zeros), free(none);
}

/* ---- presses ---- */

struct pressing {
    struct kv_rows rows;
    struct select_args select;
    struct pack_args pack;
    struct kv_block block;
    void *q;
    float *score, *mean, *cov;
    int32_t *index;
    int64_t first[KV_HEADS_MAX + 1];
    int64_t tokens;
};

static void norm_once(struct bench *b, void *ctx, int i)
{
    struct pressing *p = ctx;

    (void)i;
    b->be->ops->score_key_norm(b->be, &p->rows, -1.0f, p->score);
}

static void window_once(struct bench *b, void *ctx, int i)
{
    struct pressing *p = ctx;

    (void)i;
    b->be->ops->score_window(b->be, &p->rows, p->q, 32, 64, p->tokens, NULL, 5, INFINITY, p->score);
}

static void tova_once(struct bench *b, void *ctx, int i)
{
    struct pressing *p = ctx;

    (void)i;
    b->be->ops->score_window(b->be, &p->rows, p->q, 32, 1, p->tokens, NULL, 1, INFINITY, p->score);
}

static void stats_once(struct bench *b, void *ctx, int i)
{
    struct pressing *p = ctx;

    (void)i;
    b->be->ops->query_stats(b->be, p->q, 32, p->rows.dim, p->tokens, p->mean, p->cov);
}

static void expected_once(struct bench *b, void *ctx, int i)
{
    struct pressing *p = ctx;

    (void)i;
    b->be->ops->score_expected(b->be, &p->rows, 4, p->mean, p->cov, 32, p->score);
}

static void select_once(struct bench *b, void *ctx, int i)
{
    struct pressing *p = ctx;

    (void)i;
    b->be->ops->select(b->be, &p->rows, &p->select, p->index, p->first);
}

static void pack_once(struct bench *b, void *ctx, int i)
{
    struct pressing *p = ctx;

    (void)i;
    b->be->ops->pack(b->be, &p->pack, &p->block);
}

/* Statistics of 32 heads' queries, and the scores that follow from them. */
static void bench_expected(struct bench *b, struct pressing *p)
{
    const int64_t dim = p->rows.dim;
    void *window = p->q;
    char name[64];
    double us;

    p->q = random_room(b, p->tokens * 32 * dim, 44);
    p->mean = room(b, (uint64_t)(32 * dim) * 4);
    p->cov = room(b, (uint64_t)(32 * dim * dim) * 4);
    us = time_calls(b, LANE_PRESS, 20, stats_once, p);
    snprintf(name, sizeof name, "query statistics %lld", (long long)p->tokens);
    line(b, name, us, 2.0 * 32 * (double)(p->tokens * dim * dim) / us / 1e6, "TFLOP/s", 0, NULL);
    us = time_calls(b, LANE_PRESS, 20, expected_once, p);
    snprintf(name, sizeof name, "expected scores %lld", (long long)p->tokens);
    line(b, name, us, 2.0 * 32 * (double)(p->tokens * dim * dim) / us / 1e6, "TFLOP/s", 0, NULL);
    b->be->ops->free(b->be, p->q);
    b->be->ops->free(b->be, p->mean);
    b->be->ops->free(b->be, p->cov);
    p->q = window;
}

static void bench_presses(struct bench *b, int64_t tokens)
{
    enum { HEADS = 8, DIM = 128 };
    struct pressing p = { .rows = { .dtype = DT_BF16, .heads = HEADS, .dim = DIM }, .tokens = tokens };
    const uint64_t kept = (uint64_t)(HEADS * tokens / 2) * DIM * 2;
    void *k = random_room(b, HEADS * tokens * DIM, 41), *v = random_room(b, HEADS * tokens * DIM, 42);
    char name[64];
    double us;

    p.rows.k = k;
    p.rows.v = v;
    p.q = random_room(b, 64 * 32 * DIM, 43);
    p.score = room(b, (uint64_t)(HEADS * tokens) * 4);
    p.index = room(b, (uint64_t)(HEADS * tokens) * 4);
    p.select = (struct select_args){ .score = p.score, .total = -1, .protected_score = INFINITY };
    for (int g = 0; g < HEADS; g++) {
        p.rows.first[g] = p.rows.at[g] = g * tokens;
        p.rows.rows[g] = tokens;
        p.select.keep[g] = tokens / 2;
        p.select.safe[g] = tokens / 10;
    }
    p.rows.at[HEADS] = HEADS * tokens;
    us = time_calls(b, LANE_PRESS, 50, norm_once, &p);
    snprintf(name, sizeof name, "key norm %lld", (long long)tokens);
    line(b, name, us, (double)(HEADS * tokens * DIM * 2) / us / 1e3, "GB/s",
         (double)(HEADS * tokens * DIM * 2) / us / 1e3 / b->copy_gb_s, "copy");
    us = time_calls(b, LANE_PRESS, 50, tova_once, &p);
    snprintf(name, sizeof name, "window 1 %lld", (long long)tokens);
    line(b, name, us, (double)(HEADS * tokens * DIM * 2) / us / 1e3, "GB/s", 0, NULL);
    us = time_calls(b, LANE_PRESS, 50, window_once, &p);
    snprintf(name, sizeof name, "window 64 %lld", (long long)tokens);
    line(b, name, us, 2.0 * 2 * 64 * 32 * DIM * (double)tokens / us / 1e6, "TFLOP/s", 0, NULL);
    if (tokens <= 32768)
        bench_expected(b, &p);
    us = time_calls(b, LANE_PRESS, 50, select_once, &p);
    snprintf(name, sizeof name, "select per head 8 x %lld", (long long)tokens);
    line(b, name, us, (double)(HEADS * tokens) / us / 1e3, "Grow/s", 0, NULL);
    p.select.total = HEADS * tokens / 2;
    us = time_calls(b, LANE_PRESS, 20, select_once, &p);
    snprintf(name, sizeof name, "select jointly 8 x %lld", (long long)tokens);
    line(b, name, us, (double)(HEADS * tokens) / us / 1e3, "Grow/s", 0, NULL);
    p.pack = (struct pack_args){ .rows = &p.rows, .index = p.index };
    p.block = (struct kv_block){ .heads = HEADS, .dim = DIM, .k_dim = DIM, .dtype = DT_BF16 };
    memcpy(p.pack.first, p.first, sizeof p.first);
    memcpy(p.block.first, p.first, sizeof p.first);
    p.block.v_offset = kept;
    p.block.extra_offset = p.block.bytes = 2 * kept;
    p.block.data = room(b, 2 * kept);
    us = time_calls(b, LANE_PRESS, 50, pack_once, &p);
    snprintf(name, sizeof name, "pack half of 8 x %lld", (long long)tokens);
    line(b, name, us, 4.0 * (double)kept / us / 1e3, "GB/s", 4.0 * (double)kept / us / 1e3 / b->copy_gb_s, "copy");
    b->be->ops->free(b->be, p.block.data);
    b->be->ops->free(b->be, k);
    b->be->ops->free(b->be, v);
    b->be->ops->free(b->be, p.q);
    b->be->ops->free(b->be, p.score);
    b->be->ops->free(b->be, p.index);
}

struct stage {
    void *host, *device;
    uint64_t bytes;
};

static void down_once(struct bench *b, void *ctx, int i)
{
    struct stage *s = ctx;

    (void)i;
    b->be->ops->download(b->be, LANE_COPY, s->host, s->device, s->bytes);
}

static void bench_stage(struct bench *b)
{
    struct stage s = { .bytes = 256 << 20 };
    struct err err = { 0 };
    double us;

    s.device = room(b, s.bytes);
    must(b->be->ops->host_alloc(b->be, s.bytes, &s.host, &err), &err);
    us = time_calls(b, LANE_COPY, 4, down_once, &s);
    line(b, "device to pinned host", us, (double)s.bytes / us / 1e3, "GB/s", 0, NULL);
    b->be->ops->host_free(b->be, s.host);
    b->be->ops->free(b->be, s.device);
}

static void bench_all(struct bench *b)
{
    static const int64_t tokens[] = { 4096, 32768, 131072, 262144 };

    bench_roofs(b, "before");
    if (wanted(b, "decode")) {
        bench_decode(b, 64, 4096, 32, 8, 128, EQUAL);
        bench_decode(b, 64, 4096, 32, 8, 128, RAGGED);
        bench_decode(b, 8, 32768, 32, 8, 128, EQUAL);
        bench_decode(b, 8, 32768, 32, 8, 128, RAGGED);
        bench_decode(b, 1, 8192, 32, 8, 128, EQUAL);
        bench_decode(b, 1, 8192, 32, 8, 128, RAGGED);
        bench_decode(b, 1, 32768, 32, 8, 128, EQUAL);
        bench_decode(b, 1, 131072, 32, 8, 128, EQUAL);
        bench_decode(b, 64, 4096, 9, 3, 64, EQUAL);
    }
    if (wanted(b, "products"))
        bench_products(b, 8192);
    else if (wanted(b, "few")) /* of them, those that a step of a few sequences has */
        bench_products(b, 16);
    if (wanted(b, "presses"))
        for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++)
            bench_presses(b, tokens[i]);
    if (wanted(b, "attention")) {
        bench_attention(b, 32, 8, 128, 2048, 1, false);
        bench_attention(b, 32, 8, 128, 4096, 1, false);
        bench_attention(b, 32, 8, 128, 8192, 1, false);
        bench_attention(b, 32, 8, 128, 32768, 1, false);
        bench_attention(b, 32, 8, 128, 1024, 8, false);
        bench_attention(b, 9, 3, 64, 8192, 1, false);
        bench_attention(b, 32, 8, 128, 8192, 1, true);
    }
    if (wanted(b, "rows")) {
        bench_rows(b, 8192);
        bench_rows(b, 32);
    }
    if (wanted(b, "stage"))
        bench_stage(b);
    bench_roofs(b, "after");
}

int main(int argc, char **argv)
{
    struct backend_config config = { .dtype = DT_BF16, .memory_fraction = 0.9, .rows_max = 32768 };
    const char *spec = "cuda:0", *json = NULL;
    char kernels[1024];
    struct bench b = { 0 };
    struct err err = { 0 };

    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--backend") == 0)
            spec = argv[i + 1];
        else if (strcmp(argv[i], "--only") == 0)
            b.only = argv[i + 1];
        else if (strcmp(argv[i], "--json") == 0)
            json = argv[i + 1];
        else if (strcmp(argv[i], "--cache") == 0)
            config.cache_dir = argv[i + 1];
    }
    must(backend_open(&b.be, spec, &config, &err), &err);
    b.json = json ? fopen(json, "w") : NULL;
    bench_all(&b);
    backend_describe(b.be, kernels, sizeof kernels);
    printf("%s\n", kernels);
    if (b.json)
        fclose(b.json);
    backend_close(b.be);
    return 0;
}
