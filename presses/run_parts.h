/* SPDX-License-Identifier: Apache-2.0 */
/* run_parts.h - what a run consists of, for the files run*.c. */
#ifndef PLATEN_PRESSES_RUN_PARTS_H
#define PLATEN_PRESSES_RUN_PARTS_H

#include "presses/chain_parts.h"
#include "presses/held.h"
#include "presses/run.h"
#include "presses/work.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Which token and position every row of a view has; device and host. Not set: row r is token r at position r. */
struct row_map {
    int32_t *device, *host;
    bool set;
};

/* owned by: engine thread */
struct press_run {
    struct backend *be;
    const struct hparams *hp;
    int64_t tokens_max;
    struct press_work work;

    const struct chain *chain; /* NULL: keep everything */
    int64_t tokens, query_tokens;
    bool compact;
    int64_t rows_most;

    float *score;
    int32_t *index;
    struct row_map token, position, next_token, next_position;
    int32_t *index_host;
    int32_t channel[KV_HEADS_MAX * KV_HEAD_DIM_MAX];
    bool rotated;           /* this layer's rows have their consecutive positions already */
    struct press_held held; /* heads 0: this chain holds nothing */
    int64_t scored;         /* last rows of each head on which verdicts go out with the result; 0: none */
    uint8_t *verdict;       /* host: those, as a block has them */
    int64_t verdict_room;
    struct press_prompt prompt;
    int32_t *feed;                                                                  /* tokens of a feed */
    bool (*cam_coin)(void *ctx, float p, int32_t layer, int32_t head, int64_t row); /* tests bring their own */
    void *survivors[2];
    uint64_t survivors_bytes[2];
    int32_t flip;
};

/* A round over the whole layer, ready for its hooks. */
struct press_round run_round_open(struct press_run *run, const struct press_layer *in);

/* `st`, unless an operation found no room: then that (ST_EEXHAUSTED), whatever became of what follows it. */
enum status run_had_room(const struct press_run *run, enum status st, struct err *err);

/* One round of a chain's decode part that leaves `target` rows per head. */
enum status run_decode_round(struct press_run *run, struct press_round *round, const struct chain *chain,
                             int64_t target, const int32_t *token, struct press_result *out, struct err *err);

/* room.c: how many buffers of survivors a chain alternates between. */
int32_t run_survivors(const struct chain *chain, bool compact);

/* run_survive.c: room in one of the two buffers for a packed layer with all rows. ST_EEXHAUSTED. */
enum status run_survivors_reserve(struct press_run *run, int32_t which, struct err *err);

/* run_survive.c: packs the chosen rows into scratch, which is the round's view then; its maps follow. */
enum status run_survive(struct press_run *run, struct press_round *round, const int64_t *first, struct err *err);

/* run_survive.c: next = what the chosen rows are called in `now`; consecutive numbers where `renumber`. */
void run_map_choose(struct press_run *run, const struct row_map *now, const struct kv_rows *view, const int64_t *first,
                    bool renumber, struct row_map *next);

/* run_survive.c: a block of the chosen rows, planned. */
enum status run_block_plan(const struct kv_rows *view, const int64_t *first, int32_t k_dim, enum kv_codec codec,
                           int64_t scored, struct kv_block *block, struct err *err);

/* run_survive.c: rows of the longest head. */
int64_t run_longest(const int64_t *first, int32_t heads);

/* run_hold.c: room for what all layers leave, where the chain asks for it; gives it back. */
void run_hold_begin(struct press_run *run);
void run_hold_end(struct press_run *run);

/* run_scored.c: room for the verdicts that go out with every result, where the chain goes on by them. */
void run_scored_begin(struct press_run *run);

/* run_scored.c: the scores that the rows of a sequence came with, as the round's; rows that were decided stay. */
void run_scored_take(struct press_round *round);

/* run_scored.c: the verdicts on the view's last rows, for the result; all of those rows stay. */
void run_scored_note(struct press_run *run, struct press_round *round);

/* run_hold.c: score and budget of a held layer, as settled. */
void run_hold_take(struct press_run *run, struct press_round *round);

#ifdef __cplusplus
}
#endif
#endif
