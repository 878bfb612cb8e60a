/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tune.c - which of cuBLASLt's candidates is fastest for a weight, timed once and kept on disk.
 *
 * For every weight shape that is opened and every rung of the ladder of row counts up to rows_max that few.c leaves to the
 * library, its first eight candidates run on random numbers; the median of five counts. The file holds one choice a line:
 *
 *      out rows n k us a0 a1 .. a7        out: act, f32, or adds (to f32);
 *                                         a0..a7: the library's opaque description, hexadecimal
 *
 * and is named after card, dtype and library version. A line of another form, or one that the library does not accept, is
 * dropped. A file that cannot be written costs the tuning again next time, nothing else.
 */
#include "kernels/cuda/gemm.h"

#include "common/base/order.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 5 };
#define ROOM_MOST ((uint64_t)3 << 30)

static const char *const words[] = { [GEMM_ACT] = "act", [GEMM_F32] = "f32", [GEMM_ADDS] = "adds" };

static_assert(sizeof(cublasLtMatmulAlgo_t) == 8 * sizeof(uint64_t), "the file holds eight words");

static bool accepted(struct cuda *c, const struct gemm_choice *choice)
{
    const struct gemm_shape shape = { choice->rows, choice->n, choice->k, false, choice->out };
    struct gemm *g = c->gemm;
    cublasLtMatmulHeuristicResult_t result;

    return gemm_layouts(c, &shape) && c->blas.matmul_algo_check(g->handle, g->desc, g->w, g->in, g->out, g->out,
                                                                &choice->algo, &result) == CUBLAS_STATUS_SUCCESS;
}

void tune_load(struct cuda *c)
{
    struct gemm *g = c->gemm;
    FILE *f = g->path[0] ? fopen(g->path, "r") : NULL;
    char line[512];

    while (f && fgets(line, sizeof line, f) && g->choices < GEMM_CHOICES_MAX) {
        struct gemm_choice *to = &g->choice[g->choices];
        uint64_t *a = to->algo.data;
        char out[8];

        if (sscanf(line,
                   "%7s %" SCNd64 " %" SCNd64 " %" SCNd64 " %f %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64
                   " %" SCNx64 " %" SCNx64 " %" SCNx64,
                   out, &to->rows, &to->n, &to->k, &to->us, &a[0], &a[1], &a[2], &a[3], &a[4], &a[5], &a[6],
                   &a[7]) != 13)
            continue;
        to->bias = false;
        for (int kind = 0; kind < 3; kind++)
            if (strcmp(out, words[kind]) == 0 && to->rows > 0 && to->n > 0 && to->k > 0) {
                to->out = (enum gemm_out)kind;
                g->choices += accepted(c, to);
            }
    }
    if (f)
        fclose(f);
}

static void tune_save(const struct gemm *g)
{
    FILE *f = g->path[0] ? fopen(g->path, "w") : NULL;

    if (!f)
        return;
    for (int32_t i = 0; i < g->choices; i++) {
        const struct gemm_choice *h = &g->choice[i];

        if (h->us <= 0.0f || h->bias)
            continue;
        fprintf(f, "%s %" PRId64 " %" PRId64 " %" PRId64 " %.2f", words[h->out], h->rows, h->n, h->k, (double)h->us);
        for (int j = 0; j < 8; j++)
            fprintf(f, " %" PRIx64, h->algo.data[j]);
        fprintf(f, "\n");
    }
    fclose(f);
}

/* Median microseconds of one candidate; 0 when it does not run. */
static float time_one(struct cuda *c, const void *w, const void *in, void *out, enum gemm_out kind,
                      const cublasLtMatmulAlgo_t *algo, cudaEvent_t begin, cudaEvent_t end)
{
    float us[ROUNDS];

    if (gemm_launch(c, w, in, out, kind, algo) != CUBLAS_STATUS_SUCCESS)
        return 0.0f;
    for (int i = 0; i < ROUNDS; i++) {
        float ms = 0.0f;

        if (cudaEventRecord(begin, c->stream[LANE_COMPUTE]) != cudaSuccess ||
            gemm_launch(c, w, in, out, kind, algo) != CUBLAS_STATUS_SUCCESS ||
            cudaEventRecord(end, c->stream[LANE_COMPUTE]) != cudaSuccess || !cuda_event_wait(c, end, 30000, "tuning") ||
            cudaEventElapsedTime(&ms, begin, end) != cudaSuccess)
            return 0.0f;
        us[i] = ms * 1000.0f;
    }
    qsort(us, ROUNDS, sizeof us[0], order_f32);
    return us[ROUNDS / 2];
}

