/* SPDX-License-Identifier: Apache-2.0 */
/*
 * batcher.c - stop 10 of 12: batch.                        before: adopt.c   after: forward.c
 *
 * The engine thread. Each turn of its loop makes one step: one row of every sequence that generates, and as many rows of
 * new questions as still fit; a long question is fed in pieces, so it holds nobody up for longer than one full step.
 *
 *      submit ─▶ [arrivals] ─▶ waiting ─▶ slot ─▶ running ──▶ step ─▶ step ─▶ ... ─▶ finish
 *      batcher_door.c          batcher_seats.c                batcher_step.c, batcher_press.c
 *
 * Between two steps nothing is allocated, locked, logged or formatted: arrivals are looked for through one atomic count.
 */
#include "decode-node/batcher_inside.h"

#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/base/thread.h"

#include <stdlib.h>

/* Calls that may lie in the arrivals queue beside one arrival of every sequence. */
enum { CALLS_MAX = 64 };

/* In a turn from now on, or, 0, waiting for work. relaxed: whoever looks only wants to know how long ago. hot */
static void turn_is(struct batcher *b, int64_t since_ns)
{
    __atomic_store_n(&b->turn_ns, since_ns, __ATOMIC_RELAXED);
}

/* Takes what has arrived; waits for something when there is nothing to do. False: told to stop, and empty. */
static bool intake(struct batcher *b, bool idle)
{
    void *item;

    if (idle) {
        enum status st;

        turn_is(b, 0);
        st = queue_take(b->arrivals, &item, clock_in_ms(1000));
        turn_is(b, clock_now_ns());
        if (st == ST_OK)
            batcher_take(b, item);
        else if (st == ST_ECANCELLED)
            return false;
    }
    if (__atomic_load_n(&b->arrived, __ATOMIC_ACQUIRE) == 0)
        return true;
    batcher_land(b); /* calls want no step under way */
    while (queue_take(b->arrivals, &item, 0) == ST_OK)
        batcher_take(b, item);
    return true;
}

static void *engine(void *arg)
{
    struct batcher *b = arg;
    bool idle = true;

    while (intake(b, idle)) {
        batcher_reap(b);
        batcher_seat(b);
        if (!batcher_step(b))
            batcher_land(b);
        batcher_press(b);
        idle = b->running == 0 && b->waiting == NULL;
        turn_is(b, clock_now_ns());
    }
    turn_is(b, 0);
    return NULL;
}

static void register_metrics(struct batcher *b, struct metrics *m)
{
    b->m_running = metrics_gauge(m, "platen_decode_sequences_running", NULL, "answers that have a slot");
    b->m_queued = metrics_gauge(m, "platen_decode_sequences_queued", NULL, "answers that wait for a slot");
    b->m_steps = metrics_counter(m, "platen_decode_steps_total", NULL, "steps of the batch");
    b->m_tokens = metrics_counter(m, "platen_decode_tokens_total", NULL, "tokens generated");
    b->m_step_seconds = metrics_histogram(m, "platen_decode_step_seconds", NULL, "time of one step", metric_seconds,
                                          ARRAY_LEN(metric_seconds));
    b->m_compressions = metrics_counter(m, "platen_decode_compressions_total", NULL,
                                        "times that a decode part cut the rows of an answer");
    b->m_compress_seconds = metrics_histogram(m, "platen_decode_compress_seconds", NULL, "time of one such cut",
                                              metric_seconds, ARRAY_LEN(metric_seconds));
    b->m_head_min = metrics_gauge(m, "platen_decode_part_head_rows_min", NULL,
                                  "rows of the shortest head of the answers with a decode part");
    b->m_head_max = metrics_gauge(m, "platen_decode_part_head_rows_max", NULL,
                                  "rows of the longest head of the answers with a decode part");
    b->m_own = metrics_gauge(m, "platen_decode_own_blocks", NULL,
                             "answers that have blocks of their own besides their context's");
    b->m_own_bytes = metrics_gauge(m, "platen_decode_own_blocks_bytes", NULL, "bytes of those");
}

static void lay_out(struct batcher *b)
{
    size_t slots = (size_t)b->cfg.slots;

    b->waiting_end = &b->waiting;
    b->slot = mem_zero(slots, sizeof *b->slot);
    b->seq = mem_zero(slots, sizeof *b->seq);
    b->output = mem_zero(slots, sizeof *b->output);
    b->chosen = mem_zero(slots, sizeof *b->chosen);
    b->token = mem_zero((size_t)b->cfg.rows_max, sizeof *b->token);
    b->position = mem_zero((size_t)b->cfg.rows_max, sizeof *b->position);
    for (int i = 0; i <= BATCHER_BEHIND_MAX; i++) {
        b->flight[i].chooses = mem_zero(slots, sizeof(struct sequence *));
        b->flight[i].touches = mem_zero(slots, sizeof(struct sequence *));
    }
    b->step = (struct step){ .seq = b->seq, .token = b->token, .position = b->position, .output = b->output };
}

static void lay_down(struct batcher *b)
{
    tails_close(&b->tails);
    for (int i = 0; i <= BATCHER_BEHIND_MAX; i++) {
        free(b->flight[i].chooses);
        free(b->flight[i].touches);
    }
    free(b->slot);
    free(b->seq);
    free(b->output);
    free(b->chosen);
    free(b->token);
    free(b->position);
    queue_close(b->arrivals);
    free(b);
}

enum status batcher_open(struct batcher **out, const struct batcher_config *config, struct err *err)
{
    struct batcher *b = mem_zero(1, sizeof *b);
    const struct hparams *hp = &config->weights->hp;
    struct cache_config cache = { .slots = config->slots,
                                  .rows_max = config->rows_max,
                                  .layers = hp->layers,
                                  .q_heads = hp->q_heads,
                                  .kv_heads = hp->kv_heads,
                                  .dim = hp->head_dim,
                                  .replay = true };
    enum status st;

    b->cfg = *config;
    b->be = config->be;
    b->behind = b->be->ops->host_is_device ? 0 : BATCHER_BEHIND_MAX;
    b->arrivals = queue_open("arrivals", (size_t)config->sequences_max + CALLS_MAX);
    lay_out(b);
    register_metrics(b, config->metrics);
    repress_init(&b->repress, b->be, config->weights, config->rows_max);
    tails_open(&b->tails, b->be, hp, config->slots, config->tail_tokens, config->tail_tokens_max, config->rows_max,
               config->metrics);
    tails_describe(&b->tails, &cache);
    st = b->be->ops->cache_open(b->be, &cache, err);
    if (st != ST_OK)
        goto fail;
    st = forward_open(&b->forward, b->be, config->weights, config->rows_max, config->slots, err);
    if (st != ST_OK)
        goto fail_cache;
    st = thread_start(&b->thread, "engine", engine, b, err);
    if (st != ST_OK)
        goto fail_forward;
    *out = b;
    return ST_OK;
fail_forward:
    forward_close(&b->forward);
fail_cache:
    b->be->ops->cache_close(b->be);
fail:
    lay_down(b);
    return st;
}

const int64_t *batcher_turn(const struct batcher *b)
{
    return &b->turn_ns;
}

void batcher_close(struct batcher *b)
{
    if (b == NULL)
        return;
    __atomic_store_n(&b->stopping, 1, __ATOMIC_RELAXED);
    queue_shut(b->arrivals);
    pthread_join(b->thread, NULL);
    repress_fini(&b->repress);
    forward_close(&b->forward);
    b->be->ops->cache_close(b->be);
    lay_down(b);
}
