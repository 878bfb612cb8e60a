/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nccl.c - blocks from device to device: one contiguous send per layer, straight into its place in the peer's arena.
 *
 *   decode node                                         prefill node
 *     Order    hello: who I am, what I lost   ───────▶    the pair with this process, or a new one
 *                                             ◀───────  Accepted  answer: who I am, generation, unique id
 *     the pair of that generation, or a new one
 *     Block ─▶ receive posted, gets number n
 *     Ready    ticket: n                      ───────▶    send n, after n - 1
 *
 * A pair of processes has one communicator, made when they first meet and kept. The prefill node numbers them
 * (generation); a decode node says which generation it lost, so the next order gets a newer one, and nobody waits in a
 * communicator that the other end has left. At most NCCL_PAIRS_MAX pairs: the one that was idle longest makes room.
 */
#include "common/transport/nccl.h"

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/transport/device_place.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MEETINGS_MAX = 64, CLOSE_MS = 3000, WORKS_FROM = 21800 };

/* What is known of one peer process. */
struct meeting {
    bool known;
    uint8_t process[PROCESS_BYTES];
    struct pair *pair; /* NULL: none; counted */
    uint64_t lost;     /* generations up to this one are over */
    int32_t links;     /* of the pair */
    int64_t used_ns;
};

struct station {
    struct device_place place;
    struct nccl_table own;
    const struct nccl_table *nccl;
    struct nccl_times times;

    pthread_mutex_t lock; /* of what follows; never held while NCCL is called, but for a unique id */
    struct meeting meetings[MEETINGS_MAX];
    struct pair *ending[MEETINGS_MAX]; /* lost, and their abort has not come back */
    int32_t ending_count;
    uint64_t generation;
    struct nccl_id spare; /* taken at open: the first one takes NCCL long */
    bool has_spare;
};

struct link {
    struct link_config config;
    struct meeting *meeting;
    struct pair *pair; /* counted */
    struct nccl_id id;
    struct pair_post *post; /* under way */
    bool doubted;
};

/* ---- the station ------------------------------------------------------------------------------------------------- */

static enum status open_nccl(struct station *s, const struct station_config *config, struct err *err)
{
    int version = 0;
    enum status st = ST_OK;

    s->nccl = config->nccl ? config->nccl : &s->own;
    if (!config->nccl)
        st = nccl_table_fill(&s->own, err);
    if (st != ST_OK)
        return st;
    if (s->nccl->version(&version) != NCCL_OK || version < WORKS_FROM)
        return err_set(err, ST_EUNAVAILABLE, "NCCL is of version %d, %d is needed", version, WORKS_FROM);
    s->place.cuda->context_set(s->place.context);
    s->has_spare = s->nccl->id_get(&s->spare) == NCCL_OK;
    return s->has_spare ? ST_OK : err_set(err, ST_EUNAVAILABLE, "NCCL gives no unique id");
}

static void nccl_shut(struct station *s);

static enum status nccl_open(struct station **out, const struct station_config *config, struct err *err)
{
    struct station *s = mem_zero(1, sizeof *s);
    enum status st = device_place_open(&s->place, config, err);

    pthread_mutex_init(&s->lock, NULL);
    s->times = config->times ? *config->times : nccl_times_default;
    if (st == ST_OK)
        st = open_nccl(s, config, err);
    if (st != ST_OK) {
        nccl_shut(s);
        return st;
    }
    *out = s;
    return ST_OK;
}

void nccl_set_times(struct station *s, const struct nccl_times *times)
{
    s->times = *times;
}

/* Forgets pairs whose abort has come back. Under lock. */
static void reap(struct station *s)
{
    for (int32_t i = s->ending_count - 1; i >= 0; i--) {
        if (pair_state(s->ending[i], NULL) != PAIR_ENDED)
            continue;
        pair_unref(s->ending[i]);
        s->ending[i] = s->ending[--s->ending_count];
    }
}

/* The meeting's pair is over. Under lock. */
static void drop(struct station *s, struct meeting *m, const char *why)
{
    struct pair *p = m->pair;

    if (!p)
        return;
    if (pair_generation(p) > m->lost)
        m->lost = pair_generation(p);
    m->pair = NULL;
    pair_lose(p, why);
    reap(s);
    if (s->ending_count < MEETINGS_MAX)
        s->ending[s->ending_count++] = p;
    else
        pair_unref(p); /* its thread holds a count of its own */
}

