/* SPDX-License-Identifier: Apache-2.0 */
/* fake_nccl.c - worlds of two ranks, queues of sends and receives, and streams that end when what was put on them has. */
#include "tests/unit/fake_nccl.h"

#include "common/base/arena.h"
#include "common/base/clock.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OPS_MAX = 256, WORLDS_MAX = 4096, REMOTE_ERROR = 6, REGION_UNKNOWN = 1 };

struct op {
    void *data;
    size_t bytes;
    bool done;
};

struct world {
    int64_t id;
    struct op ops[2][OPS_MAX]; /* of the rank */
    int32_t posted[2], done;
    bool here[2], aborted;
    int64_t met_ns, both_ns; /* both ranks; both heads */
};

struct comm {
    struct world *world;
    int rank;
    bool gone;
};

struct stream {
    struct comm *comm; /* whose op was put on it last */
    int32_t op;        /* its number + 1; 0: nothing */
};

struct event {
    struct world *world;
    int rank;
    int32_t op;
};

struct fake_knobs fake_knobs;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of what follows */
static struct world *worlds[WORLDS_MAX];
static int64_t ids;
static int32_t comms, opened, streams, mapped, released;
static char *region;
static size_t region_bytes;

static int32_t knob(const int32_t *k)
{
    return __atomic_load_n(k, __ATOMIC_RELAXED);
}

static void hang(enum fake_hang where)
{
    const int32_t before = __atomic_load_n(&released, __ATOMIC_ACQUIRE);

    if (knob(&fake_knobs.hang) != (int32_t)where)
        return;
    while (__atomic_load_n(&released, __ATOMIC_ACQUIRE) == before)
        nanosleep(&(struct timespec){ 0, NS_PER_MS }, NULL);
}

void fake_release(void)
{
    __atomic_store_n(&fake_knobs.hang, FAKE_NO_HANG, __ATOMIC_RELAXED);
    __atomic_fetch_add(&released, 1, __ATOMIC_RELEASE);
}

void fake_reset(void)
{
    pthread_mutex_lock(&lock);
    memset(&fake_knobs, 0, sizeof fake_knobs);
    for (int i = 0; i < WORLDS_MAX; i++) {
        free(worlds[i]);
        worlds[i] = NULL;
    }
    comms = opened = streams = mapped = 0;
    region = NULL;
    pthread_mutex_unlock(&lock);
}

static int32_t count_of(const int32_t *count)
{
    int32_t now;

    pthread_mutex_lock(&lock);
    now = *count;
    pthread_mutex_unlock(&lock);
    return now;
}

int32_t fake_comms(void)
{
    return count_of(&comms);
}

int32_t fake_opened(void)
{
    return count_of(&opened);
}

int32_t fake_streams(void)
{
    return count_of(&streams);
}

int32_t fake_mapped(void)
{
    return count_of(&mapped);
}

static void add_to(int32_t *count, int32_t by)
{
    pthread_mutex_lock(&lock);
    *count += by;
    pthread_mutex_unlock(&lock);
}

/* ---- NCCL ---------------------------------------------------------------------------------------------------------- */

static int version(int *out)
{
    *out = 22809;
    return NCCL_OK;
}

static int id_get(struct nccl_id *out)
{
    memset(out, 0, sizeof *out);
    pthread_mutex_lock(&lock);
    ids++;
    memcpy(out->data, &ids, sizeof ids);
    pthread_mutex_unlock(&lock);
    return NCCL_OK;
}

static struct world *world_of(const struct nccl_id *id)
{
    int64_t number;
    int i = 0;

    memcpy(&number, id->data, sizeof number);
    while (worlds[i] && worlds[i]->id != number)
        i++;
    if (!worlds[i]) {
        worlds[i] = mem_zero(1, sizeof **worlds);
        worlds[i]->id = number;
    }
    return worlds[i];
}

static int comm_open(void **out, int ranks, struct nccl_id id, int rank, struct nccl_config *config)
{
    struct comm *c;

    if (ranks != 2 || config->magic != NCCL_CONFIG_MAGIC || config->blocking != 0 || config->size != sizeof *config)
        return 4;
    hang(FAKE_HANG_OPEN);
    if (knob(&fake_knobs.refuse))
        return knob(&fake_knobs.refuse);
    c = mem_zero(1, sizeof *c);
    c->rank = rank;
    pthread_mutex_lock(&lock);
    c->world = world_of(&id);
    c->world->here[rank] = true;
    if (c->world->here[!rank])
        c->world->met_ns = clock_now_ns();
    comms++;
    opened++;
    pthread_mutex_unlock(&lock);
    *out = c;
    return NCCL_IN_PROGRESS;
}

static int comm_state(void *comm, int *result)
{
    struct world *w = ((struct comm *)comm)->world;

    pthread_mutex_lock(&lock);
    if (w->met_ns == 0 || clock_now_ns() - w->met_ns < (int64_t)knob(&fake_knobs.make_us) * 1000)
        *result = NCCL_IN_PROGRESS;
    else
        *result = knob(&fake_knobs.error);
    pthread_mutex_unlock(&lock);
    return NCCL_OK;
}

static int comm_abort(void *comm)
{
    hang(FAKE_HANG_ABORT);
    pthread_mutex_lock(&lock);
    ((struct comm *)comm)->world->aborted = true; /* what was under way never ends, as with the real one */
    comms--;
    pthread_mutex_unlock(&lock);
    free(comm);
    return NCCL_OK;
}

