/* SPDX-License-Identifier: Apache-2.0 */
/* check_rows.c - memory, embed, rms_norm, add_normed, gated, gather_rows, mix_rows, argmax, rotate_rows: rows by themselves. */
#include "tests/ops/ops.h"
#include "tests/ops/reference.h"

#include "common/base/bytes.h"
#include "common/base/clock.h"

#include <math.h>
#include <string.h>

static const struct {
    int64_t rows;
    int32_t dim;
} shapes[] = { { 1, 576 }, { 3, 64 },   { 37, 96 },  { 130, 576 }, { 5, 130 }, { 2, 30 },
               { 9, 516 }, { 3, 1536 }, { 2, 4096 }, { 1, 5120 },  { 2, 8200 } };

enum { SHAPES = sizeof shapes / sizeof shapes[0] };

void check_memory(struct ops *o)
{
    const struct backend_ops *ops = o->be->ops;
    struct device_bytes before, during, after;
    uint8_t pattern[1000], *back;
    struct err err = { 0 };
    struct fence *fence;
    void *device, *host;

    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = (uint8_t)ops_next(o);
    ops->device_bytes(o->be, &before);
    ops_true(o, "alloc gives tails", ops->alloc(o->be, 100000, "tails", &device, &err) == ST_OK);
    ops->device_bytes(o->be, &during);
    ops_true(o, "tails are counted", during.tails - before.tails >= 100000 && during.blocks == before.blocks);
    ops_true(o, "device memory is 256-byte aligned", ((uintptr_t)device & 255) == 0);
    ops->free(o->be, device);
    ops->device_bytes(o->be, &after);
    ops_true(o, "tails are given back", after.tails == before.tails);
    ops_true(o, "what is too much is refused",
             ops->alloc(o->be, UINT64_C(1) << 60, "blocks", &device, &err) == ST_EEXHAUSTED &&
                 strstr(err.text, "blocks"));

    ops_true(o, "host memory", ops->host_alloc(o->be, 1000, &host, &err) == ST_OK);
    memcpy(host, pattern, sizeof pattern);
    device = ops_poisoned(o, sizeof pattern);
    ops_true(o, "fence", ops->fence_open(o->be, &fence, &err) == ST_OK);
    ops->upload(o->be, LANE_COPY, device, host, sizeof pattern);
    ops->fence_record(o->be, fence, LANE_COPY);
    ops->fence_after(o->be, LANE_PRESS, fence);
    back = ops_down_bytes(o, LANE_PRESS, device, sizeof pattern);
    ops_equal_bytes(o, "what went up comes down on another lane after the fence", back, pattern, sizeof pattern);
    ops_true(o, "the fence has passed", ops->fence_wait(o->be, fence, clock_in_ms(5000)) == ST_OK);
    ops->fence_close(o->be, fence);
    ops->host_free(o->be, host);
}

void check_embed(struct ops *o)
{
    const enum weight_use uses[] = { WEIGHT_TABLE, WEIGHT_BOTH };
    enum { VOCAB = 301, DIM = 130, ROWS = 70 };

    for (int u = 0; u < 2; u++) {
        float *table;
        struct weight *w = ops_weight(o, VOCAB, DIM, uses[u], 1.0f, &table);
        int32_t ids[ROWS];
        double want[ROWS * DIM], tolerance[ROWS * DIM];
        void *x = ops_poisoned_x(o, ROWS * DIM), *device;

        for (int r = 0; r < ROWS; r++)
            ids[r] = r == 0 ? VOCAB - 1 : (int32_t)ops_below(o, VOCAB);
        for (int i = 0; i < ROWS * DIM; i++) {
            want[i] = (double)table[ids[i / DIM] * DIM + i % DIM] * 3.0;
            tolerance[i] = fabs(want[i]) * ldexp(1, -23);
        }
        device = ops_up_bytes(o, ids, sizeof ids);
        o->be->ops->embed(o->be, w, device, ROWS, 3.0f, x);
        ops_near(o, u ? "a tied table" : "a table", ops_down_x(o, LANE_COMPUTE, x, ROWS * DIM), want, tolerance,
                 ROWS * DIM);
        o->be->ops->weight_close(o->be, w);
    }
}

