/* SPDX-License-Identifier: Apache-2.0 */
/* bench.h - what the two measurements of `platen bench` share. */
#ifndef PLATEN_CLIENT_BENCH_H
#define PLATEN_CLIENT_BENCH_H

#include "client/local.h"
#include "presses/chain.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { BENCH_BATCH_MAX = 4096, BENCH_ROUNDS_MAX = 1000 };

/* What is measured. Exactly one of prefill and decode is set. */
struct bench {
    struct local *local;
    const struct chain *chain; /* NULL: no press */
    int64_t prefill;           /* tokens */
    int64_t decode, context;   /* steps; tokens of each sequence's context */
    int32_t batch;
    enum kv_codec codec; /* of every block */
    bool coded;          /* prefill: packs blocks, too, as a node does before they are sent; needs a chain */
    double ragged;       /* head lengths spread around their mean by this factor; 0: as the press left them */
    int32_t rounds;
    int32_t *token; /* the context */
};

/* What came out; milliseconds are medians over the rounds. */
struct bench_result {
    double prefill_ms, press_ms, decode_ms, total_ms;
    double kv_bytes; /* cache bytes that a step reads, mean over the steps */
    int32_t first_token;
    int32_t step_launches; /* of a recorded step; 0: nothing was recorded */
};

/* What the device did in the probes: the best of all that were taken. Zero-initialise. */
struct bench_roofs {
    double copy_gb_s;   /* device memory, bytes read and written */
    double gemm_tflops; /* the products of a layer, one after another */
    double sdpa_tflops; /* causal attention; only visible pairs counted */
};

/* Takes the probes at up to `tokens` tokens. ST_EEXHAUSTED. */
enum status bench_probe(struct local *l, int64_t tokens, struct bench_roofs *roofs, struct err *err);

/* The context of every sequence: 100 + (7919 i mod 40000), cut to the vocabulary. */
void bench_tokens(int32_t *token, int64_t count, int32_t vocab);
double bench_median(double *values, int32_t count);
int32_t bench_argmax(const float *logits, int32_t vocab);

/* Plans the block of what a layer keeps, in the bench's codec; `kept` is what press_run_pack packs then. */
enum status bench_plan(const struct bench *b, const struct press_result *result, struct press_result *kept,
                       struct kv_block *block, struct err *err);

enum status bench_prefill(const struct bench *b, struct bench_result *out, struct err *err);
enum status bench_decode(const struct bench *b, struct bench_result *out, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
