/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nccl_pair.c - one communicator's life on one thread.
 *
 *   posts     QUEUED ──in order──▶ RUNNING ──event passed──▶ DONE
 *                └─────────────────────┴────── pair lost ───▶ LOST
 *
 * The lock is never held while NCCL or the driver is called, so whoever looks at a pair never hangs with it. Between the
 * moment a pair is lost and the moment its abort has come back, NCCL may still write into a posted place: only ENDED frees
 * the memory of what was RUNNING.
 */
#include "common/transport/nccl_pair.h"

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/thread.h"

#include <assert.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

const struct nccl_times nccl_times_default = {
    .make_ms = 15000, .post_ms = 10000, .grace_ms = 300, .abort_ms = 1500, .doubt_ms = 2000, .idle_ms = 600000
};

enum { CTAS_MIN = 1, CTAS_MAX = 16, IDLE_MS = 500 };
enum { SPIN_NS = 2000000, SLOW_NS = 20000000, NAP_NS = 20000, SLOW_NAP_NS = 500000 };

enum post_state { POST_QUEUED, POST_RUNNING, POST_DONE };

struct pair_post {
    struct pair_post *next;
    enum post_state state;
    bool orphan; /* its owner gave up on it: the pair frees it */
    uint64_t number, bytes;
    void *data;
    void *event;
    int64_t begin_ns;
    void (*wake)(void *ctx);
    void *ctx;
};

struct pair {
    struct pair_config config;
    int32_t refs;        /* atomic */
    void *comm, *stream; /* the thread's own */

    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t news;  /* for the thread */
    pthread_cond_t told;  /* for pair_forget */
    enum pair_state state;
    bool losing; /* somebody wants it gone */
    struct err why;
    uint64_t next_number;    /* receiver: given to the next receive; sender: that may go out next */
    struct pair_post *posts; /* in order of their numbers */
    int64_t doubt_ns;        /* when it is lost unless it is trusted again; 0: it is trusted */
    int64_t call_ns;         /* when the thread entered NCCL; 0: it has not */
};

/* ---- seen from outside ------------------------------------------------------------------------------------------ */

void pair_ref(struct pair *p)
{
    __atomic_fetch_add(&p->refs, 1, __ATOMIC_RELAXED);
}

