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
 *
 * On devices two layers' K, V are kept, and the press of a layer follows when the next forward pass, of whatever context,
 * has been queued:
 *
 *   LANE_COMPUTE   forward l │ forward l+1 │ forward l+2 │ ...
 *   LANE_PRESS               │ press, pack l │ press, pack l+1
 *
 * A layer that nobody's turn follows is pressed at once.
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
#include "prefill-node/room.h"

#include <stdlib.h>

enum { TAKE_MS = 1000, LAYER_MS = 120000 };

/* A layer that is computed, or still being computed, and neither pressed nor packed. */
struct computed_layer {
    struct job *job; /* NULL: there is none */
    struct press_layer layer;
    struct fence *fence;
    int64_t from; /* when it was queued */
};

struct engine {
    struct engine_config config;
    struct prefill *prefill;
    struct track track[SCHEDULER_TRACKS];
    struct fence *computed[2], *pressed;
    int32_t computed_next;
    struct computed_layer waits; /* where the back end keeps two layers: pressed while the next one is computed */
    int64_t computed_ns;         /* when the last layer was seen to be computed */
    pthread_t thread;
    int64_t turn_ns; /* atomic: engine_turn */
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

static void count_forward(struct job *job, int32_t layer, int64_t from, int64_t *spent)
{
    const int64_t now = clock_now_ns();

    *spent += now - from;
    trace_add(job->trace, TRACE_compute, job->trace_order, layer, from, now, (uint64_t)job->tokens);
}

/* One turn of holding; what the press reads again is its own time. */
static enum status hold_layer(struct job *job, struct err *err)
{
    int64_t *spent = held_reads_again(job->held) ? &job->times.press : &job->times.forward;
    const int64_t from = clock_now_ns();
    enum status st = held_step(job->held, err);

    if (st != ST_OK)
        err_prefix(err, "forward");
    else if (held_ready(job->held))
        job->pass.layer = 0; /* from here on it counts packed layers */
    count_forward(job, TRACE_NO_LAYER, from, spent);
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

/* Waits until the layer is computed: what its press has to wait for anyway. */
static enum status await_layer(struct engine *e, const struct computed_layer *c, struct err *err)
{
    const int64_t from = c->from > e->computed_ns ? c->from : e->computed_ns;

    if (e->config.be->ops->fence_wait(e->config.be, c->fence, clock_in_ms(LAYER_MS)) != ST_OK)
        return err_set(err, ST_EINTERNAL, "forward: layer %d was not computed within %d s", c->layer.layer,
                       LAYER_MS / 1000);
    count_forward(c->job, c->layer.layer, from, &c->job->times.forward);
    e->computed_ns = clock_now_ns();
    return ST_OK;
}

/* Press and pack of the layer that waits for them. Lanes meet at fences: the press reads what was computed, the layer
 * after the next writes over it. */
static enum status press_layer(struct engine *e, const struct computed_layer *c, struct err *err)
{
    struct backend *be = e->config.be;
    enum status st = await_layer(e, c, err);

    if (st != ST_OK)
        return st;
    be->ops->fence_after(be, LANE_PRESS, c->fence);
    st = handoff_layer(&e->track[c->job->turn.track], c->job, &c->layer, err);
    be->ops->fence_record(be, e->pressed, LANE_PRESS);
    return st;
}

/* Queues the next layer's forward pass: it waits now. */
static enum status forward_layer(struct engine *e, struct job *job, struct computed_layer *out, struct err *err)
{
    struct backend *be = e->config.be;
    enum status st;

