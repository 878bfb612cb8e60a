/* SPDX-License-Identifier: Apache-2.0 */
/*
 * batcher.c - stop 10 of 12: batch.                        before: adopt.c   after: forward.c
 *
 * The engine thread. Each turn of its loop makes one step: one row of every sequence that generates, and as many rows of
 * new questions as still fit; a long question is fed in pieces, so it holds nobody up for longer than one full step.
 *
 *      submit ─▶ [arrivals] ─▶ waiting ─▶ slot ─▶ running ──▶ step ─▶ step ─▶ ... ─▶ finish
 *                                                   ▲  tokens are looked at `behind` steps later ┘
 *
 * On a device that runs by itself the next step is queued before the last one's tokens are known (behind = 1): a
 * sequence's next token is taken on the device, and only its end is learnt one step late. What that last step computed
 * for an ended sequence is dropped.
 *
 * An answer whose press has a decode part is cut down after the step that makes it due (repress.c).
 *
 * Between two steps nothing is allocated, locked, logged or formatted: arrivals are looked for through one atomic count.
 */
#include "decode-node/batcher.h"

#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/base/queue.h"
#include "common/base/thread.h"
#include "common/base/trace.h"
#include "decode-node/forward.h"
#include "decode-node/repress.h"
#include "decode-node/tails.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { BEHIND_MAX = 1, CALLS_MAX = 64, ROOM_WAIT_S = 10 };

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
    int behind;

    struct sequence *waiting, **waiting_end; /* for a slot */
    struct sequence **slot;                  /* [slots]; NULL: free */
    int32_t running;
    struct tails tails;

    struct step step;
    struct step_seq *seq; /* [slots] */
    int32_t *token, *position, *output, *chosen;
    struct flight flight[BEHIND_MAX + 1];
    int flights;

    struct metric *m_running, *m_queued, *m_steps, *m_tokens, *m_step_seconds;
    struct metric *m_compressions, *m_compress_seconds, *m_head_min, *m_head_max, *m_own, *m_own_bytes;
};

/* ---- the door: any thread ------------------------------------------------------------------------------------ */

enum status batcher_reserve(struct batcher *b, int32_t tail_rows, struct err *err)
{
    int64_t rows = (int64_t)tail_pages_of(tail_rows) * KV_PAGE_TOKENS;

    if (rows > b->cfg.tail_tokens_max)
        return err_set(err, ST_ERANGE, "question and answer need %d rows of tail, one sequence may have %d", tail_rows,
                       b->cfg.tail_tokens_max);
    /* relaxed: the counts only bound each other; what they guard is handed over through the queue */
    if (__atomic_add_fetch(&b->sequences, 1, __ATOMIC_RELAXED) > b->cfg.sequences_max) {
        __atomic_sub_fetch(&b->sequences, 1, __ATOMIC_RELAXED);
        return err_set(err, ST_EEXHAUSTED,
                       "queue: %d answers are running or waiting, as many as --sequences-limit allows",
                       b->cfg.sequences_max);
    }
    if (__atomic_add_fetch(&b->tail_rows, rows, __ATOMIC_RELAXED) > b->cfg.tail_tokens) {
        batcher_release(b, tail_rows);
        return err_set(err, ST_EEXHAUSTED, "tails: question and answer need room for %lld tokens, all %d are promised",
                       (long long)rows, b->cfg.tail_tokens);
    }
    return ST_OK;
}

void batcher_release(struct batcher *b, int32_t tail_rows)
{
    __atomic_sub_fetch(&b->sequences, 1, __ATOMIC_RELAXED);
    __atomic_sub_fetch(&b->tail_rows, (int64_t)tail_pages_of(tail_rows) * KV_PAGE_TOKENS, __ATOMIC_RELAXED);
}

static enum status arrive(struct batcher *b, struct arrival *a)
{
    enum status st = queue_put(b->arrivals, a);

    if (st != ST_OK)
        free(a);
    else
        __atomic_add_fetch(&b->arrived, 1, __ATOMIC_RELEASE); /* pairs with the engine's acquire load */
    return st;
}

void batcher_submit(struct batcher *b, struct sequence *s)
{
    struct arrival *a = mem_zero(1, sizeof *a);

    s->slot = -1;
    s->begin_ns = clock_now_ns();
    a->sequence = s;
    if (arrive(b, a) != ST_OK) { /* shut: the node is going down */
        __atomic_store_n(&s->finish, FINISH_CANCELLED, __ATOMIC_RELEASE);
        sem_post(b->cfg.wake);
    }
}

