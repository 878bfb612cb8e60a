/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ops.c - the program that judges a back end: every operation against a naive reference in double precision.
 *
 *   ops --backend cpu|cpu:avx2|cuda:0 --dtype f32|bf16 [--seed N] [--small 1|2] [--cache DIR] [check ...]
 *
 * Exit code 0: all hold; 1: some do not; 77: there is no such back end here; 2: usage.
 */
#include "tests/ops/ops.h"

#include "common/base/bytes.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD_BYTES = 256, POISON = 0xff };

struct source {
    const float *values;
    int64_t cols;
};

uint64_t ops_next(struct ops *o)
{
    uint64_t z = o->state += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

int64_t ops_below(struct ops *o, int64_t n)
{
    return (int64_t)(ops_next(o) % (uint64_t)n);
}

float *ops_random_x(struct ops *o, int64_t count, float scale)
{
    float *x = arena_array(&o->arena, (size_t)count, sizeof *x);

    for (int64_t i = 0; i < count; i++) {
        float sum = 0;

        for (int k = 0; k < 4; k++) /* the sum of four is near enough to normal */
            sum += (float)(ops_next(o) >> 40) / 8388608.0f - 1.0f;
        x[i] = sum * 0.866f * scale;
    }
    return x;
}

float *ops_random(struct ops *o, int64_t count, float scale)
{
    float *x = ops_random_x(o, count, scale);

    for (int64_t i = 0; i < count && o->dtype == DT_BF16; i++)
        x[i] = bf16_to_f32(f32_to_bf16(x[i]));
    return x;
}

double *ops_doubles(struct ops *o, int64_t count)
{
    return arena_array(&o->arena, (size_t)count, sizeof(double));
}

static void *device_memory(struct ops *o, uint64_t bytes)
{
    struct err err = { 0 };
    void *device;

    if (o->devices == OPS_DEVICE_MAX || o->be->ops->alloc(o->be, bytes, "activations", &device, &err) != ST_OK) {
        fprintf(stderr, "%s: %s\n", o->check, err.text);
        exit(1);
    }
    o->device[o->devices++] = device;
    return device;
}

static void free_device(struct ops *o)
{
    while (o->devices > 0)
        o->be->ops->free(o->be, o->device[--o->devices]);
}

void *ops_up_bytes(struct ops *o, const void *x, uint64_t bytes)
{
    void *device = device_memory(o, bytes ? bytes : 1);

    o->be->ops->upload(o->be, LANE_COMPUTE, device, x, bytes);
    o->be->ops->wait(o->be, LANE_COMPUTE);
    return device;
}

static void *up_as(struct ops *o, const float *x, int64_t count, enum dtype dtype)
{
    uint64_t bytes = dtype_bytes(dtype, (uint64_t)count);
    void *host = arena_alloc(&o->arena, bytes ? bytes : 1);

    dtype_from_f32(host, dtype, x, (uint64_t)count);
    return ops_up_bytes(o, host, bytes);
}

void *ops_up(struct ops *o, const float *x, int64_t count)
{
    return up_as(o, x, count, o->be->act);
}

void *ops_up_kv(struct ops *o, const float *x, int64_t count)
{
    return up_as(o, x, count, o->be->kv);
}

void *ops_up_x(struct ops *o, const float *x, int64_t count)
{
    return up_as(o, x, count, DT_F32);
}

void *ops_poisoned(struct ops *o, uint64_t bytes)
{
    void *host = arena_alloc(&o->arena, bytes + GUARD_BYTES);

    memset(host, POISON, bytes + GUARD_BYTES);
    return ops_up_bytes(o, host, bytes + GUARD_BYTES);
}

void *ops_poisoned_act(struct ops *o, int64_t count)
{
    return ops_poisoned(o, dtype_bytes(o->be->act, (uint64_t)count));
}

void *ops_poisoned_x(struct ops *o, int64_t count)
{
    return ops_poisoned(o, (uint64_t)count * sizeof(float));
}

void *ops_down_bytes(struct ops *o, enum lane lane, const void *device, uint64_t bytes)
{
    uint8_t *host = arena_alloc(&o->arena, bytes + GUARD_BYTES);

    o->be->ops->download(o->be, lane, host, device, bytes + GUARD_BYTES);
    o->be->ops->wait(o->be, lane);
    for (int i = 0; i < GUARD_BYTES; i++)
        if (host[bytes + (uint64_t)i] != POISON) {
            ops_true(o, "nothing is written behind the output", false);
            break;
        }
    return host;
}

static float *down_as(struct ops *o, enum lane lane, const void *device, int64_t count, enum dtype dtype)
{
    const void *host = ops_down_bytes(o, lane, device, dtype_bytes(dtype, (uint64_t)count));
    float *x = arena_array(&o->arena, (size_t)count + 1, sizeof *x);

    dtype_to_f32(x, host, dtype, (uint64_t)count);
    return x;
}

float *ops_down(struct ops *o, enum lane lane, const void *device, int64_t count)
{
    return down_as(o, lane, device, count, o->be->act);
}

float *ops_down_kv(struct ops *o, enum lane lane, const void *device, int64_t count)
{
    return down_as(o, lane, device, count, o->be->kv);
}

float *ops_down_x(struct ops *o, enum lane lane, const void *device, int64_t count)
{
    return down_as(o, lane, device, count, DT_F32);
}

static enum status read_values(void *ctx, int64_t row, int64_t rows, float *out, struct err *err)
{
    const struct source *s = ctx;

    (void)err;
    memcpy(out, s->values + row * s->cols, (size_t)(rows * s->cols) * sizeof *out);
    return ST_OK;
}

struct weight *ops_weight_of(struct ops *o, float *values, int64_t rows, int64_t cols, enum weight_use use)
{
    struct source s = { values, cols };
    struct weight_source src = { .rows = rows, .cols = cols, .read = read_values, .ctx = &s };
    struct err err = { 0 };
    struct weight *w;

    if (o->be->ops->weight_open(o->be, &src, use, &w, &err) != ST_OK) {
        fprintf(stderr, "%s: %s\n", o->check, err.text);
        exit(1);
    }
    return w;
}

struct weight *ops_weight(struct ops *o, int64_t rows, int64_t cols, enum weight_use use, float scale,
                          float **out_values)
{
    *out_values = ops_random(o, rows * cols, scale);
    return ops_weight_of(o, *out_values, rows, cols, use);
}

static double eps_of(enum dtype t)
{
    return t == DT_BF16 ? ldexp(1.0, -8) : ldexp(1.0, -24);
}

double ops_eps_act(const struct ops *o)
{
    return eps_of(o->be->act);
}

double ops_eps_kv(const struct ops *o)
{
    return eps_of(o->be->kv);
}

void ops_near(struct ops *o, const char *what, const float *got, const double *want, const double *tolerance,
              int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        double off = fabs((double)got[i] - want[i]);

        if (off <= tolerance[i])
            continue;
        fprintf(stderr, "%s: %s: number %lld of %lld: expected %.9g, got %.9g, off by %.3g where %.3g is allowed\n",
                o->check, what, (long long)i, (long long)count, want[i], (double)got[i], off, tolerance[i]);
        o->broken++;
        return;
    }
}