    *out = (struct computed_layer){ .job = job, .from = clock_now_ns(), .fence = e->computed[e->computed_next] };
    e->computed_next = 1 - e->computed_next;
    be->ops->fence_after(be, LANE_COMPUTE, e->pressed);
    st = prefill_layer(e->prefill, &job->pass, &job->needs, job->query_tokens, &out->layer, err);
    if (st != ST_OK)
        err_prefix(err, "forward");
    else
        be->ops->fence_record(be, out->fence, LANE_COMPUTE);
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

/* It needs no more turns; from here on the mover may end it. */
static void leave(struct engine *e, struct job *job)
{
    held_close(job->held);
    job->held = NULL;
    if (e->waits.job == job)
        e->waits.job = NULL;
    scheduler_leave(e->config.scheduler, &job->turn);
}

/* `layers` of it are packed, or it failed (false); with its last layer and with a failure it leaves. */
static bool packed(struct engine *e, struct job *job, int32_t layers, enum status st, struct err *err)
{
    check_health(e, err, &st);
    if (st != ST_OK) {
        job_fail(job, err);
    } else {
        if (layers == job->layers)
            finish(e, job);
        __atomic_store_n(&job->packed, layers, __ATOMIC_RELEASE); /* the mover may ship it */
    }
    if (st != ST_OK || layers == job->layers)
        leave(e, job);
    mover_wake(e->config.mover);
    return st == ST_OK;
}

/* Presses and packs the layer that waits, if one does. false: it failed, and its job has left. */
static bool settle(struct engine *e)
{
    const struct computed_layer c = e->waits;
    struct err err = { 0 };

    if (!c.job)
        return true;
    e->waits.job = NULL;
    return packed(e, c.job, c.layer.layer + 1, press_layer(e, &c, &err), &err);
}

/* A turn of a job whose layers go one by one. The forward pass is queued before the layer before it, of whatever job, is
 * pressed: so the lane that computes does not wait for the press, nor for the host. Where the back end keeps one layer
 * only, its own is pressed at once. */
static void layer_turn(struct engine *e, struct job *job)
{
    const struct job *before = e->waits.job;
    const bool last = job->pass.layer + 1 == job->layers;
    struct computed_layer next;
    struct err err = { 0 };
    const enum status st = forward_layer(e, job, &next, &err);

    if (st == ST_OK)
        scheduler_layer(e->config.scheduler, &job->turn); /* its slot is taken from now on */
    if (!settle(e) && before == job)
        return;
    if (st != ST_OK) {
        packed(e, job, job->pass.layer, st, &err);
        return;
    }
    e->waits = next;
    if (last || prefill_layers_kept(e->prefill) == 1)
        settle(e);
}

/* A turn of a job that holds all its layers, or packs one of them. */
static void held_turn(struct engine *e, struct job *job)
{
    struct err err = { 0 };
    const bool holding = !held_ready(job->held);
    enum status st = holding ? hold_layer(job, &err) : one_held_layer(e, job, &err);

    if (holding && st == ST_OK)
        check_health(e, &err, &st);
    if (holding && st == ST_OK)
        return; /* nothing to ship yet */
    if (st == ST_OK)
        scheduler_layer(e->config.scheduler, &job->turn);
    packed(e, job, job->pass.layer, st, &err);
}

/* What orders before this one made the parts of the engine take and keep goes back where it stands in its way. */
static void make_room(struct engine *e, uint64_t bytes)
{
    if (bytes <= room_left(e->config.be))
        return;
    settle(e); /* it looks at what is kept */
    prefill_trim(e->prefill);
    for (int i = 0; i < SCHEDULER_TRACKS; i++)
        press_run_trim(e->track[i].press);
}

/* One turn: a layer, or the end of a job that is not wanted any more. */
static void turn(struct engine *e, struct job *job, bool dropped)
{
    struct err err = { 0 };
    enum status st = ST_OK;

    if (dropped) {
        leave(e, job);
        mover_wake(e->config.mover);
        return;
    }
    if (e->broken) { /* nothing more is queued on a device that failed */
        st = err_set(&err, ST_EINTERNAL, "forward: the device failed");
        packed(e, job, 0, st, &err);
        return;
    }
    if (job->needs.all_layers)
        settle(e); /* it computes, presses and packs in its own buffers, in turn */
    if (job->times.begun == 0) {
        make_room(e, job->room_bytes);
        st = begin(e, job, &err);
    }
    if (st != ST_OK)
        packed(e, job, 0, st, &err);
    else if (job->held)
        held_turn(e, job);
    else
        layer_turn(e, job);
}

/* In a turn from now on, or, 0, waiting for one. relaxed: whoever looks only wants to know how long ago. */
static void turn_is(struct engine *e, int64_t since_ns)
{
    __atomic_store_n(&e->turn_ns, since_ns, __ATOMIC_RELAXED);
}

static void *engine_run(void *arg)
{
    struct engine *e = arg;

    for (;;) {
        struct turn *t;
        bool dropped;
        enum status st;

        turn_is(e, 0);
        st = scheduler_take(e->config.scheduler, &t, &dropped, e->waits.job ? 0 : clock_in_ms(TAKE_MS));
        turn_is(e, clock_now_ns());
        if (st == ST_AGAIN && e->waits.job) { /* nobody's turn: nothing is computed that this would hold up */
            settle(e);
            continue;
        }
        if (st == ST_ECANCELLED)
            break;
        if (st == ST_OK)
            turn(e, CONTAINER_OF(t, struct job, turn), dropped);
    }
    turn_is(e, 0);
    return NULL;
}

static void free_parts(struct engine *e)
{
    struct backend *be = e->config.be;

    be->ops->fence_close(be, e->pressed);
    for (int i = 0; i < 2; i++)
        be->ops->fence_close(be, e->computed[i]);
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
    for (int i = 0; st == ST_OK && i < 2; i++)
        st = be->ops->fence_open(be, &e->computed[i], err);
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

const struct prefill *engine_prefill(const struct engine *e)
{
    return e->prefill;
}

const int64_t *engine_turn(const struct engine *e)
{
    return &e->turn_ns;
}

void engine_close(struct engine *e)
{
    if (!e)
        return;
    pthread_join(e->thread, NULL);
    free_parts(e);
}