enum status batcher_call(struct batcher *b, void (*fn)(struct batcher *b, void *arg), void *arg)
{
    struct arrival *a = mem_zero(1, sizeof *a);

    a->fn = fn;
    a->arg = arg;
    return arrive(b, a);
}

/* ---- room for an answer with a decode part: asked for at the door, made by the engine between two steps ------------ */

/* Owned by both sides until both are done with it. */
struct room {
    struct batcher *batcher;
    struct repress_ask ask;
    struct repressed *made; /* NULL once the asker has it */
    enum status status;
    struct err err;
    sem_t done;
    int32_t owners; /* atomic */
};

void batcher_repressed_close(struct batcher *b, struct repressed *a)
{
    if (!a)
        return;
    metric_add(b->m_own, -1);
    metric_add(b->m_own_bytes, -(double)repressed_bytes(a));
    repressed_close(a);
}

static void room_leave(struct room *r)
{
    /* acq_rel: the last one frees what the other wrote */
    if (__atomic_sub_fetch(&r->owners, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    batcher_repressed_close(r->batcher, r->made);
    context_unref(r->ask.context);
    sem_destroy(&r->done);
    free(r);
}

/* A context's blocks have moved: the slots that read them are tied to them anew. */
static void tie_again(struct batcher *b, const struct context *c)
{
    for (int32_t i = 0; i < b->cfg.slots; i++)
        if (b->slot[i] && c == (repressed_reads_own(b->slot[i]->own) ? b->slot[i]->own->own : b->slot[i]->context))
            b->be->ops->slot_blocks(b->be, i, c->block);
}

static void moved(void *owner, int64_t by, void *ctx)
{
    context_moved(owner, by);
    tie_again(ctx, owner);
}

void batcher_compact(struct batcher *b, struct blocks *blocks)
{
    blocks_compact(blocks, moved, b);
}

static void compact(void *ctx, struct blocks *blocks)
{
    batcher_compact(ctx, blocks);
}

static void make_room(struct batcher *b, void *arg)
{
    struct room *r = arg;

    r->status = repressed_open(&r->made, &b->repress, &r->ask, compact, b, &r->err);
    if (r->status == ST_OK) {
        metric_add(b->m_own, 1);
        metric_add(b->m_own_bytes, (double)repressed_bytes(r->made));
    }
    context_unref(r->ask.context);
    r->ask.context = NULL;
    sem_post(&r->done);
    room_leave(r);
}

/* False: the engine did not come by in time. */
static bool await_room(struct room *r)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += ROOM_WAIT_S;
    while (sem_timedwait(&r->done, &until) != 0)
        if (errno != EINTR)
            return false;
    return true;
}

enum status batcher_repress(struct batcher *b, const struct repress_ask *ask, struct repressed **out, struct err *err)
{
    struct room *r = mem_zero(1, sizeof *r);
    enum status st;

    r->batcher = b;
    r->ask = *ask;
    context_ref(ask->context);
    r->owners = 2;
    sem_init(&r->done, 0, 0);
    st = batcher_call(b, make_room, r);
    if (st != ST_OK) {
        r->owners = 1;
        st = err_set(err, ST_EEXHAUSTED, "decode part: too many answers wait for room");
    } else if (!await_room(r)) {
        st = err_set(err, ST_EEXHAUSTED, "decode part: the engine made no room within %d s", ROOM_WAIT_S);
    } else {
        st = r->status;
        *out = r->made;
        r->made = NULL;
        if (st != ST_OK && err)
            *err = r->err;
    }
    room_leave(r);
    return st;
}

enum status batcher_health(struct batcher *b, struct err *err)
{
    if (!__atomic_load_n(&b->broken, __ATOMIC_RELAXED))
        return ST_OK;
    enum status st = b->be->ops->health(b->be, err);
    return st != ST_OK ? st : err_set(err, ST_EINTERNAL, "the device failed");
}

int32_t batcher_sequences(struct batcher *b)
{
    return __atomic_load_n(&b->sequences, __ATOMIC_RELAXED);
}

int64_t batcher_tail_tokens(struct batcher *b)
{
    return __atomic_load_n(&b->tail_rows, __ATOMIC_RELAXED);
}

/* ---- the engine thread: sequences in and out ------------------------------------------------------------------ */

/* The sequence is over and no step touches it: everything back, then the word. After the store it is not ours. */
static void let_go(struct batcher *b, struct sequence *s)
{
    if (s->slot >= 0) {
        tails_take_back(&b->tails, s->slot, s->pages);
        b->slot[s->slot] = NULL;
        b->running--;
        metric_set(b->m_running, b->running);
    }
    s->last_ns = clock_now_ns();
    __atomic_store_n(&s->finish, s->ending, __ATOMIC_RELEASE);
    sem_post(b->cfg.wake);
}

/* Decides a sequence's end; it goes at once, or when the last step that touches it is done. hot */
static void end(struct batcher *b, struct sequence *s, enum finish how)
{
    if (s->ending == FINISH_NONE)
        s->ending = how;
    if (s->in_flight == 0)
        let_go(b, s);
}

static enum finish why_stop(const struct batcher *b, const struct sequence *s, int64_t now)
{
    if (__atomic_load_n(&b->broken, __ATOMIC_RELAXED))
        return FINISH_FAILED;
    if (__atomic_load_n(&b->stopping, __ATOMIC_RELAXED) || __atomic_load_n(s->cancelled, __ATOMIC_RELAXED))
        return FINISH_CANCELLED;
    return now >= s->deadline_ns ? FINISH_DEADLINE : FINISH_NONE;
}

/* Cancelled, late and failed sequences leave before the next step. hot */
static void reap(struct batcher *b)
{
    int64_t now = clock_now_ns();

    for (int32_t i = 0; i < b->cfg.slots; i++) {
        struct sequence *s = b->slot[i];
        enum finish how = s && s->ending == FINISH_NONE ? why_stop(b, s, now) : FINISH_NONE;
        if (how != FINISH_NONE)
            end(b, s, how);
    }
    for (struct sequence **at = &b->waiting; *at;) {
        struct sequence *s = *at;
        enum finish how = why_stop(b, s, now);
        if (how == FINISH_NONE) {
            at = &s->next;
            continue;
        }
        *at = s->next;
        if (*at == NULL)
            b->waiting_end = at;
        metric_add(b->m_queued, -1);
        end(b, s, how);
    }
}

/* Gives free slots to those who wait, in order of arrival. */
static void seat(struct batcher *b)
{
    for (int32_t i = 0; i < b->cfg.slots && b->waiting; i++) {
        struct sequence *s = b->waiting;
        if (b->slot[i])
            continue;
        b->waiting = s->next;
        if (b->waiting == NULL)
            b->waiting_end = &b->waiting;
        s->slot = i;
        b->slot[i] = s;
        b->running++;
        if (s->own)
            repressed_seat(s->own, &b->repress, i, s->context);
        b->be->ops->slot_blocks(b->be, i, s->context->block);
        metric_add(b->m_queued, -1);
        metric_set(b->m_running, b->running);
    }
}

static void take_arrival(struct batcher *b, struct arrival *a)
{
    struct sequence *s = a->sequence;

    __atomic_sub_fetch(&b->arrived, 1, __ATOMIC_RELAXED);
    if (a->fn)
        a->fn(b, a->arg);
    if (s) {
        s->next = NULL;
        *b->waiting_end = s;
        b->waiting_end = &s->next;
        metric_add(b->m_queued, 1);
    }
    free(a);
}

/* ---- one step -------------------------------------------------------------------------------------------------- */

/* Positions up to the prompt's end: all of it turns by the frequencies of that length, however it is cut into steps. */
static int32_t prompt_end(const struct sequence *s)
{
    return (int32_t)(s->context->next_position + s->placed - s->fed + s->prompt_tokens);
}

/* Puts `rows` rows of a sequence into the step. hot */
static void put_rows(struct batcher *b, struct sequence *s, int32_t rows, struct flight *f)
{
    struct step_seq *q = &b->seq[b->step.seqs];
    bool generates = s->fed == s->prompt_tokens;

    tails_grow(&b->tails, s->slot, &s->pages, tail_pages_of(s->tail + rows));
    *q = (struct step_seq){
        .slot = s->slot, .row = b->step.rows, .rows = rows, .tail = s->tail, .length = generates ? 0 : prompt_end(s)
    };
    for (int32_t i = 0; i < rows; i++) {
        b->token[q->row + i] = generates ? -1 - s->slot : s->prompt[s->fed + i];
        b->position[q->row + i] = (int32_t)(s->context->next_position + s->placed + i);
    }
    if (s->own && repressed_feed(s->own, &b->repress, q->row, rows, &b->forward.take[b->forward.takes]))
        b->forward.takes++;
    if (!generates)
        s->fed += rows;
    s->tail += rows;
    s->placed += rows;
    b->output[b->step.seqs] = -1;
    if (s->fed == s->prompt_tokens) {
        b->output[b->step.seqs] = q->row + rows - 1;
        f->chooses[f->wanted++] = s;
        s->asked++;
        if (s->own)
            repressed_call(s->own);
    }
    f->touches[f->touched++] = s;
    s->in_flight++;
    b->step.seqs++;
    b->step.rows += rows;
}

/* Fills the step: first every sequence that generates, then questions while rows are left. False: nothing to do. hot */
static bool fill(struct batcher *b, struct flight *f)
{
    f->wanted = f->touched = 0;
    b->step.rows = b->step.seqs = b->forward.takes = 0;
    for (int32_t i = 0; i < b->cfg.slots; i++) {
        struct sequence *s = b->slot[i];
        if (s && s->ending == FINISH_NONE && s->fed == s->prompt_tokens && s->asked < s->max_new)
            put_rows(b, s, 1, f);
    }
    for (int32_t i = 0; i < b->cfg.slots && b->step.rows < b->cfg.rows_max; i++) {
        struct sequence *s = b->slot[i];
        int32_t left = b->cfg.rows_max - b->step.rows;
        if (s && s->ending == FINISH_NONE && s->fed < s->prompt_tokens)
            put_rows(b, s, s->prompt_tokens - s->fed < left ? s->prompt_tokens - s->fed : left, f);
    }
    return b->step.rows > 0;
}

static bool is_end_token(const struct batcher *b, int32_t id)
{
    const struct hparams *hp = &b->cfg.weights->hp;

    for (int32_t i = 0; i < hp->eos_count; i++)
        if (hp->eos_id[i] == id)
            return true;
    return false;
}

/* A token is known. hot */
static void give(struct batcher *b, struct sequence *s, int32_t id)
{
    int32_t n = s->made_count;

    if (s->ending != FINISH_NONE) /* chosen by the step after its end */
        return;
    s->made[n] = id;
    if (n == 0)
        s->first_ns = clock_now_ns();
    __atomic_store_n(&s->made_count, n + 1, __ATOMIC_RELEASE);
    metric_add(b->m_tokens, 1);
    if (is_end_token(b, id))
        s->ending = FINISH_STOP;
    else if (n + 1 == s->max_new)
        s->ending = FINISH_LENGTH;
}

/* Looks at the oldest step under way. hot */
static void collect(struct batcher *b)
{
    struct flight *f = &b->flight[0];
    struct flight done;

    b->be->ops->step_result(b->be, b->flights - 1, b->chosen);
    for (int32_t i = 0; i < f->wanted; i++)
        give(b, f->chooses[i], b->chosen[i]);
    for (int32_t i = 0; i < f->touched; i++) {
        struct sequence *s = f->touches[i];
        if (--s->in_flight == 0 && s->ending != FINISH_NONE)
            let_go(b, s);
    }
    if (f->wanted > 0)
        sem_post(b->cfg.wake);
    done = b->flight[0];
    memmove(&b->flight[0], &b->flight[1], sizeof b->flight - sizeof b->flight[0]);
    b->flight[BEHIND_MAX] = done;
    b->flights--;
}

static void land_all(struct batcher *b)
{
    while (b->flights > 0)
        collect(b);
}

static void run_step(struct batcher *b)
{
    int64_t begin = clock_now_ns(), end;

    b->step.apart = b->forward.takes > 0;
    forward_step(&b->forward, &b->step);
    b->flights++;
    if (b->flights > b->behind)
        collect(b);
    metric_add(b->m_steps, 1);
    end = clock_now_ns();
    metric_observe(b->m_step_seconds, (double)(end - begin) / 1e9);
    trace_add(b->cfg.trace, TRACE_step, 0, TRACE_NO_LAYER, begin, end, (uint64_t)b->step.rows);
    if (b->be->ops->health(b->be, NULL) != ST_OK)
        __atomic_store_n(&b->broken, 1, __ATOMIC_RELAXED);
}

/* ---- decode parts ---------------------------------------------------------------------------------------------- */

/* Cuts a sequence's rows down: its tail is empty afterwards. */
static enum status compress(struct batcher *b, struct sequence *s)
{
    int64_t begin = clock_now_ns(), rows = s->own->head_max + s->tail, done;
    enum status st =
        repressed_press(s->own, &b->repress, s->slot, s->context, s->tail, s->context->next_position + s->placed);

    if (st != ST_OK)
        return st;
    tails_take_back(&b->tails, s->slot, s->pages);
    s->pages = s->tail = 0;
    metric_add(b->m_compressions, 1);
    done = clock_now_ns();
    metric_observe(b->m_compress_seconds, (double)(done - begin) / 1e9);
    trace_add(b->cfg.trace, TRACE_compress, 0, TRACE_NO_LAYER, begin, done, (uint64_t)rows);
    return ST_OK;
}

/* A call of the sequence is over: whatever its decode part does after one. */
static void press_on(struct batcher *b, struct sequence *s)
{
    struct repressed *a = s->own;
    bool due = repressed_due(a, s->context->next_position + s->placed);
    enum status st = ST_OK;

    a->fresh = 0;
    if (due || a->part.cam_merge > 0)
        land_all(b);
    if (b->slot[s->slot] != s || s->ending != FINISH_NONE) /* that was its last token */
        return;
    if (a->part.cam_merge > 0)
        st = repressed_attend(a, &b->repress, s->slot, s->context, s->tail);
    if (st == ST_OK && due)
        st = compress(b, s);
    if (st != ST_OK)
        end(b, s, FINISH_FAILED);
    else if (!due)
        repressed_trim(a);
}

/* After a step: decode parts, and what their answers hold now. hot, but for those that are due */
static void press_all(struct batcher *b)
{
    int64_t least = 0, most = 0;

    for (int32_t i = 0; i < b->cfg.slots; i++) {
        struct sequence *s = b->slot[i];

        if (s && s->own && s->own->fresh > 0 && s->ending == FINISH_NONE)
            press_on(b, s);
        s = b->slot[i];
        if (!s || !s->own)
            continue;
        repressed_hold(s->own, s->tail);
        if (most == 0 || s->own->head_min + s->tail < least)
            least = s->own->head_min + s->tail;
        if (s->own->head_max + s->tail > most)
            most = s->own->head_max + s->tail;
    }
    metric_set(b->m_head_min, (double)least);
    metric_set(b->m_head_max, (double)most);
}

/* ---- the loop -------------------------------------------------------------------------------------------------- */

/* Takes what has arrived; waits for something when there is nothing to do. False: told to stop, and empty. */
static bool intake(struct batcher *b, bool idle)
{
    void *item;

    if (idle) {
        enum status st = queue_take(b->arrivals, &item, clock_in_ms(1000));
        if (st == ST_OK)
            take_arrival(b, item);
        else if (st == ST_ECANCELLED)
            return false;
    }
    if (__atomic_load_n(&b->arrived, __ATOMIC_ACQUIRE) == 0)
        return true;
    land_all(b); /* calls want no step under way */
    while (queue_take(b->arrivals, &item, 0) == ST_OK)
        take_arrival(b, item);
    return true;
}

static void *engine(void *arg)
{
    struct batcher *b = arg;
    bool idle = true;

    while (intake(b, idle)) {
        reap(b);
        seat(b);
        if (fill(b, &b->flight[b->flights]))
            run_step(b);
        else
            land_all(b);
        press_all(b);
        idle = b->running == 0 && b->waiting == NULL;
    }
    return NULL;
}

/* ---- open and close -------------------------------------------------------------------------------------------- */

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
    for (int i = 0; i <= BEHIND_MAX; i++) {
        b->flight[i].chooses = mem_zero(slots, sizeof(struct sequence *));
        b->flight[i].touches = mem_zero(slots, sizeof(struct sequence *));
    }
    b->step = (struct step){ .seq = b->seq, .token = b->token, .position = b->position, .output = b->output };
}

static void lay_down(struct batcher *b)
{
    tails_close(&b->tails);
    for (int i = 0; i <= BEHIND_MAX; i++) {
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
    b->behind = b->be->ops->host_is_device ? 0 : BEHIND_MAX;
    b->arrivals = queue_open("arrivals", (size_t)config->sequences_max + CALLS_MAX);
    lay_out(b);
    register_metrics(b, config->metrics);
    repress_init(&b->repress, b->be, config->weights);
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
