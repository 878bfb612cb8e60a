/* SPDX-License-Identifier: Apache-2.0 */
/*
 * batcher.h - the engine thread of the decode node: which rows the next step holds.
 *
 * Room is promised at the door (batcher_reserve: sequences and tail pages), so a sequence that was let in never runs out
 * of it. The engine thread owns back end, weights and slots; everybody else talks to it through submit and call.
 */
#ifndef PLATEN_DECODE_BATCHER_H
#define PLATEN_DECODE_BATCHER_H

#include "common/base/status.h"
#include "common/metrics/metrics.h"
#include "decode-node/sequence.h"
#include "kernels/weights.h"

#include <semaphore.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct batcher;
struct trace;

struct batcher_config {
    struct backend *be;            /* the engine thread's from open on */
    const struct weights *weights; /* borrowed */
    int32_t slots;                 /* sequences in one step */
    int32_t sequences_max;         /* running and waiting */
    int32_t tail_tokens;           /* of all sequences */
    int32_t tail_tokens_max;       /* of one sequence */
    int32_t rows_max;              /* of one step */
    sem_t *wake;                   /* posted after a step that gave tokens, and when a sequence ended */
    struct metrics *metrics;
    struct trace *trace; /* NULL: off */
};

enum status batcher_open(struct batcher **out, const struct batcher_config *config, struct err *err);

/* Ends every sequence as FINISH_CANCELLED, then the thread. NULL is fine. */
void batcher_close(struct batcher *b);

/* Promises room for a sequence of `tail_rows` rows; batcher_release gives it back after its end. Any thread, never waits.
 * ST_EEXHAUSTED names what is full; ST_ERANGE: longer than one tail may be. */
enum status batcher_reserve(struct batcher *b, int32_t tail_rows, struct err *err);
void batcher_release(struct batcher *b, int32_t tail_rows);

struct blocks;
struct repress_ask;
struct repressed;

/* Makes all that an answer with a decode part will need (repress.h); batcher_repressed_close gives it back, any thread.
 * Any thread but the engine; waits until the engine comes by between two steps, 10 s at most. ST_EEXHAUSTED names what is
 * full. */
enum status batcher_repress(struct batcher *b, const struct repress_ask *ask, struct repressed **out, struct err *err);
void batcher_repressed_close(struct batcher *b, struct repressed *a); /* NULL is fine */

/* Hands a sequence over; room was reserved. The engine gives it back by writing `finish`. Any thread. */
void batcher_submit(struct batcher *b, struct sequence *s);

/* Runs fn(arg) on the engine thread between two steps, with none under way. Any thread but the engine. Does not wait.
 * ST_EEXHAUSTED when too many are asked for. */
enum status batcher_call(struct batcher *b, void (*fn)(struct batcher *b, void *arg), void *arg);

/* Inside a call: moves what may be moved to the front of the arena; running sequences read it where it is then. */
void batcher_compact(struct batcher *b, struct blocks *blocks);

/* ST_OK, or why the engine cannot go on (device lost). Any thread. */
enum status batcher_health(struct batcher *b, struct err *err);

/* Since when (clock_now_ns) the engine has been in its turn; 0: it waits for work. Atomic; lives as long as the batcher. */
const int64_t *batcher_turn(const struct batcher *b);

int32_t batcher_sequences(struct batcher *b);
int64_t batcher_tail_tokens(struct batcher *b);

#ifdef __cplusplus
}
#endif
#endif
