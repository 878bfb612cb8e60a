/* SPDX-License-Identifier: Apache-2.0 */
/* small_decode.h - the engine of a decode node without its doors: a small random model, batcher, sequences that ask it. */
#ifndef PLATEN_TESTS_SMALL_DECODE_H
#define PLATEN_TESTS_SMALL_DECODE_H

#include "decode-node/batcher.h"
#include "tests/unit/small_model.h"

#include <semaphore.h>
#include <stdbool.h>

enum { SMALL_LAYERS = 3, SMALL_WINDOWED = 1, SMALL_SLOTS = 8 };

struct small_decode {
    struct backend *be;
    struct weights *weights;
    struct metrics *metrics;
    struct batcher *batcher; /* NULL: small_decode_start was not called */
    sem_t wake;
    bool cancelled; /* of every sequence: never */
};

/* Back end and weights. Layer SMALL_WINDOWED sees so many rows; 0: all. */
void small_decode_open(struct small_decode *d, int32_t window);

/* The batcher: steps of up to rows_max rows, tail_tokens of all answers. */
void small_decode_start(struct small_decode *d, int32_t rows_max, int32_t tail_tokens);
void small_decode_close(struct small_decode *d);

/* A question of `tokens` ids that depend on `seed`; its room is the caller's to reserve. */
struct sequence *small_ask(struct small_decode *d, struct context *c, int seed, int32_t tokens, int32_t max_new);

/* Waits for its end, a minute at most. */
enum finish small_await(struct sequence *s);
void small_drop(struct sequence *s);

#endif
