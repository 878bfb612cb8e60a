/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels.c - the speed of the CPU back end's operations as a share of what the machine can do in the same minute.
 *
 *   bench_kernels [--backend cpu] [--dtype bf16] [--threads N] [--rounds 9] [--clock wall|cpu]
 *                 [--only matmul,prefill,decode]
 *
 * Before and after each line the probe it is held against runs again (register products, or reading memory); a line whose
 * two probes differ by more than 15 % is marked `noisy`. Shapes are those of SmolLM2-135M. Every number is a median. On a
 * machine that others use too, `--threads 1 --clock cpu` counts only the time that the program itself ran.
 */
#include "tests/bench/probe.h"

#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/base/order.h"
#include "common/base/thread.h"
#include "kernels/backend.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROUNDS_MAX = 99, ROWS_MAX = 2048, WEIGHTS_BYTES = 128 << 20, READ_BYTES = 256 << 20 };

struct bench {
    clockid_t clock;
    struct backend *be;
    struct pool *pool;
    int threads, rounds;
    probe_fn probe;
    char *memory; /* READ_BYTES */
    uint64_t state;
};

static const struct {
    const char *isa;
    probe_fn f32, bf16;
} probes[] = {
#if defined(__x86_64__)
    { "amx_bf16", probe_f32_amx_bf16, probe_bf16_amx_bf16 },
    { "avx512_bf16", probe_f32_avx512_bf16, probe_bf16_avx512_bf16 },
    { "avx512", probe_f32_avx512, probe_bf16_avx512 },
    { "avx2", probe_f32_avx2, probe_bf16_avx2 },
#endif
    { "plain", probe_f32_plain, probe_bf16_plain },
};

static double median(double *x, int count)
{
    qsort(x, (size_t)count, sizeof *x, order_f64);
    return x[count / 2];
}

struct probe_job {
    probe_fn probe;
    double done[64];
};

static void probe_body(void *arg, int64_t i, int worker)
{
    struct probe_job *j = arg;

    (void)worker;
    j->done[i] = j->probe(20);
}

static int64_t now_ns(const struct bench *b)
{
    struct timespec t;

    clock_gettime(b->clock, &t);
    return t.tv_sec * NS_PER_S + t.tv_nsec;
}

/* GFLOP/s of all threads together. */
static double peak(struct bench *b)
{
    struct probe_job job = { .probe = b->probe };
    double got[5], sum;

    for (int r = 0; r < 5; r++) {
        int64_t begin = now_ns(b);

        pool_run(b->pool, b->threads, probe_body, &job);
        sum = 0;
        for (int t = 0; t < b->threads; t++)
            sum += job.done[t];
        got[r] = sum / (double)(now_ns(b) - begin);
    }
    return median(got, 5);
}

struct read_job {
    const char *memory;
    int64_t bytes;
    volatile uint64_t sum[64];
};

static void read_body(void *arg, int64_t i, int worker)
{
    struct read_job *j = arg;
    const char *at = j->memory + i * j->bytes;
    uint64_t sum[16] = { 0 };

    (void)worker;
    for (int64_t k = 0; k < j->bytes; k += 128) {
        uint64_t line[16];

        __builtin_prefetch(at + k + 2048, 0, 2);
        __builtin_prefetch(at + k + 2112, 0, 2);
        memcpy(line, at + k, sizeof line);
        for (int n = 0; n < 16; n++)
            sum[n] += line[n];
    }
    for (int n = 0; n < 16; n++)
        j->sum[i] += sum[n];
}

/* GB/s of all threads together. */
static double reading(struct bench *b)
{
    struct read_job job = { .memory = b->memory, .bytes = READ_BYTES / b->threads / 128 * 128 };
    double got[3];

    for (int r = 0; r < 3; r++) {
        int64_t begin = now_ns(b);

        pool_run(b->pool, b->threads, read_body, &job);
        got[r] = (double)(job.bytes * b->threads) / (double)(now_ns(b) - begin);
    }
    return median(got, 3);
}

static void *device(struct bench *b, int64_t floats)
{
    struct err err = { 0 };
    void *p;

    if (b->be->ops->alloc(b->be, (uint64_t)floats * 4, "activations", &p, &err) != ST_OK) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    for (int64_t i = 0; i < floats; i++) {
        b->state = b->state * 6364136223846793005u + 1442695040888963407u;
        ((float *)p)[i] = (float)(b->state >> 40) / 8388608.0f - 1.0f;
    }
    return p;
}

static void line(const char *name, double value, const char *unit, double before, double after, const char *of)
{
    double limit = before > after ? before : after;

    printf("%-28s %9.1f %-8s %5.1f %% of %s %.0f%s\n", name, value, unit, 100 * value / limit, of, limit,
           fabs(before - after) > 0.15 * limit ? "  noisy" : "");
}