static int32_t ending(struct station *s)
{
    int32_t count;

    pthread_mutex_lock(&s->lock);
    reap(s);
    count = s->ending_count;
    pthread_mutex_unlock(&s->lock);
    return count;
}

int32_t nccl_ending(struct station *s)
{
    return ending(s);
}

int32_t nccl_pairs(struct station *s)
{
    int32_t count = 0;

    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < MEETINGS_MAX; i++)
        count += s->meetings[i].pair != NULL;
    pthread_mutex_unlock(&s->lock);
    return count;
}

/* A station whose pairs do not end is left as it is: their threads still look at its tables. */
static void nccl_shut(struct station *s)
{
    const int64_t deadline = clock_in_ms(CLOSE_MS);

    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < MEETINGS_MAX; i++)
        drop(s, &s->meetings[i], "the node closes");
    pthread_mutex_unlock(&s->lock);
    while (ending(s) > 0) {
        if (clock_now_ns() >= deadline)
            return;
        nanosleep(&(struct timespec){ 0, NS_PER_MS }, NULL);
    }
    device_place_close(&s->place);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

/* A call of NCCL that hangs holds a thread and perhaps memory: only a new process gets rid of it. */
static enum status nccl_health(struct station *s, struct err *err)
{
    enum status st = ST_OK;

    pthread_mutex_lock(&s->lock);
    reap(s);
    for (int32_t i = 0; i < s->ending_count && st == ST_OK; i++) {
        const int64_t ns = pair_in_call_ns(s->ending[i]);

        if (ns > 4 * s->times.abort_ms * NS_PER_MS)
            st = err_set(err, ST_EINTERNAL, "nccl: a call has not come back for %lld s", (long long)(ns / NS_PER_S));
    }
    pthread_mutex_unlock(&s->lock);
    return st;
}

/* ---- meeting ----------------------------------------------------------------------------------------------------- */

static enum status nccl_hello(struct station *s, struct text *out, struct err *err)
{
    uint8_t number[8];

    (void)err;
    device_who_write(out, &s->place.who);
    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < MEETINGS_MAX; i++) {
        struct meeting *m = &s->meetings[i];

        if (m->pair && pair_state(m->pair, NULL) >= PAIR_LOST)
            drop(s, m, "it was lost");
        if (!m->known || m->lost == 0)
            continue;
        text_add(out, (const char *)m->process, PROCESS_BYTES);
        store_u64(number, m->lost);
        text_add(out, (const char *)number, sizeof number);
    }
    pthread_mutex_unlock(&s->lock);
    return ST_OK;
}

/* Whether a link with this peer can have a pair now. */
static enum status has_room(struct station *s, const uint8_t process[PROCESS_BYTES], struct err *why)
{
    int32_t busy = 0;
    bool met = false;

    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < MEETINGS_MAX; i++) {
        const struct meeting *m = &s->meetings[i];

        busy += m->pair && m->links > 0;
        met = met || (m->pair && memcmp(m->process, process, PROCESS_BYTES) == 0);
    }
    pthread_mutex_unlock(&s->lock);
    return met || busy < NCCL_PAIRS_MAX ? ST_OK : err_set(why, ST_EEXHAUSTED, "nccl: all %d pairs are in use", busy);
}

static enum status nccl_meets(struct station *s, const void *hello, size_t hello_bytes, struct err *why)
{
    struct cursor c = cursor_on(hello, hello_bytes);
    struct device_who who;

    device_who_read(&who, &c);
    if (c.bad)
        return err_set(why, ST_EPRECONDITION, "nccl: the decode node's hello is too short");
    if (device_who_same_device(&who, &s->place.who))
        return err_set(why, ST_EPRECONDITION, "nccl: both processes use one device, which NCCL refuses");
    return has_room(s, who.process, why) == ST_OK ? nccl_health(s, why) : ST_EPRECONDITION;
}

/* The entry of a peer process: its own, a free one, or that which was of no use for longest. NULL: all are in use. */
static struct meeting *meeting_find(struct station *s, const uint8_t process[PROCESS_BYTES])
{
    struct meeting *best = NULL;

    for (int i = 0; i < MEETINGS_MAX; i++) {
        struct meeting *m = &s->meetings[i];

        if (m->known && memcmp(m->process, process, PROCESS_BYTES) == 0)
            return m;
        if (m->links == 0 && (!best || (best->known && (!m->known || m->used_ns < best->used_ns))))
            best = m;
    }
    if (!best)
        return NULL;
    drop(s, best, "another peer needs its place");
    *best = (struct meeting){ .known = true };
    memcpy(best->process, process, PROCESS_BYTES);
    return best;
}