static void tune_shape(struct cuda *c, const struct gemm_shape *shape, const void *w, const void *in, void *out,
                       cudaEvent_t begin, cudaEvent_t end)
{
    cublasLtMatmulHeuristicResult_t candidate[GEMM_CANDIDATES];
    struct gemm_choice best = { .rows = shape->rows, .n = shape->n, .k = shape->k, .out = shape->out };
    int count = 0;

    if (gemm_layouts(c, shape))
        (void)gemm_candidates(c, candidate, GEMM_CANDIDATES, &count);
    for (int i = 0; i < count; i++) {
        float us = candidate[i].state == CUBLAS_STATUS_SUCCESS
                       ? time_one(c, w, in, out, shape->out, &candidate[i].algo, begin, end)
                       : 0.0f;

        if (us > 0.0f && (best.us == 0.0f || us < best.us)) {
            best.us = us;
            best.algo = candidate[i].algo;
        }
    }
    if (best.us > 0.0f && c->gemm->choices < GEMM_CHOICES_MAX)
        c->gemm->choice[c->gemm->choices++] = best;
}

bool tune_wants(const struct cuda *c, const struct gemm_shape *shape)
{
    return !few_takes(c, shape) && gemm_find(c->gemm, shape) == NULL;
}

/* The largest row count that is timed: in and out must fit into the room. 0: everything is known. */
static int64_t rows_to_time(struct cuda *c, int64_t n, int64_t k, enum gemm_out kind, int64_t *largest)
{
    const int64_t bytes = (int64_t)act_bytes(c), out_bytes = kind == GEMM_ACT ? bytes : 4;
    int64_t missing = 0;

    *largest = 0;
    for (int64_t rows = 16; rows <= gemm_bucket(c->rows_max); rows = gemm_bucket(rows + 1)) {
        const struct gemm_shape shape = { rows, n, k, false, kind };

        if ((uint64_t)(rows * (k * bytes + n * out_bytes)) > ROOM_MOST || (n > 65536 && rows > 256))
            break;
        *largest = rows;
        missing += tune_wants(c, &shape);
        if (rows >= 32768)
            break;
    }
    return missing;
}

/* What candidates run on. */
struct tune_room {
    void *in, *out;
    cudaEvent_t begin, end;
};

static bool room_open(struct cuda *c, struct tune_room *r, uint64_t in_bytes, uint64_t out_bytes)
{
    return cuda_alloc(&c->base, in_bytes, "other", &r->in, NULL) == ST_OK &&
           cuda_alloc(&c->base, out_bytes, "other", &r->out, NULL) == ST_OK &&
           cudaEventCreate(&r->begin) == cudaSuccess && cudaEventCreate(&r->end) == cudaSuccess;
}

static void room_close(struct cuda *c, struct tune_room *r)
{
    if (r->begin)
        (void)cudaEventDestroy(r->begin);
    if (r->end)
        (void)cudaEventDestroy(r->end);
    cuda_free(&c->base, r->in);
    cuda_free(&c->base, r->out);
}

static void time_all(struct cuda *c, const struct gemm_shape *largest, const void *w, const struct tune_room *r)
{
    struct gemm_shape shape = *largest;

    cuda_failed(c, launch_random(c->queue[LANE_COMPUTE], c->base.act, 1, 1.0f, largest->rows * largest->k, r->in),
                "tuning");
    if (largest->out == GEMM_ADDS)
        cuda_failed(c, launch_random(c->queue[LANE_COMPUTE], DT_F32, 2, 1.0f, largest->rows * largest->n, r->out),
                    "tuning");
    for (shape.rows = 16; shape.rows <= largest->rows; shape.rows = gemm_bucket(shape.rows + 1))
        if (tune_wants(c, &shape))
            tune_shape(c, &shape, w, r->in, r->out, r->begin, r->end);
    tune_save(c->gemm);
}

enum status gemm_tune(struct cuda *c, int64_t n, int64_t k, enum gemm_out kind, const void *w, struct err *err)
{
    const uint64_t bytes = act_bytes(c), out_bytes = kind == GEMM_ACT ? bytes : 4;
    struct gemm_shape largest = { 0, n, k, false, kind };
    struct tune_room room = { 0 };

    if (c->base.act == DT_F32 || rows_to_time(c, n, k, kind, &largest.rows) == 0 || k % 8 != 0 || n % 8 != 0)
        return ST_OK;
    if (room_open(c, &room, (uint64_t)(largest.rows * k) * bytes, (uint64_t)(largest.rows * n) * out_bytes))
        time_all(c, &largest, w, &room);
    else /* no failure: the first guess is taken then */
        cuda_fell_back(c, &(struct fallback){ .instead = "untimed product",
                                              .library = "cublaslt",
                                              .why = "room to time it",
                                              .shape = { largest.rows, n, k } });
    room_close(c, &room);
    return c->base.ops->health(&c->base, err);
}