/* Products with as many copies of the weight as fill WEIGHTS_BYTES, so that it comes from memory as in a real model. */
static void bench_matmul(struct bench *b, int64_t rows, int64_t n, int64_t k)
{
    const int64_t bytes = n * k * (b->be->kv == DT_BF16 ? 2 : 4);
    int64_t copies = WEIGHTS_BYTES / bytes, at_once = rows < 64 ? copies : 1 + 200000000 / (rows * n * k);
    struct weight **w = mem_zero((size_t)copies, sizeof *w);
    void *in = device(b, rows * k), *out = device(b, rows * n);
    double took[ROUNDS_MAX], before, after, read_before, read_after, ns;
    struct err err = { 0 };
    char name[64];

    for (int64_t i = 0; i < copies; i++) {
        struct weight_source src = { .rows = n, .cols = k, .random_seed = (uint64_t)i + 1, .random_scale = 0.05f };

        if (i > 0 && i >= at_once)
            w[i] = NULL;
        else if (b->be->ops->weight_open(b->be, &src, WEIGHT_MATRIX, &w[i], &err) != ST_OK)
            exit(1);
    }
    copies = at_once < copies ? at_once : copies;
    before = peak(b);
    read_before = reading(b);
    for (int r = 0; r < b->rounds; r++) {
        int64_t begin = now_ns(b);

        for (int64_t i = 0; i < copies; i++)
            b->be->ops->matmul(b->be, w[i], NULL, in, rows, out, false);
        took[r] = (double)(now_ns(b) - begin) / (double)copies;
    }
    after = peak(b);
    read_after = reading(b);
    ns = median(took, b->rounds);
    snprintf(name, sizeof name, "matmul %lldx%lldx%lld", (long long)rows, (long long)n, (long long)k);
    line(name, 2.0 * (double)(rows * n * k) / ns, "GFLOP/s", before, after, "peak");
    if (rows < 64)
        line("", (double)bytes / ns, "GB/s", read_before, read_after, "reading");
    for (int64_t i = 0; i < copies; i++)
        b->be->ops->weight_close(b->be, w[i]);
    b->be->ops->free(b->be, in);
    b->be->ops->free(b->be, out);
    free(w);
}

static void bench_prefill(struct bench *b, int64_t tokens)
{
    enum { H = 9, G = 3, D = 64 };
    void *q = device(b, tokens * H * D), *out = device(b, tokens * H * D);
    struct attn_span span = { .rows = tokens };
    double took[ROUNDS_MAX], before, after;
    int64_t count = G * tokens * D;
    float *numbers = device(b, 2 * count);
    char name[64];

    span.kv = (struct kv_layer){ numbers, numbers + count, DT_F32, G, D, tokens, tokens };
    if (b->be->kv == DT_BF16) {
        dtype_from_f32(numbers, DT_BF16, numbers, (uint64_t)(2 * count));
        span.kv = (struct kv_layer){ numbers, (uint16_t *)numbers + count, DT_BF16, G, D, tokens, tokens };
    }
    before = peak(b);
    for (int r = 0; r < b->rounds; r++) {
        int64_t begin = now_ns(b);

        b->be->ops->attn_prefill(b->be, &span, 1, q, H, 0.125f, 0, out, NULL, 0);
        took[r] = (double)(now_ns(b) - begin);
    }
    after = peak(b);
    snprintf(name, sizeof name, "attn_prefill %lld", (long long)tokens);
    line(name, 4.0 * H * D * (double)tokens * (double)(tokens + 1) / 2 / median(took, b->rounds), "GFLOP/s", before,
         after, "peak");
    b->be->ops->free(b->be, q);
    b->be->ops->free(b->be, out);
    b->be->ops->free(b->be, numbers);
}