/* norms [rows][dim] of x, in double precision. */
static double *norms_of(struct ops *o, const float *x, const float *w, int64_t rows, int32_t dim)
{
    double *in = ops_doubles(o, dim), *out = ops_doubles(o, rows * dim);

    for (int64_t r = 0; r < rows; r++) {
        for (int32_t i = 0; i < dim; i++)
            in[i] = (double)x[r * dim + i];
        ref_rms_norm(in, w, 1e-5, dim, out + r * dim);
    }
    return out;
}

void check_rms_norm(struct ops *o)
{
    for (int s = 0; s < SHAPES; s++) {
        int64_t rows = shapes[s].rows, count = rows * shapes[s].dim;
        int32_t dim = shapes[s].dim;
        float *values, *x = ops_random_x(o, count, 3.0f);
        struct weight *w = ops_weight(o, 1, dim, WEIGHT_VECTOR, 1.0f, &values);
        double *want = norms_of(o, x, values, rows, dim), *tolerance = ops_doubles(o, count);
        void *out = ops_poisoned_act(o, count);

        for (int64_t i = 0; i < count; i++)
            tolerance[i] = fabs(want[i]) * (ops_eps_act(o) * 1.01 + 1e-6) + 1e-30;
        o->be->ops->rms_norm(o->be, ops_up_x(o, x, count), w, 1e-5f, rows, dim, out);
        ops_near(o, "norm", ops_down(o, LANE_COMPUTE, out, count), want, tolerance, count);
        o->be->ops->weight_close(o->be, w);
    }
}

void check_add_normed(struct ops *o)
{
    for (int s = 0; s < SHAPES; s++) {
        int64_t rows = shapes[s].rows, count = rows * shapes[s].dim;
        int32_t dim = shapes[s].dim;
        float *values, *x = ops_random_x(o, count, 20.0f), *y = ops_random(o, count, 3.0f);
        struct weight *w = ops_weight(o, 1, dim, WEIGHT_VECTOR, 1.0f, &values);
        double *want = norms_of(o, y, values, rows, dim), *tolerance = ops_doubles(o, count);
        void *to = ops_poisoned_x(o, count);

        for (int64_t i = 0; i < count; i++) {
            tolerance[i] = fabs(want[i]) * 2e-6 + fabs((double)x[i]) * 1e-6 + 1e-30; /* a norm as rms_norm, and a sum */
            want[i] += (double)x[i];
        }
        o->be->ops->copy(o->be, LANE_COMPUTE, to, ops_up_x(o, x, count), (uint64_t)count * sizeof *x);
        o->be->ops->add_normed(o->be, ops_up(o, y, count), w, 1e-5f, rows, dim, to);
        ops_near(o, "sum", ops_down_x(o, LANE_COMPUTE, to, count), want, tolerance, count);
        o->be->ops->weight_close(o->be, w);
    }
}

void check_gated(struct ops *o)
{
    for (int s = 0; s < SHAPES; s++)
        for (int kind = ACT_SILU; kind <= ACT_GELU_TANH; kind++) {
            int64_t rows = shapes[s].rows, count = rows * shapes[s].dim;
            int32_t ff = shapes[s].dim;
            float *in = ops_random(o, 2 * count, 4.0f);
            double *want = ops_doubles(o, count), *tolerance = ops_doubles(o, count);
            void *out = ops_poisoned_act(o, count);

            in[0] = 200.0f; /* where e^x leaves f32 */
            in[1] = -200.0f;
            for (int64_t i = 0; i < count; i++) {
                const float *row = in + i / ff * 2 * ff;
                double gate = (double)row[i % ff], up = (double)row[ff + i % ff];

                want[i] = ref_activation((enum activation)kind, gate) * up;
                tolerance[i] = fabs(want[i]) * (ops_eps_act(o) + 2e-6) + 1e-9 * fabs(gate * up) + 1e-30;
            }
            o->be->ops->gated(o->be, (enum activation)kind, ops_up(o, in, 2 * count), rows, ff, out);
            ops_near(o, kind == ACT_SILU ? "silu" : "gelu", ops_down(o, LANE_COMPUTE, out, count), want, tolerance,
                     count);
        }
}

