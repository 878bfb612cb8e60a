/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mover.c - stop 8 of 12: ship.                     before: handoff.c   after: decode-node/adopt.c
 *
 *   job:  ─▶ queued, forward ─▶ block packed ─▶ shipping ─▶ ... ─▶ all left ─▶ Commit ─▶ Adopted ─▶ end
 *                 └───────────────────┴─────────────┴────── failed, or nobody waits ──────────▶ end
 *
 * One loop over all jobs, which never waits for one of them: each ships what it can (ship.c), so that a peer that reads
 * slowly holds up its own job only. A job that is over ends here, once, after the engine let go of it; its track is free as
 * soon as its last block has left.
 */
#include "prefill-node/mover_inside.h"

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/thread.h"
#include "proto/platen/internal/v1/prefill.pb-c.h"

#include <assert.h>
#include <stdlib.h>

enum { TICK_MS = 100 };

/* ---- what a job says ------------------------------------------------------------------------------------------- */

static void say_beat(struct job *j, int64_t now)
{
    Platen__Internal__V1__FromPrefill msg = PLATEN__INTERNAL__V1__FROM_PREFILL__INIT;
    Platen__Internal__V1__Beat beat = PLATEN__INTERNAL__V1__BEAT__INIT;

    if (now < j->beat_ns)
        return;
    beat.stage = (char *)job_stage(j);
    beat.layer = __atomic_load_n(&j->packed, __ATOMIC_RELAXED);
    msg.kind_case = PLATEN__INTERNAL__V1__FROM_PREFILL__KIND_BEAT;
    msg.beat = &beat;
    if (j->peer->say(j->peer_ctx, &msg) == ST_OK)
        j->beat_ns = now + MOVER_BEAT_MS * NS_PER_MS;
}

static double ms_of(int64_t ns)
{
    return (double)ns / (double)NS_PER_MS;
}

/* Everything has left: says so. ST_AGAIN: the stream has no room now. */
static enum status say_commit(struct job *j)
{
    Platen__Internal__V1__FromPrefill msg = PLATEN__INTERNAL__V1__FROM_PREFILL__INIT;
    Platen__Internal__V1__Commit commit = PLATEN__INTERNAL__V1__COMMIT__INIT;
    enum status st;

    shipper_totals(j->shipper, &commit);
    if (!j->transfer)
        commit.queue_ms = ms_of(j->times.begun - j->times.arrived);
    commit.forward_ms = ms_of(j->times.forward);
    commit.press_ms = ms_of(j->times.press);
    commit.pack_ms = ms_of(j->times.pack);
    commit.ship_ms = ms_of(j->times.ship);
    commit.stall_ms = ms_of(j->turn.stall_ns);
    commit.next_position = j->next_position;
    msg.kind_case = PLATEN__INTERNAL__V1__FROM_PREFILL__KIND_COMMIT;
    msg.commit = &commit;
    st = j->peer->say(j->peer_ctx, &msg);
    if (st == ST_OK) {
        j->committed = true;
        j->times.committed = clock_now_ns();
    }
    return st;
}

/* ---- the end --------------------------------------------------------------------------------------------------- */

static void log_end(const struct job *j, const struct err *why, uint64_t wire_bytes, int64_t now)
{
    struct log_text quoted;

    log_event(why->code == ST_OK || why->code == ST_ECANCELLED ? LOG_INFO : LOG_WARN, "order-end",
              "request=%s decode_node=%s attempt=%d status=%s tokens=%lld rows=%llu wire_bytes=%llu transport=%s "
              "forward_ms=%.1f press_ms=%.1f pack_ms=%.1f ship_ms=%.1f stall_ms=%.1f total_ms=%.1f why=%s",
              j->request_id, j->decode_node, j->attempt, status_word(why->code), (long long)j->tokens,
              (unsigned long long)j->rows, (unsigned long long)wire_bytes, j->transport->name, ms_of(j->times.forward),
              ms_of(j->times.press), ms_of(j->times.pack), ms_of(j->times.ship), ms_of(j->turn.stall_ns),
              ms_of(now - j->times.arrived), log_quote(&quoted, why->text));
}

/* The engine has let go of it: everything goes back, and the peer is told. The stream ends before the link does, so that
 * nothing on it still wants the slots. */
static void end(struct mover *m, struct job *j, const struct err *why)
{
    const uint64_t bytes = j->shipper ? shipper_bytes(j->shipper) : 0;
    const int64_t now = clock_now_ns();

    j->peer->end(j->peer_ctx, why);
    if (j->shipper)
        ship_tell_ready(j);
    if (why->code != ST_OK)
        shipper_doubt(j->shipper);
    shipper_close(j->shipper);
    scheduler_end(m->scheduler, &j->turn);
    stats_count_end(m->stats, j, why->code, bytes, now);
    log_end(j, why, bytes, now);
    if (j->peer->free)
        j->peer->free(j->peer_ctx);
    __atomic_fetch_sub(&m->count, 1, __ATOMIC_RELAXED);
    job_unref(j);
}