static int post(void *data, size_t bytes, int peer, struct comm *c, struct stream *stream)
{
    struct world *w = c->world;

    if (peer != !c->rank)
        return 4;
    pthread_mutex_lock(&lock);
    w->ops[c->rank][w->posted[c->rank] % OPS_MAX] = (struct op){ data, bytes, false };
    stream->comm = c;
    stream->op = ++w->posted[c->rank];
    pthread_mutex_unlock(&lock);
    return NCCL_OK;
}

static int comm_send(const void *from, size_t count, int type, int peer, void *comm, void *stream)
{
    hang(FAKE_HANG_SEND);
    return type == NCCL_BYTE ? post((void *)from, count, peer, comm, stream) : 4;
}

static int comm_recv(void *into, size_t count, int type, int peer, void *comm, void *stream)
{
    return type == NCCL_BYTE ? post(into, count, peer, comm, stream) : 4;
}

static const char *error_text(int result)
{
    return result == REMOTE_ERROR ? "remote process exited" : "some error";
}

/* Copies what both ends have posted. Under lock. */
static void progress(struct world *w)
{
    while (!w->aborted && !knob(&fake_knobs.silent) && w->done < w->posted[0] && w->done < w->posted[1]) {
        struct op *send = &w->ops[0][w->done % OPS_MAX], *recv = &w->ops[1][w->done % OPS_MAX];

        if (w->both_ns == 0)
            w->both_ns = clock_now_ns();
        if (clock_now_ns() - w->both_ns < (int64_t)knob(&fake_knobs.latency_us) * 1000)
            return;
        memcpy(recv->data, send->data, send->bytes < recv->bytes ? send->bytes : recv->bytes);
        if (knob(&fake_knobs.damage) > 0) {
            __atomic_fetch_sub(&fake_knobs.damage, 1, __ATOMIC_RELAXED);
            ((uint8_t *)recv->data)[recv->bytes / 2] ^= 4;
        }
        w->both_ns = 0;
        w->done++;
    }
}

/* ---- CUDA ---------------------------------------------------------------------------------------------------------- */

static int init(unsigned flags)
{
    return flags == 0 ? 0 : 1;
}

static int device_get(int *device, int ordinal)
{
    *device = ordinal;
    return ordinal < 8 ? 0 : 101;
}

static int device_uuid(struct cuda_uuid *out, int device)
{
    memset(out, 0x30 + device, sizeof *out);
    return 0;
}

static int context_retain(void **context, int device)
{
    (void)device;
    *context = &lock;
    return 0;
}

static int context_release(int device)
{
    (void)device;
    return 0;
}

static int context_set(void *context)
{
    return context == &lock ? 0 : 201;
}

static int priorities(int *least, int *greatest)
{
    *least = 0;
    *greatest = -5;
    return 0;
}

static int stream_open(void **stream, unsigned flags, int priority)
{
    (void)flags;
    (void)priority;
    *stream = mem_zero(1, sizeof(struct stream));
    add_to(&streams, 1);
    return 0;
}

static int stream_close(void *stream)
{
    add_to(&streams, -1);
    free(stream);
    return 0;
}

static int event_open(void **event, unsigned flags)
{
    (void)flags;
    *event = mem_zero(1, sizeof(struct event));
    add_to(&streams, 1);
    return 0;
}

static int event_close(void *event)
{
    add_to(&streams, -1);
    free(event);
    return 0;
}

static int event_record(void *event, void *stream_)
{
    const struct stream *stream = stream_;

    *(struct event *)event = (struct event){ stream->comm ? stream->comm->world : NULL, 0, stream->op };
    return 0;
}

static int event_query(void *event)
{
    const struct event *e = event;
    bool done = true;

    pthread_mutex_lock(&lock);
    if (e->world) {
        progress(e->world);
        done = e->world->done >= e->op;
    }
    pthread_mutex_unlock(&lock);
    return done ? 0 : CUDA_NOT_READY;
}

static int copy(void *to, const void *from, size_t bytes, void *stream)
{
    (void)stream;
    memcpy(to, from, bytes);
    return 0;
}

void fake_memory(void *base, size_t bytes)
{
    region = base;
    region_bytes = bytes;
}

static int range(void **base, size_t *bytes, void *at)
{
    if (!region) { /* every address is an allocation of its own */
        *base = at;
        *bytes = (size_t)1 << 40;
        return 0;
    }
    if ((char *)at < region || (char *)at >= region + region_bytes)
        return REGION_UNKNOWN;
    *base = region;
    *bytes = region_bytes;
    return 0;
}

static int ipc_get(struct cuda_ipc *out, void *at)
{
    memset(out, 0, sizeof *out);
    memcpy(out->data, &at, sizeof at);
    return !region || at == region ? 0 : REGION_UNKNOWN;
}

static int ipc_open(void **at, struct cuda_ipc handle, unsigned flags)
{
    memcpy(at, handle.data, sizeof *at);
    if ((region && *at != region) || flags != CUDA_IPC_PEER_ACCESS)
        return REGION_UNKNOWN;
    add_to(&mapped, 1);
    return 0;
}

static int ipc_close(void *at)
{
    (void)at;
    add_to(&mapped, -1);
    return 0;
}

static int error_name(int result, const char **name)
{
    *name = result == REGION_UNKNOWN ? "CUDA_ERROR_INVALID_VALUE" : "CUDA_ERROR_SOMETHING";
    return 0;
}

const struct nccl_table fake_nccl = { version,    id_get,    comm_open, comm_state,
                                      comm_abort, comm_send, comm_recv, error_text };

const struct cuda_table fake_cuda = { init,        device_get,   device_uuid, context_retain, context_release,
                                      context_set, priorities,   stream_open, stream_close,   event_open,
                                      event_close, event_record, event_query, copy,           range,
                                      ipc_get,     ipc_open,     ipc_close,   error_name };
