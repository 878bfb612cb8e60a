/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine.c - stops 4 to 7 in a row: take a turn, forward one layer, press, pack.
 *
 *   scheduler ──turn──▶ [ begin ] ─▶ prefill_layer ─▶ handoff_layer ─▶ slot ─▶ mover
 *        ▲                                                │
 *        └────────────── the next layer's turn ◀──────────┘
 *
 * Between two layers it may change to another context; a context that nobody waits for any more is left before its next
 * layer. The engine waits for nothing but the scheduler.
 */
#include "prefill-node/engine.h"

#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/base/thread.h"
#include "common/base/trace.h"
#include "prefill-node/forward.h"
#include "prefill-node/handoff.h"
#include "prefill-node/held.h"

#include <stdlib.h>

enum { TAKE_MS = 1000 };

struct engine {
    struct engine_config config;
    struct prefill *prefill;
    struct track track[SCHEDULER_TRACKS];
    struct fence *computed, *pressed;
    pthread_t thread;
    bool broken;
};

/* Its press must see every layer first: turns go into holding them, and only then into packing one each. */
static enum status begin_held(struct engine *e, struct job *job, struct err *err)
{
    struct held_config config = { .be = e->config.be,
                                  .prefill = e->prefill,
                                  .hp = &e->config.weights->hp,
                                  .press = e->track[job->turn.track].press,
                                  .pass = &job->pass,
                                  .query_tokens = job->query_tokens,
                                  .needs = job->needs,
                                  .prompt = job->prompt };
    enum status st;

    config.prompt.token = job->token;
    config.prompt.tokens = job->tokens;
    st = held_open(&job->held, &config, err);
    if (st != ST_OK)
        err_prefix(err, "forward");
    return st;
}

static void count_forward(struct job *job, int32_t layer, int64_t from)
{
    const int64_t now = clock_now_ns();

    job->times.forward += now - from;
    trace_add(job->trace, TRACE_compute, job->trace_order, layer, from, now, (uint64_t)job->tokens);
}

/* One turn of holding. */
static enum status hold_layer(struct job *job, struct err *err)
{
    const int64_t from = clock_now_ns();
    enum status st = held_step(job->held, err);

    if (st != ST_OK)
        err_prefix(err, "forward");
    else if (held_ready(job->held))
        job->pass.layer = 0; /* from here on it counts packed layers */
    count_forward(job, TRACE_NO_LAYER, from);
    return st;
}

static enum status begin(struct engine *e, struct job *job, struct err *err)
{
    struct track *t = &e->track[job->turn.track];
    enum status st;

    __atomic_store_n(&job->times.begun, clock_now_ns(), __ATOMIC_RELAXED);
    st = handoff_begin(t, job, err);
    if (st != ST_OK)
        return st;
    job->pass = (struct pass){ .token = job->token, .tokens = job->tokens, .x = t->x };
    if (job->needs.all_layers)
        return begin_held(e, job, err);
    prefill_begin(e->prefill, &job->pass);
    return ST_OK;
}

/* Press and pack of the next layer that was held. */
static enum status one_held_layer(struct engine *e, struct job *job, struct err *err)
{
    struct press_layer layer;

    held_layer(job->held, job->pass.layer++, &layer);
    return handoff_layer(&e->track[job->turn.track], job, &layer, err);
}

/* Forward, press, pack. Lanes meet at fences: the press reads what was computed, the next layer writes over it. */
static enum status one_layer(struct engine *e, struct job *job, struct err *err)
{
    struct backend *be = e->config.be;
    const int64_t from = clock_now_ns();
    struct press_layer layer;
    enum status st;

    be->ops->fence_after(be, LANE_COMPUTE, e->pressed);
    st = prefill_layer(e->prefill, &job->pass, &job->needs, job->query_tokens, &layer, err);
    if (st != ST_OK) {
        err_prefix(err, "forward");
        return st;
    }
    be->ops->fence_record(be, e->computed, LANE_COMPUTE);
    be->ops->fence_after(be, LANE_PRESS, e->computed);
    be->ops->wait(be, LANE_COMPUTE);
    count_forward(job, layer.layer, from);
    st = handoff_layer(&e->track[job->turn.track], job, &layer, err);
    be->ops->fence_record(be, e->pressed, LANE_PRESS);
    return st;
}