void ops_equal_bytes(struct ops *o, const char *what, const void *got, const void *want, uint64_t bytes)
{
    const uint8_t *a = got, *b = want;

    for (uint64_t i = 0; i < bytes; i++)
        if (a[i] != b[i]) {
            fprintf(stderr, "%s: %s: byte %llu of %llu: expected %02x, got %02x\n", o->check, what,
                    (unsigned long long)i, (unsigned long long)bytes, b[i], a[i]);
            o->broken++;
            return;
        }
}

void ops_true(struct ops *o, const char *what, bool holds)
{
    if (holds)
        return;
    fprintf(stderr, "%s: does not hold: %s\n", o->check, what);
    o->broken++;
}

static const struct {
    const char *name;
    void (*run)(struct ops *o);
} checks[] = {
#define CHECK(name) { #name, check_##name },
#include "tests/ops/checks.def"
#undef CHECK
};

static int run_check(struct ops *o, size_t i)
{
    struct err err = { 0 };

    o->check = checks[i].name;
    o->state = o->seed;
    o->broken = 0;
    checks[i].run(o);
    if (o->be->ops->health(o->be, &err) != ST_OK)
        ops_true(o, err.text, false);
    free_device(o);
    arena_fini(&o->arena);
    printf("%-14s %s %s %s\n", o->check, o->spec, dtype_word(o->dtype), o->broken ? "BROKEN" : "ok");
    if (o->broken)
        fprintf(stderr, "%s: seed %llu\n", o->check, (unsigned long long)o->seed);
    return o->broken;
}

static int run_named(struct ops *o, const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(checks); i++)
        if (strcmp(checks[i].name, name) == 0)
            return run_check(o, i);
    fprintf(stderr, "ops: no check is called %s\n", name);
    exit(2);
}

int main(int argc, char **argv)
{
    struct ops o = { .spec = "cpu", .dtype = DT_F32, .seed = 1 };
    struct backend_config config = { .threads = 3, .memory_fraction = 0.5, .rows_max = OPS_ROWS_MAX };
    struct err err = { 0 };
    enum status st;
    int arg = 1, broken = 0;

    for (; arg + 1 < argc && strncmp(argv[arg], "--", 2) == 0; arg += 2) {
        if (strcmp(argv[arg], "--backend") == 0)
            o.spec = argv[arg + 1];
        else if (strcmp(argv[arg], "--dtype") == 0)
            o.dtype = (enum dtype)dtype_parse(argv[arg + 1]);
        else if (strcmp(argv[arg], "--seed") == 0)
            o.seed = strtoull(argv[arg + 1], NULL, 10);
        else if (strcmp(argv[arg], "--small") == 0)
            o.small = (int)strtol(argv[arg + 1], NULL, 10);
        else if (strcmp(argv[arg], "--cache") == 0)
            config.cache_dir = argv[arg + 1];
        else
            return 2;
    }
    config.dtype = o.dtype;
    st = backend_open(&o.be, o.spec, &config, &err);
    if (st != ST_OK) {
        fprintf(stderr, "ops: %s\n", err.text);
        return st == ST_EUNAVAILABLE || (st == ST_EINVAL && !backend_find("cuda")) ? 77 : 1;
    }
    if (arg == argc)
        for (size_t i = 0; i < ARRAY_LEN(checks); i++)
            broken += run_check(&o, i);
    for (; arg < argc; arg++)
        broken += run_named(&o, argv[arg]);
    backend_close(o.be);
    return broken ? 1 : 0;
}