void pair_unref(struct pair *p)
{
    if (!p || __atomic_sub_fetch(&p->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    while (p->posts) {
        struct pair_post *post = p->posts;

        assert(post->orphan);
        p->posts = post->next;
        free(post);
    }
    pthread_cond_destroy(&p->told);
    pthread_cond_destroy(&p->news);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

/* Under lock. */
static void lose(struct pair *p, const char *why)
{
    if (p->losing)
        return;
    p->losing = true;
    err_set(&p->why, ST_EUNAVAILABLE, "nccl: %s", why);
    if (p->state != PAIR_ENDED)
        p->state = PAIR_LOST;
    for (struct pair_post *post = p->posts; post; post = post->next) {
        if (post->wake)
            post->wake(post->ctx);
    }
    pthread_cond_signal(&p->news);
    pthread_cond_broadcast(&p->told);
}

void pair_lose(struct pair *p, const char *why)
{
    pthread_mutex_lock(&p->lock);
    lose(p, why);
    pthread_mutex_unlock(&p->lock);
}

void pair_doubt(struct pair *p, int64_t ms)
{
    pthread_mutex_lock(&p->lock);
    p->doubt_ns = clock_in_ms(ms);
    pthread_cond_signal(&p->news); /* it may rest for longer */
    pthread_mutex_unlock(&p->lock);
}

void pair_trust(struct pair *p)
{
    pthread_mutex_lock(&p->lock);
    p->doubt_ns = 0;
    pthread_mutex_unlock(&p->lock);
}

enum pair_state pair_state(struct pair *p, struct err *why)
{
    enum pair_state state;

    pthread_mutex_lock(&p->lock);
    state = p->state;
    if (why && p->losing)
        *why = p->why;
    pthread_mutex_unlock(&p->lock);
    return state;
}

uint64_t pair_generation(const struct pair *p)
{
    return p->config.generation;
}

struct nccl_id pair_id(const struct pair *p)
{
    return p->config.id;
}

int64_t pair_in_call_ns(struct pair *p)
{
    int64_t since;

    pthread_mutex_lock(&p->lock);
    since = p->call_ns ? clock_now_ns() - p->call_ns : 0;
    pthread_mutex_unlock(&p->lock);
    return since;
}

/* ---- posts ------------------------------------------------------------------------------------------------------ */

static struct pair_post *post_open(void *data, uint64_t bytes, void (*wake)(void *ctx), void *ctx)
{
    struct pair_post *post = mem_zero(1, sizeof *post);

    post->data = data;
    post->bytes = bytes;
    post->wake = wake;
    post->ctx = ctx;
    return post;
}

/* Under lock. */
static void post_insert(struct pair *p, struct pair_post *post)
{
    struct pair_post **at = &p->posts;

    while (*at && (*at)->number <= post->number)
        at = &(*at)->next;
    post->next = *at;
    *at = post;
    pthread_cond_signal(&p->news);
}

/* Under lock. */
static void post_remove(struct pair *p, struct pair_post *post)
{
    struct pair_post **at = &p->posts;

    while (*at != post)
        at = &(*at)->next;
    *at = post->next;
}

struct pair_post *pair_recv(struct pair *p, void *into, uint64_t bytes, void (*wake)(void *ctx), void *ctx,
                            uint64_t *number)
{
    struct pair_post *post = post_open(into, bytes, wake, ctx);

    assert(p->config.rank == NCCL_RECEIVER);
    pthread_mutex_lock(&p->lock);
    *number = post->number = p->next_number++;
    post_insert(p, post);
    pthread_mutex_unlock(&p->lock);
    return post;
}

struct pair_post *pair_send(struct pair *p, const void *from, uint64_t bytes, void (*wake)(void *ctx), void *ctx,
                            uint64_t number)
{
    struct pair_post *post = post_open((void *)from, bytes, wake, ctx);

    assert(p->config.rank == NCCL_SENDER);
    post->number = number;
    pthread_mutex_lock(&p->lock);
    post_insert(p, post);
    pthread_mutex_unlock(&p->lock);
    return post;
}

enum status pair_poll(struct pair *p, struct pair_post *post, struct err *err)
{
    enum status st = ST_OK;

    pthread_mutex_lock(&p->lock);
    if (!post || post->state != POST_DONE)
        st = p->losing ? err_set(err, ST_EUNAVAILABLE, "%s", p->why.text) : post ? ST_AGAIN : ST_OK;
    pthread_mutex_unlock(&p->lock);
    return st;
}

/* Whether NCCL can no longer touch the post's memory. Under lock. */
static bool let_go(const struct pair *p, const struct pair_post *post)
{
    return post->state == POST_DONE || p->state == PAIR_ENDED || (p->losing && post->state == POST_QUEUED);
}

static bool wait_let_go(struct pair *p, const struct pair_post *post, int64_t ms)
{
    const int64_t deadline = clock_in_ms(ms);

    while (!let_go(p, post) && clock_now_ns() < deadline)
        cond_wait(&p->told, &p->lock, deadline);
    return let_go(p, post);
}

enum status pair_forget(struct pair *p, struct pair_post *post)
{
    bool free_now;

    if (!post)
        return ST_OK;
    pthread_mutex_lock(&p->lock);
    post->wake = NULL;
    free_now = wait_let_go(p, post, p->config.times.grace_ms);
    if (!free_now) {
        lose(p, "an order ended in the middle of a layer");
        free_now = wait_let_go(p, post, p->config.times.abort_ms);
    }
    if (free_now)
        post_remove(p, post);
    else
        post->orphan = true;
    pthread_mutex_unlock(&p->lock);
    if (free_now)
        free(post);
    return free_now ? ST_OK : ST_EDEADLINE;
}

/* ---- the thread -------------------------------------------------------------------------------------------------- */

/* A block takes some hundred microseconds and a sleep not much less: looks again at once while something is young. */
static void rest(int64_t begin_ns)
{
    const int64_t age = clock_now_ns() - begin_ns;

    if (age < SPIN_NS)
        sched_yield();
    else
        nanosleep(&(struct timespec){ 0, age < SLOW_NS ? NAP_NS : SLOW_NAP_NS }, NULL);
}

/* Under lock. */
static void lose_if_doubted(struct pair *p)
{
    if (p->doubt_ns > 0 && clock_now_ns() >= p->doubt_ns)
        lose(p, "nobody came for it: its peer may be gone");
}

/* Whether somebody wants it gone, or its time of doubt is over. */
static bool losing(struct pair *p)
{
    bool is;

    pthread_mutex_lock(&p->lock);
    lose_if_doubted(p);
    is = p->losing;
    pthread_mutex_unlock(&p->lock);
    return is;
}

/* Around every call of NCCL, so that those who watch see one that hangs. */
static void call_begins(struct pair *p)
{
    pthread_mutex_lock(&p->lock);
    p->call_ns = clock_now_ns();
    pthread_mutex_unlock(&p->lock);
}

static void call_ends(struct pair *p)
{
    pthread_mutex_lock(&p->lock);
    p->call_ns = 0;
    pthread_mutex_unlock(&p->lock);
}

static bool lose_by(struct pair *p, const char *what, const char *why)
{
    struct err err = { 0 };

    err_set(&err, ST_EUNAVAILABLE, "%s: %s", what, why);
    pair_lose(p, err.text);
    return false;
}

/* Judges a result of NCCL; one that is still in progress is waited for. False: the pair is lost. */
static bool settled(struct pair *p, int result, const char *what, int64_t deadline_ns)
{
    const struct nccl_table *nccl = p->config.nccl;
    const int64_t begin = clock_now_ns();

    while (result == NCCL_IN_PROGRESS && p->comm && !losing(p)) {
        int state = NCCL_OK;

        if (clock_now_ns() >= deadline_ns)
            return lose_by(p, what, "not done in time");
        if (nccl->comm_state(p->comm, &state) != NCCL_OK)
            return lose_by(p, what, "its state cannot be asked");
        result = state;
        if (result == NCCL_IN_PROGRESS)
            rest(begin);
    }
    if (result != NCCL_OK && result != NCCL_IN_PROGRESS)
        return lose_by(p, what, nccl->error_text(result));
    return !losing(p);
}

static bool cuda_fine(struct pair *p, int result, const char *what)
{
    struct err err = { 0 };

    if (cuda_check(p->config.cuda, result, what, &err) == ST_OK)
        return true;
    pair_lose(p, err.text);
    return false;
}

static bool open_stream(struct pair *p)
{
    const struct cuda_table *cuda = p->config.cuda;
    int least = 0, greatest = 0;

    return cuda_fine(p, cuda->context_set(p->config.context), "device") &&
           cuda_fine(p, cuda->priorities(&least, &greatest), "priorities") &&
           cuda_fine(p, cuda->stream_open(&p->stream, CUDA_STREAM_NON_BLOCKING, greatest), "stream");
}

static bool make(struct pair *p)
{
    struct nccl_config config = { .size = sizeof config,
                                  .magic = NCCL_CONFIG_MAGIC,
                                  .version = NCCL_CONFIG_VERSION,
                                  .blocking = 0,
                                  .cga_size = INT_MIN,
                                  .ctas_min = CTAS_MIN,
                                  .ctas_max = CTAS_MAX,
                                  .split_share = INT_MIN };
    const int64_t deadline = clock_in_ms(p->config.times.make_ms);
    int result;

    if (losing(p) || !open_stream(p))
        return false;
    call_begins(p);
    result = p->config.nccl->comm_open(&p->comm, 2, p->config.id, p->config.rank, &config);
    call_ends(p);
    if (!settled(p, result, "communicator", deadline))
        return false;
    pthread_mutex_lock(&p->lock);
    if (!p->losing)
        p->state = PAIR_UP;
    pthread_mutex_unlock(&p->lock);
    return true;
}

/* The next post that may go out: receives as they were posted, sends when theirs is the next number. */
static struct pair_post *next_post(struct pair *p)
{
    for (struct pair_post *post = p->posts; post; post = post->next) {
        if (post->state != POST_QUEUED)
            continue;
        return p->config.rank == NCCL_RECEIVER || post->number == p->next_number ? post : NULL;
    }
    return NULL;
}

/* Gives a post to NCCL. It is RUNNING from before the call: the call itself may hang with it. */
static bool issue(struct pair *p, struct pair_post *post)
{
    const struct nccl_table *nccl = p->config.nccl;
    const struct cuda_table *cuda = p->config.cuda;
    const bool sends = p->config.rank == NCCL_SENDER;
    int result;

    call_begins(p);
    if (sends)
        result = nccl->send(post->data, post->bytes, NCCL_BYTE, NCCL_RECEIVER, p->comm, p->stream);
    else
        result = nccl->recv(post->data, post->bytes, NCCL_BYTE, NCCL_SENDER, p->comm, p->stream);
    call_ends(p);
    return settled(p, result, sends ? "send" : "receive", clock_in_ms(p->config.times.post_ms)) &&
           cuda_fine(p, cuda->event_open(&post->event, CUDA_EVENT_NO_TIMING), "event") &&
           cuda_fine(p, cuda->event_record(post->event, p->stream), "event");
}

static struct pair_post *running_post(struct pair *p)
{
    for (struct pair_post *post = p->posts; post; post = post->next) {
        if (post->state == POST_RUNNING)
            return post;
    }
    return NULL;
}

static void post_done(struct pair *p, struct pair_post *post)
{
    p->config.cuda->event_close(post->event);
    pthread_mutex_lock(&p->lock);
    post->event = NULL;
    post->state = POST_DONE;
    if (post->wake)
        post->wake(post->ctx);
    pthread_cond_broadcast(&p->told);
    pthread_mutex_unlock(&p->lock);
}

/* Looks at the oldest that runs: they end in their order. */
static bool tend(struct pair *p, struct pair_post *post)
{
    const int result = p->config.cuda->event_query(post->event);
    int state = NCCL_OK;

    if (result == CUDA_SUCCESS_CODE) {
        post_done(p, post);
        return true;
    }
    if (result != CUDA_NOT_READY)
        return cuda_fine(p, result, "transfer");
    if (p->config.nccl->comm_state(p->comm, &state) != NCCL_OK || (state != NCCL_OK && state != NCCL_IN_PROGRESS))
        return lose_by(p, "transfer", p->config.nccl->error_text(state));
    if (clock_now_ns() - post->begin_ns > p->config.times.post_ms * NS_PER_MS)
        return lose_by(p, "transfer", "the peer is silent");
    rest(post->begin_ns);
    return true;
}

/* One round: something issued, something looked at, or a rest. False: the pair is lost. */
static bool work(struct pair *p)
{
    struct pair_post *post, *running;
    int64_t until = clock_in_ms(IDLE_MS);
    bool going_on;

    pthread_mutex_lock(&p->lock);
    lose_if_doubted(p);
    post = next_post(p);
    running = running_post(p);
    if (p->doubt_ns > 0 && p->doubt_ns < until)
        until = p->doubt_ns;
    if (!p->losing && !post && !running)
        cond_wait(&p->news, &p->lock, until);
    if (!p->losing && post) {
        post->state = POST_RUNNING;
        post->begin_ns = clock_now_ns();
        p->next_number += p->config.rank == NCCL_SENDER;
    }
    going_on = !p->losing;
    pthread_mutex_unlock(&p->lock);
    if (going_on && post)
        return issue(p, post);
    return going_on && (!running || tend(p, running));
}

static void *take_event(struct pair *p)
{
    void *event = NULL;

    pthread_mutex_lock(&p->lock);
    for (struct pair_post *post = p->posts; post && !event; post = post->next) {
        event = post->event;
        post->event = NULL;
    }
    pthread_mutex_unlock(&p->lock);
    return event;
}

/* NCCL lets go of everything, or this thread stays here. */
static void end(struct pair *p)
{
    const struct cuda_table *cuda = p->config.cuda;

    if (p->comm) {
        call_begins(p);
        p->config.nccl->comm_abort(p->comm);
        call_ends(p);
    }
    for (void *event = take_event(p); event; event = take_event(p))
        cuda->event_close(event);
    if (p->stream)
        cuda->stream_close(p->stream);
}

static void *pair_run(void *arg)
{
    struct pair *p = arg;

    if (make(p))
        while (work(p))
            ;
    end(p);
    pthread_mutex_lock(&p->lock);
    p->state = PAIR_ENDED;
    for (struct pair_post *post = p->posts; post; post = post->next) {
        if (post->wake)
            post->wake(post->ctx);
    }
    pthread_cond_broadcast(&p->told);
    pthread_mutex_unlock(&p->lock);
    pair_unref(p);
    return NULL;
}

enum status pair_open(struct pair **out, const struct pair_config *config, struct err *err)
{
    struct pair *p = mem_zero(1, sizeof *p);
    pthread_t thread;
    enum status st;

    p->config = *config;
    p->refs = 2; /* the opener's and the thread's */
    pthread_mutex_init(&p->lock, NULL);
    cond_init(&p->news);
    cond_init(&p->told);
    st = thread_start(&thread, "nccl", pair_run, p, err);
    if (st != ST_OK) {
        p->refs = 1;
        pair_unref(p);
        return st;
    }
    pthread_detach(thread);
    *out = p;
    return ST_OK;
}