/* Room for one more pair: the one that was idle longest goes. */
static enum status make_room(struct station *s, struct err *err)
{
    struct meeting *idle = NULL;
    int32_t pairs = 0;

    for (int i = 0; i < MEETINGS_MAX; i++) {
        struct meeting *m = &s->meetings[i];

        pairs += m->pair != NULL;
        if (m->pair && m->links == 0 && (!idle || m->used_ns < idle->used_ns))
            idle = m;
    }
    if (pairs < NCCL_PAIRS_MAX)
        return ST_OK;
    if (!idle)
        return err_set(err, ST_EEXHAUSTED, "nccl: all %d pairs are in use", NCCL_PAIRS_MAX);
    drop(s, idle, "another pair needs its place");
    return ST_OK;
}

static enum status new_pair(struct station *s, struct meeting *m, uint64_t generation, const struct nccl_id *id,
                            int rank, struct err *err)
{
    const struct pair_config config = { .cuda = s->place.cuda,
                                        .nccl = s->nccl,
                                        .context = s->place.context,
                                        .id = *id,
                                        .rank = rank,
                                        .generation = generation,
                                        .times = s->times };
    enum status st;

    drop(s, m, "a newer one takes its place");
    st = make_room(s, err);
    return st == ST_OK ? pair_open(&m->pair, &config, err) : st;
}

static bool usable(const struct meeting *m, uint64_t beyond)
{
    return m->pair && pair_generation(m->pair) > beyond && pair_state(m->pair, NULL) < PAIR_LOST;
}

static enum status take_id(struct station *s, struct nccl_id *out, struct err *err)
{
    if (s->has_spare) {
        *out = s->spare;
        s->has_spare = false;
        return ST_OK;
    }
    s->place.cuda->context_set(s->place.context);
    return s->nccl->id_get(out) == NCCL_OK ? ST_OK : err_set(err, ST_EUNAVAILABLE, "nccl: no unique id");
}

/* The highest generation of this station's that the peer says it lost. */
static uint64_t lost_by_peer(const struct station *s, struct cursor *c)
{
    uint64_t lost = 0;

    while (cursor_left(c) >= PROCESS_BYTES + 8) {
        const uint8_t *process = cursor_take(c, PROCESS_BYTES);
        const uint64_t generation = cursor_u64(c);

        if (memcmp(process, s->place.who.process, PROCESS_BYTES) == 0 && generation > lost)
            lost = generation;
    }
    return lost;
}

/* The prefill end: the pair that both still have, or a new one. Under lock. */
static enum status meet_as_sender(struct station *s, struct link *l, struct cursor *c, struct err *err)
{
    uint64_t lost = lost_by_peer(s, c);
    enum status st;

    if (lost < l->meeting->lost)
        lost = l->meeting->lost;
    if (usable(l->meeting, lost))
        return ST_OK;
    st = take_id(s, &l->id, err);
    return st == ST_OK ? new_pair(s, l->meeting, ++s->generation, &l->id, NCCL_SENDER, err) : st;
}

/* The decode end: the pair that the answer names. Under lock. */
static enum status meet_as_receiver(struct station *s, struct link *l, struct cursor *c, struct err *err)
{
    const uint64_t generation = cursor_u64(c);
    const uint8_t *id = cursor_take(c, NCCL_ID_BYTES);

    if (!id)
        return err_set(err, ST_EDATALOSS, "nccl: the prefill node's answer is too short");
    if (l->meeting->pair && pair_generation(l->meeting->pair) == generation && usable(l->meeting, 0))
        return ST_OK;
    if (generation <= l->meeting->lost || (l->meeting->pair && generation <= pair_generation(l->meeting->pair)))
        return err_set(err, ST_EUNAVAILABLE, "nccl: the communicator was lost meanwhile");
    memcpy(l->id.data, id, NCCL_ID_BYTES);
    return new_pair(s, l->meeting, generation, &l->id, NCCL_RECEIVER, err);
}

/* ---- one order's link ------------------------------------------------------------------------------------------- */

static enum status meet(struct station *s, struct link *l, struct err *err)
{
    struct cursor c = cursor_on(l->config.hello, l->config.hello_bytes);
    struct device_who who;
    enum status st;

