/* SPDX-License-Identifier: Apache-2.0 */
/*
 * family.h - one of the tiny checkpoints under families/, opened as both nodes open it, with what transformers computes of
 * it in f32 (make_tiny_models.py).
 *
 * PLATEN_TEST_BACKEND names another back end than the CPU's, PLATEN_TEST_DTYPE=bf16 another dtype than f32: logits are then
 * right within that dtype's error, and what follows from near ties is not asked.
 */
#ifndef PLATEN_TESTS_GOLDEN_FAMILY_H
#define PLATEN_TESTS_GOLDEN_FAMILY_H

#include "common/model/checkpoint.h"
#include "common/model/roles.h"
#include "decode-node/context.h"
#include "prefill-node/forward.h"

#include <jansson.h>

enum { FAMILY_TOKENS = 300, FAMILY_TOKENS_MAX = 512, FAMILY_COUNT = 12 };

extern const char *const family_names[FAMILY_COUNT];

struct family_model {
    const char *name;
    struct checkpoint *checkpoint;
    struct backend *be;
    struct weights *weights;
    struct prefill *prefill;
    void *x;          /* the residual of a context */
    json_t *expected; /* expected.json */
    int32_t token[FAMILY_TOKENS];
};

/* Whether PLATEN_TEST_DTYPE asks for bf16. */
bool family_is_bf16(void);

void family_model_open(struct family_model *m, const char *name);
void family_model_close(struct family_model *m);

/* Runs the first `tokens` tokens through every layer, x is their residual afterwards; with a context, the rows that the
 * prefill node would ship (press: keep everything) become its blocks. */
void family_prefill(struct family_model *m, int64_t tokens, struct context *c);

/* A context for family_prefill; without it, it holds no rows. */
struct context *family_context_open(struct family_model *m);
void family_context_close(struct family_model *m, struct context *c);

/* `count` numbers of an activation on the device, as f32 on the host. Waits. */
void family_numbers(struct family_model *m, const void *act, uint64_t count, float *out);

/* Logits [vocab] of row `row` of x. */
void family_logits(struct family_model *m, int64_t row, float *out);

/* Fails unless the logits after `position` are within the dtype's error of the list called `key`; true where that list has it. */
bool family_assert_logits(struct family_model *m, const char *key, int64_t position, const float *logits);

#endif