void check_gather_rows(struct ops *o)
{
    enum { ROWS = 50, DIM = 130, COUNT = 77 };
    float *x = ops_random(o, ROWS * DIM, 1.0f), *got;
    int32_t index[COUNT];
    void *out = ops_poisoned_act(o, COUNT * DIM), *device = ops_up(o, x, ROWS * DIM);

    for (int i = 0; i < COUNT; i++)
        index[i] = (int32_t)ops_below(o, ROWS);
    o->be->ops->gather_rows(o->be, device, ops_up_bytes(o, index, sizeof index), COUNT, DIM, out);
    got = ops_down(o, LANE_COMPUTE, out, COUNT * DIM);
    for (int i = 0; i < COUNT; i++)
        ops_equal_bytes(o, "a gathered row", got + i * DIM, x + index[i] * DIM, DIM * sizeof *x);
}

void check_mix_rows(struct ops *o)
{
    static const struct {
        int32_t slices, cols;
        int64_t rows;
    } cases[] = { { 1, 64, 1 }, { 3, 130, 77 }, { 8, 576, 200 }, { 5, 5, 40 }, { 4, 7, 3 } };
    enum { ROWS = 60 };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const int32_t slices = cases[i].slices, cols = cases[i].cols;
        const int64_t rows = cases[i].rows, count = rows * cols;
        float *x = ops_random(o, ROWS * cols, 1.0f);
        double *want = ops_doubles(o, count), *tolerance = ops_doubles(o, count);
        int32_t *index = arena_array(&o->arena, (size_t)(slices * rows), sizeof *index);
        void *out = ops_poisoned_act(o, count);

        for (int64_t n = 0; n < slices * rows; n++)
            index[n] = (int32_t)ops_below(o, ROWS);
        for (int64_t n = 0; n < count; n++) {
            const int64_t c = n % cols, slice = c / (cols / slices);

            want[n] = x[index[(slice < slices ? slice : slices - 1) * rows + n / cols] * cols + c];
        }
        o->be->ops->mix_rows(o->be, ops_up(o, x, ROWS * cols),
                             ops_up_bytes(o, index, (uint64_t)(slices * rows) * sizeof *index), slices, rows, cols,
                             out);
        ops_near(o, "mixed rows", ops_down(o, LANE_PRESS, out, count), want, tolerance, count);
    }
}

void check_argmax(struct ops *o)
{
    const int32_t vocabs[] = { 1, 5, 16, 1000, 49152, 50001 };
    enum { ROWS = 4 };

    for (int s = 0; s < 6; s++) {
        int32_t vocab = vocabs[s], want[ROWS], *got;
        float *x = ops_random(o, (int64_t)ROWS * vocab, 1.0f);
        void *ids = ops_poisoned(o, sizeof want);

        for (int r = 0; r < ROWS; r++) {
            float *row = x + (int64_t)r * vocab;
            int32_t top = (int32_t)ops_below(o, vocab), tie = (int32_t)ops_below(o, vocab);

            row[top] = row[tie] = 40.0f;
            want[r] = top < tie ? top : tie;
        }
        o->be->ops->argmax(o->be, ops_up(o, x, (int64_t)ROWS * vocab), ROWS, vocab, ids);
        got = ops_down_bytes(o, LANE_COMPUTE, ids, sizeof want);
        ops_equal_bytes(o, "the first of the largest", got, want, sizeof want);
    }
}

void check_rotate_rows(struct ops *o)
{
    enum { ROWS = 21, HEADS = 3, DIM = 64, PAIRS = 24, COUNT = ROWS * HEADS * DIM };
    float *x = ops_random(o, COUNT, 1.0f), freq[PAIRS];
    double want[COUNT], tolerance[COUNT];
    void *out = ops_poisoned_act(o, COUNT), *in = ops_up(o, x, COUNT);
    struct rope_table rope = { .dims = 2 * PAIRS, .scale = 1.25f };

    for (int i = 0; i < PAIRS; i++)
        freq[i] = powf(10000.0f, -(float)i / PAIRS);
    rope.inv_freq = ops_up_bytes(o, freq, sizeof freq);
    for (int i = 0; i < COUNT; i++)
        want[i] = (double)x[i];
    for (int r = 0; r < ROWS * HEADS; r++)
        ref_rotate(want + r * DIM, freq, PAIRS, 100000 - r / HEADS * 7, 1.25);
    for (int i = 0; i < COUNT; i++)
        tolerance[i] = 6 * (ops_eps_act(o) + ldexp(1, -23)) * 5;
    o->be->ops->rotate_rows(o->be, in, HEADS, DIM, &rope, 100000, -7, ROWS, out);
    ops_near(o, "rotated rows", ops_down(o, LANE_PRESS, out, COUNT), want, tolerance, COUNT);
}