    device_who_read(&who, &c);
    if (c.bad)
        return err_set(err, ST_EDATALOSS, "nccl: the peer's hello is too short");
    l->meeting = meeting_find(s, who.process);
    if (!l->meeting)
        return err_set(err, ST_EEXHAUSTED, "nccl: %d peers are in use", MEETINGS_MAX);
    st = l->config.sends ? meet_as_sender(s, l, &c, err) : meet_as_receiver(s, l, &c, err);
    if (st != ST_OK)
        return st;
    l->pair = l->meeting->pair;
    pair_ref(l->pair);
    pair_trust(l->pair); /* its peer has just spoken */
    l->meeting->links++;
    l->meeting->used_ns = clock_now_ns();
    return ST_OK;
}

static enum status nccl_connect(struct link **out, const struct link_config *config, struct err *err)
{
    struct station *s = config->station;
    struct link *l = mem_zero(1, sizeof *l);
    enum status st;

    l->config = *config;
    pthread_mutex_lock(&s->lock);
    st = meet(s, l, err);
    pthread_mutex_unlock(&s->lock);
    if (st != ST_OK) {
        free(l);
        return st;
    }
    *out = l;
    return ST_OK;
}

static enum status nccl_answer(struct link *l, struct text *out, struct err *err)
{
    struct station *s = l->config.station;
    struct nccl_id id = pair_id(l->pair);
    uint8_t number[8];

    (void)err;
    device_who_write(out, &s->place.who);
    store_u64(number, pair_generation(l->pair));
    text_add(out, (const char *)number, sizeof number);
    text_add(out, id.data, NCCL_ID_BYTES);
    return ST_OK;
}

static void link_wake(void *ctx)
{
    struct link *l = ctx;

    if (l->config.wake)
        l->config.wake(l->config.ctx);
}

static enum status nccl_send(struct link *l, const struct kv_block *block, const struct ticket *ticket, struct err *err)
{
    if (ticket->bytes != 8)
        return err_set(err, ST_EDATALOSS, "nccl: Ready came without its number");
    l->post = pair_send(l->pair, block->data, block->bytes, link_wake, l, load_u64(ticket->data));
    return ST_OK;
}

static enum status nccl_recv(struct link *l, const struct kv_block *into, struct ticket *ticket, struct err *err)
{
    uint64_t number;

    (void)err;
    l->post = pair_recv(l->pair, into->data, into->bytes, link_wake, l, &number);
    ticket->bytes = 8;
    store_u64(ticket->data, number);
    return ST_OK;
}

/* Whoever looks is the watch: a pair whose thread does not come back from NCCL is given up. */
static enum status nccl_poll(struct link *l, struct err *err)
{
    enum status st;

    if (pair_in_call_ns(l->pair) > l->config.station->times.make_ms * NS_PER_MS)
        pair_lose(l->pair, "a call does not come back");
    st = pair_poll(l->pair, l->post, err);
    if (st == ST_OK && l->post) {
        pair_forget(l->pair, l->post);
        l->post = NULL;
    }
    return st;
}

static void nccl_doubt(struct link *l)
{
    l->doubted = true;
}

/* The last link of a pair is closed: nobody would learn any more that its peer is gone. Under the station's lock. */
static void leave(struct station *s, struct link *l)
{
    struct meeting *m = l->meeting;

    m->links--;
    m->used_ns = clock_now_ns();
    if (m->pair != l->pair)
        return;
    if (pair_state(l->pair, NULL) >= PAIR_LOST)
        drop(s, m, "it was lost");
    else if (m->links == 0)
        pair_doubt(l->pair, l->doubted ? s->times.doubt_ms : s->times.idle_ms);
}

static enum status nccl_close(struct link *l)
{
    struct station *s;
    enum status st;

    if (!l)
        return ST_OK;
    s = l->config.station;
    st = pair_forget(l->pair, l->post);
    pthread_mutex_lock(&s->lock);
    leave(s, l);
    pthread_mutex_unlock(&s->lock);
    pair_unref(l->pair);
    free(l);
    return st;
}

const struct transport transport_nccl = {
    .name = "nccl",
    .summary = "from one GPU's memory to another's, within a machine or over its network",
    .place = PLACE_DEVICE,
    .open = nccl_open,
    .shut = nccl_shut,
    .health = nccl_health,
    .hello = nccl_hello,
    .meets = nccl_meets,
    .answer = nccl_answer,
    .connect = nccl_connect,
    .send = nccl_send,
    .recv = nccl_recv,
    .poll = nccl_poll,
    .doubt = nccl_doubt,
    .close = nccl_close,
};