/* Why the job is over, if it is. */
static bool is_over(struct job *j, struct err *why)
{
    if (j->committed && __atomic_load_n(&j->adopted, __ATOMIC_RELAXED))
        return true;
    if (job_failed(j)) {
        pthread_mutex_lock(&j->lock);
        *why = j->why;
        pthread_mutex_unlock(&j->lock);
        return true;
    }
    if (__atomic_load_n(&j->gone, __ATOMIC_RELAXED) || j->peer->gone(j->peer_ctx)) {
        err_set(why, ST_ECANCELLED, "%s: the decode node went away", job_stage(j));
        return true;
    }
    return false;
}

/* One look at one job; true when it has ended and is no more. */
static bool tend(struct mover *m, struct job *j, int64_t now)
{
    struct err why = { 0 };
    enum status st;

    if (is_over(j, &why)) {
        scheduler_drop(m->scheduler, &j->turn);
        if (!scheduler_has_left(m->scheduler, &j->turn))
            return false; /* the engine will let go of it before its next layer, and wake us */
        end(m, j, &why);
        return true;
    }
    say_beat(j, now);
    if (j->committed) {
        if (now - j->times.committed > MOVER_ADOPT_MS * NS_PER_MS) {
            err_set(&why, ST_EDEADLINE, "adopt: the decode node did not say Adopted");
            job_fail(j, &why);
        }
        return false;
    }
    st = ship(m, j, &why);
    if (st < 0) {
        err_prefix(&why, "ship");
        job_fail(j, &why);
    } else if (j->shipped == j->layers && scheduler_has_left(m->scheduler, &j->turn)) {
        scheduler_end(m->scheduler, &j->turn);
        say_commit(j);
    }
    return false;
}

/* ---- the thread ------------------------------------------------------------------------------------------------ */

/* Waits for news or a tick; takes in new jobs. False: stopped. */
static bool wait_for_news(struct mover *m)
{
    const int64_t deadline = clock_in_ms(m->jobs ? TICK_MS : 60000);
    bool going_on;

    pthread_mutex_lock(&m->lock);
    while (!m->news && !m->stopped && cond_wait(&m->news_came, &m->lock, deadline))
        ;
    m->news = false;
    while (m->incoming) {
        struct job *j = m->incoming;

        m->incoming = j->next;
        j->next = m->jobs;
        m->jobs = j;
    }
    going_on = !m->stopped;
    pthread_mutex_unlock(&m->lock);
    return going_on;
}

static void *mover_run(void *arg)
{
    struct mover *m = arg;

    while (wait_for_news(m)) {
        const int64_t now = clock_now_ns();

        for (struct job **at = &m->jobs; *at;) {
            struct job *j = *at, *next = j->next;

            if (tend(m, j, now))
                *at = next;
            else
                at = &j->next;
        }
    }
    return NULL;
}

enum status mover_open(struct mover **out, struct scheduler *scheduler, struct stats *stats, struct backend *be,
                       struct err *err)
{
    struct mover *m = mem_zero(1, sizeof *m);
    enum status st;

    m->scheduler = scheduler;
    m->stats = stats;
    m->be = be;
    pthread_mutex_init(&m->lock, NULL);
    cond_init(&m->news_came);
    st = thread_start(&m->thread, "mover", mover_run, m, err);
    if (st != ST_OK) {
        free(m);
        return st;
    }
    *out = m;
    return ST_OK;
}

void mover_close(struct mover *m)
{
    if (!m)
        return;
    pthread_mutex_lock(&m->lock);
    m->stopped = true;
    pthread_cond_signal(&m->news_came);
    pthread_mutex_unlock(&m->lock);
    pthread_join(m->thread, NULL);
    assert(!m->jobs && !m->incoming);
    pthread_cond_destroy(&m->news_came);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

void mover_take(struct mover *m, struct job *job)
{
    __atomic_fetch_add(&m->count, 1, __ATOMIC_RELAXED);
    job->beat_ns = clock_in_ms(MOVER_BEAT_MS);
    pthread_mutex_lock(&m->lock);
    job->next = m->incoming;
    m->incoming = job;
    m->news = true;
    pthread_cond_signal(&m->news_came);
    pthread_mutex_unlock(&m->lock);
}

void mover_wake(void *mover)
{
    struct mover *m = mover;

    pthread_mutex_lock(&m->lock);
    m->news = true;
    pthread_cond_signal(&m->news_came);
    pthread_mutex_unlock(&m->lock);
}

int32_t mover_jobs(struct mover *m)
{
    return __atomic_load_n(&m->count, __ATOMIC_RELAXED);
}
