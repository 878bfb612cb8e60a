/* SPDX-License-Identifier: Apache-2.0 */
/*
 * repress.h - answers whose press has a decode part: rows leave the cache while they are generated.
 *
 *   context's block (shared, only read) ─┐
 *   the answer's tail ───────────────────┴─ gather ─▶ score, keep ─▶ the answer's own block, and an empty tail
 *   the answer's own block ─ from the second time on, instead of the context's ┘
 *
 * A compression comes after so many forward calls (a question is one call), as the reference has it. Everything that it
 * wants is there before the answer begins: the own block has room for the most that any compression can leave, buffers
 * of queries for the most that are looked at, and scratch has been through one compression of the largest size. So one
 * in the middle of an answer allocates nothing and cannot fail for want of room.
 */
#ifndef PLATEN_DECODE_REPRESS_H
#define PLATEN_DECODE_REPRESS_H

#include "common/base/status.h"
#include "decode-node/blocks.h"
#include "decode-node/context.h"
#include "decode-node/forward.h"
#include "decode-node/sequence.h"
#include "kernels/weights.h"
#include "presses/run.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Engine's: a press and one layer's rows, shared by all answers. */
struct repress {
    struct backend *be;
    const struct weights *weights;
    struct press_run *run; /* NULL until somebody wants it */
    void *rows;            /* room for a gathered layer */
    uint64_t rows_bytes;
    int64_t step_rows; /* most rows of a step */
    void *hidden; /* act [layers][step_rows][dim]: of a step's rows that are scored as they come; NULL until wanted */
};

/* What an answer is asked with. */
struct repress_ask {
    struct context *context; /* what it is asked about; its chain has a decode part */
    int64_t context_tokens;  /* most rows of one head of the context */
    int64_t context_rows;    /* most rows of a layer of it, all heads */
    int64_t next_position;   /* where the question begins, at most */
    int32_t prompt_tokens, max_new;
};

/* Plain queries of the calls since the last compression, as many as are looked at: act [layers][room][H][D]. */
struct query_buffer {
    uint64_t offset; /* into the answer's extent */
    int64_t room;    /* tokens of a layer; 0: no score looks at queries, they are only counted */
    int64_t calls;   /* that a compression looks at besides the last */
    int64_t from, tokens;
    int64_t question; /* tokens at the front that are one call */
};

/* One answer with a decode part. owned by: the request; the engine's from submit to its end. */
struct repressed {
    const struct chain *chain; /* the context's, which outlives it */
    struct chain_decode part;
    struct context *own; /* its blocks; their extent also holds the buffers of queries */
    uint64_t *room;      /* [layers] bytes that a block may take */
    bool pressed;        /* attention reads own, not the context's blocks */
    struct query_buffer queries;
    int64_t queries_least;  /* that a score wants to see */
    uint64_t turned_offset; /* cam: rotated query of the last token, act [layers][H][D]; into the extent */
    int64_t rows_max;       /* of a layer before a compression, all heads */
    int64_t calls, fed;     /* forward calls since the last compression; rows of the one that is under way */
    int64_t fresh;          /* rows of a call that is over and not yet looked at; 0: none */
    struct press_cam cam;
    struct press_scored scored;
    int32_t unscored_row, unscored; /* rows of the last step whose hidden states are not yet scored */
    struct err failure;

    /* for the answer's figures; the shortest and the longest head of what attention reads now, without the tail */
    int64_t head_min, head_max;
    double head_mean;
    int64_t compressions, steps, held_min, held_max; /* after every step since the first compression */
    double held_sum;
};

/* repress_room.c: the most rows of tail that the answer has at once. */
int32_t repress_tail_rows(const struct chain_decode *part, int32_t prompt_tokens, int32_t max_new);

/* repress_room.c: whether such an answer can come to a compression at all; else it needs nothing of its own. */
bool repress_ever_due(const struct chain_decode *part, int32_t prompt_tokens, int32_t max_new);

/* repress_room.c: ST_OK where this device can do what the chain's decode part wants; ST_EUNIMPLEMENTED names what it
 * lacks. Any thread. */
enum status repress_admit(const struct chain *chain, const struct backend *be, struct err *err);

/* repress_room.c: everything that the answer will need. Engine thread, no step under way; allocates. `compact` is called
 * when the arena has the room but not in one piece. ST_EEXHAUSTED names what is full. */
enum status repressed_open(struct repressed **out, struct repress *r, const struct repress_ask *ask,
                           void (*compact)(void *ctx, struct blocks *blocks), void *ctx, struct err *err);
void repressed_close(struct repressed *a); /* any thread; NULL is fine */

/* Scratch for nobody yet. */
void repress_init(struct repress *r, struct backend *be, const struct weights *weights, int64_t step_rows);
void repress_fini(struct repress *r);
enum status repress_reserve(struct repress *r, int64_t rows, struct err *err);

/* Whether attention reads blocks of its own. NULL: no. */
static inline bool repressed_reads_own(const struct repressed *a)
{
    return a && a->pressed;
}

/* Bytes that its extent takes. */
uint64_t repressed_bytes(const struct repressed *a);

/* The answer got a slot that reads the context's blocks: makes the back end's room for the largest of its own, and takes
 * the verdicts that came with them. */
void repressed_seat(struct repressed *a, struct repress *r, int32_t slot, const struct context *context);

/* `rows` rows of it are in the step from row `row` on: where their queries or hidden states go. False: nowhere. hot */
bool repressed_feed(struct repressed *a, struct repress *r, int32_t row, int32_t rows, struct forward_take *take);
/* The call that those rows belong to is whole. hot */
void repressed_call(struct repressed *a);

/* After a call: whether it is time for a compression; `seen`: tokens of context, question and answer so far. hot */
bool repressed_due(const struct repressed *a, int64_t seen);
/* It was not: forgets queries that no compression will look at. hot */
void repressed_trim(struct repressed *a);

/* Scores the rows of the last step, where its rows are scored as they come (unscored > 0): before the next step is queued, and
 * with none under way. Waits; allocates nothing. */
enum status repressed_score(struct repressed *a, struct repress *r);

/* repress_score.c, for the others of repress*.c: where the hidden states of a step's rows go; room for them and for scores; as
 * many rows scored as a step can have, in every layer. */
void repressed_take_hidden(struct repressed *a, struct repress *r, struct forward_take *take);
enum status repressed_score_open(struct repressed *a, struct repress *r, const struct repress_ask *ask,
                                 struct err *err);
enum status repressed_rehearse_score(struct repressed *a, struct repress *r, struct err *err);
/* repress_room.c: device memory set to zeros. Waits for LANE_PRESS. */
void repress_zero(struct repress *r, char *device, uint64_t bytes);

/* cam: adds the attention of the call's last token. No step is under way. Allocates nothing. */
enum status repressed_attend(struct repressed *a, struct repress *r, int32_t slot, const struct context *context,
                             int32_t tail);

/* Compresses every layer of the slot: context's or own block and `tail` rows of tail become the own block, to which the
 * slot is tied. No step is under way. Waits; allocates nothing. Not ST_OK: `failure` says why, the answer is lost. */
enum status repressed_press(struct repressed *a, struct repress *r, int32_t slot, const struct context *context,
                            int32_t tail, int64_t seen);

/* Counts what it holds after a step. hot */
void repressed_hold(struct repressed *a, int32_t tail);

#ifdef __cplusplus
}
#endif
#endif