/* Steps of `seqs` sequences over blocks of `rows` rows a head (uneven: a quarter to seven quarters of it). */
static void bench_decode(struct bench *b, int32_t seqs, int64_t rows, bool uneven)
{
    enum { H = 9, G = 3, D = 64, LAYERS = 8 };
    struct cache_config config = { .slots = seqs,
                                   .pages = seqs,
                                   .pages_per_slot = 1,
                                   .rows_max = seqs,
                                   .layers = LAYERS,
                                   .q_heads = H,
                                   .kv_heads = G,
                                   .dim = D };
    struct kv_block *block = mem_zero(LAYERS, sizeof *block);
    struct step_seq *seq = mem_zero((size_t)seqs, sizeof *seq);
    int32_t *zeros = mem_zero((size_t)seqs, sizeof *zeros);
    struct step step = { .rows = seqs, .seqs = seqs, .seq = seq, .token = zeros, .position = zeros, .output = zeros };
    const int64_t row_bytes = D * (b->be->kv == DT_BF16 ? 2 : 4);
    void *q = device(b, seqs * H * D), *out = device(b, seqs * H * D);
    double took[ROUNDS_MAX], before, after, bytes = 0;
    struct err err = { 0 };
    char name[64];

    if (b->be->ops->cache_open(b->be, &config, &err) != ST_OK)
        exit(1);
    for (int32_t s = 0; s < seqs; s++) {
        for (int l = 0; l < LAYERS; l++) {
            const int64_t parts[G] = { uneven ? rows / 4 : rows, rows, uneven ? 7 * rows / 4 : rows };

            block[l] = (struct kv_block){ .layer = l, .heads = G, .dim = D, .k_dim = D, .dtype = b->be->kv };
            for (int g = 0; g < G; g++)
                block[l].first[g + 1] = block[l].first[g] + parts[g];
            block[l].v_offset = kv_align((uint64_t)(kv_block_rows(&block[l]) * row_bytes));
            block[l].bytes = 2 * block[l].v_offset;
            block[l].data = device(b, (int64_t)block[l].bytes / 4);
            if (b->be->kv == DT_BF16)
                for (uint64_t i = 0; i < block[l].bytes / 2; i++)
                    ((uint16_t *)block[l].data)[i] = f32_to_bf16((float)(int)(i * 37 % 41) / 20.0f - 1.0f);
            bytes += 2.0 * (double)(kv_block_rows(&block[l]) * row_bytes);
        }
        b->be->ops->slot_blocks(b->be, s, block);
        b->be->ops->slot_page(b->be, s, 0, s);
        seq[s] = (struct step_seq){ s, s, 1, 0, 0 };
    }
    before = reading(b);
    b->be->ops->step_begin(b->be, &step);
    for (int r = 0; r < b->rounds; r++) {
        int64_t begin = now_ns(b);

        for (int l = 0; l < LAYERS; l++)
            b->be->ops->attn_decode(b->be, l, q, H, 0.125f, 0, out);
        took[r] = (double)(now_ns(b) - begin);
    }
    after = reading(b);
    snprintf(name, sizeof name, "attn_decode %dx%lld%s", seqs, (long long)rows, uneven ? " uneven" : "");
    line(name, bytes / median(took, b->rounds), "GB/s", before, after, "reading");
    b->be->ops->cache_close(b->be);
    free(block);
    free(seq);
    free(zeros);
}

static void run_all(struct bench *b, const char *only)
{
    static const int64_t shapes[][2] = { { 960, 576 }, { 576, 576 }, { 3072, 576 }, { 576, 1536 }, { 49152, 576 } };
    static const int64_t rows[] = { 1, 4, 16, 512, 2048 };

    for (size_t r = 0; strstr(only, "matmul") && r < ARRAY_LEN(rows); r++)
        for (size_t s = 0; s < ARRAY_LEN(shapes); s++)
            if (rows[r] < 64 || shapes[s][0] < 10000)
                bench_matmul(b, rows[r], shapes[s][0], shapes[s][1]);
    if (strstr(only, "prefill")) {
        bench_prefill(b, 512);
        bench_prefill(b, 2048);
    }
    if (strstr(only, "decode")) {
        bench_decode(b, 1, 4096, false);
        bench_decode(b, 16, 512, false);
        bench_decode(b, 16, 2048, false);
        bench_decode(b, 16, 2048, true);
    }
}

int main(int argc, char **argv)
{
    struct bench b = { .rounds = 9, .clock = CLOCK_MONOTONIC };
    struct backend_config config = { .dtype = DT_BF16, .memory_fraction = 0.5, .rows_max = ROWS_MAX };
    const char *spec = "cpu", *only = "matmul prefill decode";
    struct err err = { 0 };

    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--backend") == 0)
            spec = argv[i + 1];
        else if (strcmp(argv[i], "--dtype") == 0)
            config.dtype = (enum dtype)dtype_parse(argv[i + 1]);
        else if (strcmp(argv[i], "--threads") == 0)
            config.threads = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--rounds") == 0)
            b.rounds = atoi(argv[i + 1]) < ROUNDS_MAX ? atoi(argv[i + 1]) : ROUNDS_MAX;
        else if (strcmp(argv[i], "--only") == 0)
            only = argv[i + 1];
        else if (strcmp(argv[i], "--clock") == 0)
            b.clock = strcmp(argv[i + 1], "cpu") == 0 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC;
        else
            return 2;
    }
    b.threads = config.threads ? config.threads : thread_cores();
    if (backend_open(&b.be, spec, &config, &err) != ST_OK || pool_open(&b.pool, b.threads, &err) != ST_OK) {
        fprintf(stderr, "bench_kernels: %s\n", err.text);
        return 1;
    }
    for (size_t i = 0; i < ARRAY_LEN(probes); i++)
        if (strstr(b.be->ops->describe(b.be), probes[i].isa) && !b.probe)
            b.probe = config.dtype == DT_BF16 ? probes[i].bf16 : probes[i].f32;
    b.memory = mem_aligned(READ_BYTES);
    memset(b.memory, 1, READ_BYTES);
    printf("%s\n", b.be->ops->describe(b.be));
    run_all(&b, only);
    free(b.memory);
    pool_close(b.pool);
    backend_close(b.be);
    return 0;
}