static void check_health(struct engine *e, struct err *err, enum status *st)
{
    struct backend *be = e->config.be;
    struct err why = { 0 };

    if (be->ops->health(be, &why) == ST_OK)
        return;
    err_clear(err);
    *st = err_set(err, ST_EINTERNAL, "forward: %s", why.text);
    if (!e->broken && e->config.broken)
        e->config.broken(e->config.ctx, &why);
    e->broken = true;
}

static void finish(struct engine *e, struct job *job)
{
    const int64_t now = clock_now_ns();

    job->times.computed = now;
    job->next_position = chain_next_position(job->chain, job->compact, job->tokens,
                                             press_run_rows_most(e->track[job->turn.track].press));
    scheduler_measure(e->config.scheduler, job->tokens, job->times.forward + job->times.press + job->times.pack);
}

/* One turn: a layer, or the end of a job that is not wanted any more. */
static void turn(struct engine *e, struct job *job, bool dropped)
{
    struct err err = { 0 };
    enum status st = ST_OK;
    bool holding;

    if (!dropped && job->times.begun == 0)
        st = begin(e, job, &err);
    holding = job->held && !held_ready(job->held);
    if (!dropped && st == ST_OK)
        st = holding ? hold_layer(job, &err) : job->held ? one_held_layer(e, job, &err) : one_layer(e, job, &err);
    if (!dropped)
        check_health(e, &err, &st);
    if (st == ST_OK && !dropped && holding)
        return; /* nothing to ship yet */
    if (st == ST_OK && !dropped) {
        if (job->pass.layer == job->layers)
            finish(e, job);
        scheduler_layer(e->config.scheduler, &job->turn);
        __atomic_store_n(&job->packed, job->pass.layer, __ATOMIC_RELEASE); /* the mover may ship it */
    } else if (!dropped) {
        job_fail(job, &err);
    }
    if (st != ST_OK || dropped || job->pass.layer == job->layers) {
        held_close(job->held);
        job->held = NULL;
        scheduler_leave(e->config.scheduler, &job->turn); /* from here on the mover may end it */
    }
    mover_wake(e->config.mover);
}

static void *engine_run(void *arg)
{
    struct engine *e = arg;

    for (;;) {
        struct turn *t;
        bool dropped;
        const enum status st = scheduler_take(e->config.scheduler, &t, &dropped, clock_in_ms(TAKE_MS));

        if (st == ST_ECANCELLED)
            return NULL;
        if (st == ST_OK)
            turn(e, CONTAINER_OF(t, struct job, turn), dropped);
    }
}

static void free_parts(struct engine *e)
{
    struct backend *be = e->config.be;

    be->ops->fence_close(be, e->pressed);
    be->ops->fence_close(be, e->computed);
    for (int i = 0; i < SCHEDULER_TRACKS; i++)
        track_close(&e->track[i]);
    prefill_close(e->prefill);
    free(e);
}

enum status engine_open(struct engine **out, const struct engine_config *config, struct err *err)
{
    struct engine *e = mem_zero(1, sizeof *e);
    struct backend *be = config->be;
    enum status st;

    e->config = *config;
    st = prefill_open(&e->prefill, be, config->weights, config->tokens_max, err);
    for (int i = 0; st == ST_OK && i < SCHEDULER_TRACKS; i++)
        st = track_open(&e->track[i], be, &config->weights->hp, prefill_x_bytes(e->prefill, config->tokens_max),
                        config->tokens_max, err);
    if (st == ST_OK)
        st = be->ops->fence_open(be, &e->computed, err);
    if (st == ST_OK)
        st = be->ops->fence_open(be, &e->pressed, err);
    if (st == ST_OK)
        st = thread_start(&e->thread, "engine", engine_run, e, err);
    if (st != ST_OK) {
        free_parts(e);
        return st;
    }
    *out = e;
    return ST_OK;
}

void engine_close(struct engine *e)
{
    if (!e)
        return;
    pthread_join(e->thread, NULL);
    free_parts(e);
}
