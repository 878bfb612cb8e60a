/* SPDX-License-Identifier: Apache-2.0 */
/*
 * scheduler.h - stop 4 of 12: admission by tokens, and whose turn it is.
 *
 *   reserve ─▶ put ─▶ [waiting, bounded by tokens] ──take──▶ a track ──layer, layer, ...──▶ leave ──▶ end
 *                            full: refused at once              at most TRACKS
 *
 * The engine asks before every layer whose turn it is, so a short context need not wait for a long one. Whoever has the
 * earliest `due` goes: due = arrival + STRETCH times the time it would take alone. A short one is due soon; a long one's
 * due does not move, so newcomers are due after it some day: nobody starves, and nobody waits (in a queue of that size)
 * much longer than STRETCH times its own time. A second track is opened only for one that is due earlier, or when the
 * first waits for the wire; it is not opened for one whose memory is not free yet, nor for those due after that one.
 *
 * All functions: any thread; a lock inside, never held while calling out.
 */
#ifndef PLATEN_PREFILL_SCHEDULER_H
#define PLATEN_PREFILL_SCHEDULER_H

#include "common/base/status.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { SCHEDULER_TRACKS = 2, SCHEDULER_SLOTS = 2, SCHEDULER_STRETCH = 4 };

enum turn_state { TURN_WAITING, TURN_RUNNING, TURN_LEFT };

/* One order's place; inside struct job. tokens, share and layers are set by its owner before put; the rest is the
 * scheduler's. */
struct turn {
    int64_t tokens;
    double share;   /* of the memory that running ones have in common; those of all together are at most 1 */
    int32_t layers; /* still to be computed */
    int32_t layers_all;
    int64_t due_ns;
    enum turn_state state;
    int32_t track;      /* while running, and after it left until end; -1: none */
    int32_t unshipped;  /* packed blocks that have not left: with SLOTS of them it may not go on */
    bool dropped;       /* to be taken once more, to end */
    int64_t stalled_ns; /* since when it waits for the wire; 0: it does not */
    int64_t stall_ns;   /* how long it did in all */
    struct turn *next;
};

struct scheduler_config {
    int64_t queue_tokens; /* that may wait */
    int64_t queue_orders;
    double ns_per_token;     /* first guess; measured from then on */
    int64_t (*now_ns)(void); /* NULL: clock_now_ns; tests bring their own */
};

struct scheduler_load {
    int32_t queued, running; /* orders that wait; orders that have a track */
    int64_t queued_tokens;   /* of those that wait */
    int64_t left_tokens;     /* those, and what is left of the running ones */
    int32_t buffers;         /* packed blocks that have not left */
};

struct scheduler;

struct scheduler *scheduler_open(const struct scheduler_config *config);
void scheduler_close(struct scheduler *s); /* nobody waits in take; NULL is fine */

/* Room for an order of `tokens`. *ahead: tokens before it. ST_EEXHAUSTED, with *retry_ms, when the queue is full; an idle
 * node takes any order. put makes it real, revoke gives it back. */
enum status scheduler_reserve(struct scheduler *s, int64_t tokens, int64_t *ahead, int64_t *retry_ms, struct err *err);
void scheduler_put(struct scheduler *s, struct turn *t);
void scheduler_revoke(struct scheduler *s, int64_t tokens);

/* Engine: the next turn; *dropped: it is to leave. A turn taken for the first time has got its track. ST_AGAIN at the
 * deadline; ST_ECANCELLED once stopped and nothing runs. */
enum status scheduler_take(struct scheduler *s, struct turn **out, bool *dropped, int64_t deadline_ns);

/* Engine: one more layer of it was computed and packed. */
void scheduler_layer(struct scheduler *s, struct turn *t);

/* Engine: it needs no more turns; it keeps its track. */
void scheduler_leave(struct scheduler *s, struct turn *t);

/* Mover: a block of it has left. */
void scheduler_shipped(struct scheduler *s, struct turn *t);

/* Whoever: it is not wanted any more. A waiting one leaves at once, a running one when the engine takes it next. */
void scheduler_drop(struct scheduler *s, struct turn *t);
bool scheduler_has_left(struct scheduler *s, const struct turn *t);

/* Mover: it is over; its track goes to the next. It must have left. */
void scheduler_end(struct scheduler *s, struct turn *t);

/* Engine: `tokens` took so long, for the estimates. */
void scheduler_measure(struct scheduler *s, int64_t tokens, int64_t ns);

/* Takers see ST_ECANCELLED as soon as nothing runs; waiting turns are dropped by their owners. */
void scheduler_stop(struct scheduler *s);
void scheduler_look(struct scheduler *s, struct scheduler_load *out);

#ifdef __cplusplus
}
#endif
#endif
