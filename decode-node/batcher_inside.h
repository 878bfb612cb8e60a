/* SPDX-License-Identifier: Apache-2.0 */
/*
 * batcher_inside.h - the struct of the batcher, shared by the files that make it one.
 *
 *   batcher.c          the loop of the engine thread, open and close
 *   batcher_door.c     what other threads ask: room promised, sequences and calls handed over
 *   batcher_room.c     room for an answer with a decode part: asked for at the door, made between two steps
 *   batcher_seats.c    who has a slot: sequences come, wait, end
 *   batcher_step.c     one step: which rows it holds, what it chose
 *   batcher_press.c    after a step: answers with a decode part
 *
 * Everything here but what is marked atomic belongs to the engine thread, and so does every function below.
 */
#ifndef PLATEN_DECODE_BATCHER_INSIDE_H
#define PLATEN_DECODE_BATCHER_INSIDE_H

#include "common/base/queue.h"
#include "decode-node/batcher.h"
#include "decode-node/forward.h"
#include "decode-node/repress.h"
#include "decode-node/tails.h"

#include <pthread.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { BATCHER_BEHIND_MAX = 1 };

/* What one step under way was asked. */
struct flight {
    int32_t wanted;            /* sequences whose token it chooses */
    struct sequence **chooses; /* [slots], in the order of step.output */
    int32_t touched;
    struct sequence **touches; /* [slots]: every sequence with rows in it */
};

/* What travels through the arrivals queue: a sequence, or a call. */
struct arrival {
    struct sequence *sequence;
    void (*fn)(struct batcher *b, void *arg);
    void *arg;
};

struct batcher {
    struct batcher_config cfg;
    struct backend *be;
    struct forward forward;
    struct repress repress;
    pthread_t thread;
    struct queue *arrivals;
    int32_t arrived;   /* atomic: items in arrivals, so that an empty queue costs no lock */
    int32_t stopping;  /* atomic */
    int32_t sequences; /* atomic: promised */
    int64_t tail_rows; /* atomic: promised, in whole pages */
    int32_t broken;    /* atomic */
    int64_t turn_ns;   /* atomic: batcher_turn */
    int behind;

    struct sequence *waiting, **waiting_end; /* for a slot */
    struct sequence **slot;                  /* [slots]; NULL: free */
    int32_t running;
    struct tails tails;

    struct step step;
    struct step_seq *seq; /* [slots] */
    int32_t *token, *position, *output, *chosen;
    struct flight flight[BATCHER_BEHIND_MAX + 1];
    int flights;

    struct metric *m_running, *m_queued, *m_steps, *m_tokens, *m_step_seconds;
    struct metric *m_compressions, *m_compress_seconds, *m_head_min, *m_head_max, *m_own, *m_own_bytes;
};

/* batcher_seats.c: puts an arrival in line, or calls it. */
void batcher_take(struct batcher *b, struct arrival *a);

/* Sequences that were cancelled, are late or failed leave before the next step. hot */
void batcher_reap(struct batcher *b);

/* Gives free slots to those who wait, in order of arrival. */
void batcher_seat(struct batcher *b);

/* Decides a sequence's end; it goes at once, or when the last step that touches it is done. hot */
void batcher_end(struct batcher *b, struct sequence *s, enum finish how);

/* The sequence is over and no step touches it: everything back, then the word. After that it is not ours. */
void batcher_let_go(struct batcher *b, struct sequence *s);

/* batcher_step.c: fills the next step and runs it. False: there was nothing to do. hot */
bool batcher_step(struct batcher *b);

/* Waits for every step under way and gives its tokens. */
void batcher_land(struct batcher *b);

/* batcher_press.c: decode parts whose call is over, and what their answers hold now. hot, but for those that are due */
void batcher_press(struct batcher *b);

#ifdef __cplusplus
}
#endif
#endif
