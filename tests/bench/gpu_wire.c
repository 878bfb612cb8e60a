/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu_wire.c - blocks between the GPUs of two processes: how fast, and what is left when one of them is killed.
 *
 *   gpu_wire bench nccl|ipc SENDER RECEIVER ROUNDS MIB...     GB/s of one block, announcement included
 *   gpu_wire copy SENDER RECEIVER ROUNDS MIB...               a plain peer copy inside one process
 *   gpu_wire kill nccl|ipc SENDER RECEIVER ROUNDS SEED [SECONDS]
 *                                                             kill -9 of either process at random moments
 *   gpu_wire leak SENDER RECEIVER ROUNDS VARIANT MOMENT [LABEL]
 *                                                             device memory that each lost NCCL peer leaves, by how
 *                                                             its communicator is ended
 *
 * Numbers are device ordinals. The order's stream is a socket pair here: hello, answer, Block, Ready, and its end as the
 * judge of life. One process of a pair is this one, the other this program again (`peer`). One JSON line per result.
 */
#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/base/order.h"
#include "common/transport/nccl.h"
#include "common/transport/transport.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MESSAGE_MAX = 4096, WAIT_MS = 30000, WARM_ROUNDS = 3, KILL_MIB = 64, DOUBT_MS = 3500 };

extern char **environ;
extern const struct transport transport_nccl, transport_ipc;

/* What of the driver the transports have no use for. */
static struct {
    int (*init)(unsigned flags);
    int (*device_get)(int *device, int ordinal);
    int (*retain)(void **context, int device);
    int (*set)(void *context);
    int (*peer)(void *context, unsigned flags);
    int (*alloc)(void **out, size_t bytes);
    int (*fill)(void *at, unsigned char value, size_t bytes);
    int (*download)(void *to, const void *from, size_t bytes);
    int (*copy)(void *to, const void *from, size_t bytes);
    int (*info)(size_t *free, size_t *total);
    int (*sync)(void);
} cuda;

static void die(const char *what)
{
    fprintf(stderr, "gpu_wire: %s\n", what);
    exit(1);
}

static void fine(int result, const char *what)
{
    if (result != 0) {
        fprintf(stderr, "gpu_wire: %s: CUDA error %d\n", what, result);
        exit(1);
    }
}

static void find(void *library, const char *name, void *out)
{
    void *at = dlsym(library, name);

    if (!at)
        die(name);
    memcpy(out, &at, sizeof at);
}

static void *open_device(int ordinal)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW), *context;
    int device;

    if (!library)
        die(dlerror());
    find(library, "cuInit", &cuda.init);
    find(library, "cuDeviceGet", &cuda.device_get);
    find(library, "cuDevicePrimaryCtxRetain", &cuda.retain);
    find(library, "cuCtxSetCurrent", &cuda.set);
    find(library, "cuCtxEnablePeerAccess", &cuda.peer);
    find(library, "cuMemAlloc_v2", &cuda.alloc);
    find(library, "cuMemsetD8_v2", &cuda.fill);
    find(library, "cuMemcpyDtoH_v2", &cuda.download);
    find(library, "cuMemcpy", &cuda.copy);
    find(library, "cuMemGetInfo_v2", &cuda.info);
    find(library, "cuCtxSynchronize", &cuda.sync);
    fine(cuda.init(0), "init");
    fine(cuda.device_get(&device, ordinal), "device");
    fine(cuda.retain(&context, device), "context");
    fine(cuda.set(context), "context");
    return context;
}

/* ---- one end ------------------------------------------------------------------------------------------------------ */

struct end {
    const struct transport *t;
    struct station *station;
    struct link *link;
    int fd;
    bool sends;
    uint8_t *memory;
    size_t bytes;
    void *context;
};

static const struct nccl_table *nccl_of_ends; /* NULL: the machine's; leak puts its own */

/* $GPU_WIRE_NCCL "BLOCKING CTAS": communicators made otherwise than ours, to see what that costs; both processes read it. */
static struct {
    struct nccl_table table;
    int (*open)(void **comm, int ranks, struct nccl_id id, int rank, struct nccl_config *config);
    int blocking, ctas;
} tried;

static int open_tried(void **comm, int ranks, struct nccl_id id, int rank, struct nccl_config *config)
{
    config->blocking = tried.blocking;
    config->ctas_max = tried.ctas;
    return tried.open(comm, ranks, id, rank, config);
}

static void try_otherwise(const char *words)
{
    struct err err = { 0 };

    if (sscanf(words, "%d %d", &tried.blocking, &tried.ctas) != 2)
        die("GPU_WIRE_NCCL: two numbers");
    if (nccl_table_fill(&tried.table, &err) != ST_OK)
        die(err.text);
    tried.open = tried.table.comm_open;
    tried.table.comm_open = open_tried;
    nccl_of_ends = &tried.table;
}

struct message {
    uint32_t bytes; /* of the block; 0: the last */
    uint32_t layer;
    struct ticket ticket;
};

static void end_open(struct end *e, const char *name, bool sends, int ordinal, size_t bytes)
{
    const struct station_config config = { .device = ordinal, .nccl = nccl_of_ends };
    struct err err = { 0 };

    memset(e, 0, sizeof *e);
    e->t = strcmp(name, "nccl") == 0 ? &transport_nccl : &transport_ipc;
    e->sends = sends;
    e->bytes = bytes;
    e->context = open_device(ordinal);
    fine(cuda.alloc((void **)&e->memory, bytes), "alloc");
    fine(cuda.fill(e->memory, sends ? 0x5a : 0, bytes), "fill");
    fine(cuda.sync(), "fill"); /* the transports' streams do not wait for the default one */
    if (e->t->open(&e->station, &config, &err) != ST_OK)
        die(err.text);
}

/* Whether the stream still is; a dead one is how the peer's death is learned. */
static bool readable(int fd, int ms)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };

    return poll(&p, 1, ms) > 0;
}

static ssize_t take(int fd, void *out, size_t bytes)
{
    return readable(fd, WAIT_MS) ? recv(fd, out, bytes, 0) : -1;
}

static bool say(int fd, const void *data, size_t bytes)
{
    return send(fd, data, bytes, MSG_NOSIGNAL) == (ssize_t)bytes;
}

/* Order and Accepted. */
static bool meet(struct end *e)
{
    struct link_config config = { .station = e->station, .sends = e->sends };
    struct text text = { 0 };
    uint8_t hello[MESSAGE_MAX] = { 0 };
    struct err err = { 0 };
    ssize_t got;
    bool ok = false;

    if (!e->sends) {
        e->t->hello(e->station, &text, NULL);
        if (!say(e->fd, text_str(&text), text.bytes))
            goto out;
    }
    got = take(e->fd, hello, sizeof hello);
    if (got <= 0)
        goto out;
    config.hello = hello;
    config.hello_bytes = (size_t)got;
    if (e->sends && e->t->meets && e->t->meets(e->station, hello, (size_t)got, &err) != ST_OK)
        die(err.text);
    if (e->t->connect(&e->link, &config, &err) != ST_OK) {
        fprintf(stderr, "gpu_wire: %s\n", err.text);
        goto out;
    }
    if (e->sends) {
        if (e->t->answer)
            e->t->answer(e->link, &text, NULL);
        else
            text_puts(&text, "-");
        ok = say(e->fd, text_str(&text), text.bytes);
    } else {
        ok = true;
    }
out:
    text_fini(&text);
    return ok;
}

/* Polls the link until it is done; false when it or the stream is lost. */
static bool until_done(struct end *e, bool *gone)
{
    const int64_t deadline = clock_in_ms(WAIT_MS);
    struct err err = { 0 };
    uint32_t looks = 0;
    char peeked;
    enum status st;

    while ((st = e->t->poll(e->link, &err)) == ST_AGAIN && clock_now_ns() < deadline) {
        if (++looks % 16 == 0 && recv(e->fd, &peeked, 1, MSG_PEEK | MSG_DONTWAIT) == 0) {
            *gone = true;
            return false;
        }
    }
    if (st != ST_OK)
        fprintf(stderr, "gpu_wire: %s\n", err.text);
    return st == ST_OK;
}

/* One layer out: Block, Ready, bytes. */
static bool send_block(struct end *e, uint32_t layer, size_t bytes, bool *gone)
{
    struct kv_block b = { .layer = (int32_t)layer, .data = e->memory, .bytes = bytes };
    struct message m = { .bytes = (uint32_t)bytes, .layer = layer };

    if (e->t->pulls && e->t->lend(e->link, &b, &m.ticket, NULL) != ST_OK)
        return false;
    if (!say(e->fd, &m, sizeof m) || take(e->fd, &m, sizeof m) != sizeof m) {
        *gone = true;
        return false;
    }
    if (e->t->pulls)
        return true;
    return e->t->send(e->link, &b, &m.ticket, NULL) == ST_OK && until_done(e, gone);
}

/* One layer in; *bytes 0: there are no more. */
static bool receive_block(struct end *e, size_t *bytes, bool *gone)
{
    struct kv_block b = { .data = e->memory };
    struct message m;
    struct err err = { 0 };

    if (take(e->fd, &m, sizeof m) != sizeof m) {
        *gone = true;
        return false;
    }
    *bytes = m.bytes;
    if (m.bytes == 0)
        return true;
    b.layer = (int32_t)m.layer;
    b.bytes = m.bytes;
    if (e->t->recv(e->link, &b, &m.ticket, &err) != ST_OK) {
        fprintf(stderr, "gpu_wire: %s\n", err.text);
        return false;
    }
    if (!e->t->pulls && !say(e->fd, &m, sizeof m))
        return false;
    if (!until_done(e, gone))
        return false;
    return !e->t->pulls || say(e->fd, &m, sizeof m);
}

/* ---- two processes ------------------------------------------------------------------------------------------------- */

static pid_t spawn_peer(const char *name, bool sends, int ordinal, size_t bytes, int *fd)
{
    char device[16], number[24], end_fd[16];
    char *argv[] = { (char *)"gpu_wire",
                     (char *)"peer",
                     (char *)name,
                     (char *)(sends ? "send" : "recv"),
                     device,
                     number,
                     end_fd,
                     NULL };
    int fds[2];
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds) != 0)
        die("no socket pair");
    fcntl(fds[0], F_SETFD, FD_CLOEXEC); /* the peer must not keep our end of its own stream */
    snprintf(device, sizeof device, "%d", ordinal);
    snprintf(number, sizeof number, "%zu", bytes);
    snprintf(end_fd, sizeof end_fd, "%d", fds[1]);
    if (posix_spawn(&pid, "/proc/self/exe", NULL, NULL, argv, environ) != 0)
        die("no process");
    close(fds[1]);
    *fd = fds[0];
    return pid;
}

/* The other process: takes or gives blocks until the stream ends. As a sender it sends blocks of all its memory. */
static int run_peer(char **argv)
{
    struct end e;
    size_t bytes = 1;
    bool gone = false;

    end_open(&e, argv[2], strcmp(argv[3], "send") == 0, atoi(argv[4]), (size_t)atoll(argv[5]));
    e.fd = atoi(argv[6]);
    if (!meet(&e))
        return 1;
    if (e.sends)
        for (uint32_t layer = 0; send_block(&e, layer, e.bytes, &gone); layer++)
            ;
    else
        while (bytes > 0 && receive_block(&e, &bytes, &gone))
            ;
    close(e.fd);
    e.t->close(e.link);
    e.t->shut(e.station);
    return 0;
}

static void show(const char *name, size_t mib, double *seconds, int rounds)
{
    qsort(seconds, (size_t)rounds, sizeof *seconds, order_f64);
    printf("{\"transport\":\"%s\",\"mib\":%zu,\"gb_s\":%.1f,\"best_gb_s\":%.1f,\"rounds\":%d}\n", name, mib,
           (double)(mib << 20) / 1e9 / seconds[rounds / 2], (double)(mib << 20) / 1e9 / seconds[0], rounds);
    fflush(stdout);
}

/* We send: from before the announcement to when the link says that the block has left, which for a rendezvous is when it
 * is in its place. */
static int run_bench(char **argv, int argc)
{
    const int rounds = atoi(argv[5]);
    double *seconds = mem_zero((size_t)rounds, sizeof *seconds);
    const struct message last = { 0 };
    size_t largest = 0;
    struct end e;
    bool gone = false;
    pid_t pid;
    int fd;

    for (int i = 6; i < argc; i++)
        largest = (size_t)atoll(argv[i]) > largest ? (size_t)atoll(argv[i]) : largest;
    pid = spawn_peer(argv[2], false, atoi(argv[4]), largest << 20, &fd);
    end_open(&e, argv[2], true, atoi(argv[3]), largest << 20);
    e.fd = fd;
    if (!meet(&e))
        die("the two did not meet");
    for (int i = 6; i < argc; i++) {
        const size_t mib = (size_t)atoll(argv[i]);

        for (int r = -WARM_ROUNDS; r < rounds; r++) {
            const int64_t begin = clock_now_ns();

            if (!send_block(&e, 0, mib << 20, &gone))
                die("a block was lost");
            if (r >= 0)
                seconds[r] = (double)(clock_now_ns() - begin) / 1e9;
        }
        show(argv[2], mib, seconds, rounds);
    }
    say(e.fd, &last, sizeof last);
    e.t->close(e.link);
    waitpid(pid, NULL, 0);
    e.t->shut(e.station);
    free(seconds);
    return 0;
}

static int run_copy(char **argv, int argc)
{
    const int rounds = atoi(argv[4]);
    double *seconds = mem_zero((size_t)rounds, sizeof *seconds);
    void *from_context = open_device(atoi(argv[2])), *into_context, *from, *into;
    const size_t room = (size_t)256 << 20;

    fine(cuda.alloc(&from, room), "alloc");
    fine(cuda.fill(from, 1, room), "fill");
    into_context = open_device(atoi(argv[3]));
    fine(cuda.alloc(&into, room), "alloc");
    if (into_context != from_context)
        fine(cuda.peer(from_context, 0), "peer access");
    for (int i = 5; i < argc; i++) {
        const size_t mib = (size_t)atoll(argv[i]);

        for (int r = -WARM_ROUNDS; r < rounds; r++) {
            const int64_t begin = clock_now_ns();

            fine(cuda.copy(into, from, mib << 20), "copy");
            fine(cuda.sync(), "copy");
            if (r >= 0)
                seconds[r] = (double)(clock_now_ns() - begin) / 1e9;
        }
        show("copy", mib, seconds, rounds);
    }
    free(seconds);
    return 0;
}

/* ---- kill ---------------------------------------------------------------------------------------------------------- */

static size_t used_bytes(void)
{
    size_t left = 0, total = 0;

    fine(cuda.info(&left, &total), "memory");
    return total - left;
}

static int64_t ms_since(int64_t begin)
{
    return (clock_now_ns() - begin) / NS_PER_MS;
}

static void nap_ms(int64_t ms)
{
    nanosleep(&(struct timespec){ ms / 1000, ms % 1000 * NS_PER_MS }, NULL);
}

static int threads_now(void)
{
    DIR *tasks = opendir("/proc/self/task");
    int count = -2; /* . and .. */

    while (tasks && readdir(tasks))
        count++;
    if (tasks)
        closedir(tasks);
    return count;
}

/* Kills at its moment, whatever the survivor is doing then. */
struct killer {
    pthread_t thread;
    pid_t pid;
    int64_t delay_us;
    int64_t killed_ns; /* atomic */
};

static void *killer_run(void *arg)
{
    struct killer *k = arg;

    nanosleep(&(struct timespec){ k->delay_us / 1000000, k->delay_us % 1000000 * 1000 }, NULL);
    __atomic_store_n(&k->killed_ns, clock_now_ns(), __ATOMIC_RELAXED);
    if (k->pid > 0)
        kill(k->pid, SIGKILL);
    return NULL;
}

static void killer_start(struct killer *k, pid_t pid, int64_t delay_us)
{
    *k = (struct killer){ .pid = pid, .delay_us = delay_us };
    if (pthread_create(&k->thread, NULL, killer_run, k) != 0)
        die("no thread");
}

/* When the peer dies: while they meet, between meeting and the first block, in the middle of blocks, right after one, and
 * after the last one, before its commit. LEAVES: it is not killed, but goes by itself. */
enum moment { MAKING, BEFORE, MIDDLE, AFTER, COMMIT, LEAVES, MOMENTS };
static const char *const moment_words[MOMENTS] = { "making", "before", "middle", "after", "commit", "leaves" };

struct kills {
    struct end e;
    const char *name;
    int peer_device;
    pid_t waiting; /* a peer that is there already and waits to be met; 0: none */
    int waiting_fd;
    uint32_t blocks, rounds, met, early, at[MOMENTS]; /* early: lost before anything was killed */
    int64_t worst_ms;
};

/* The next peer. One is made ahead, unless both processes share the device whose memory is looked at. */
static pid_t next_peer(struct kills *k, int *fd)
{
    pid_t pid = k->waiting;

    *fd = k->waiting_fd;
    if (pid == 0)
        pid = spawn_peer(k->name, !k->e.sends, k->peer_device, k->e.bytes, fd);
    k->waiting = 0;
    return pid;
}

static void make_ahead(struct kills *k, bool apart)
{
    if (apart)
        k->waiting = spawn_peer(k->name, !k->e.sends, k->peer_device, k->e.bytes, &k->waiting_fd);
}

static bool one_block(struct kills *k)
{
    size_t bytes = 1;
    bool gone = false;
    const bool moved =
        k->e.sends ? send_block(&k->e, k->blocks, k->e.bytes, &gone) : receive_block(&k->e, &bytes, &gone);

    k->blocks += moved;
    return moved;
}

/* So many blocks go well before the moment comes, and then on until the death is noticed. The killer is started so that a
 * random part of its delay lies in the moment. */
static void live_and_die(struct kills *k, struct killer *killer, pid_t pid, enum moment m)
{
    const int before = m == AFTER ? 1 : m == COMMIT ? 3 : m == MIDDLE ? 1 : 0;
    bool going_on = true;

    if (m == MAKING)
        killer_start(killer, pid, rand() % 700000);
    going_on = meet(&k->e);
    for (int i = 0; going_on && m != MAKING && i < before; i++)
        going_on = one_block(k);
    if (m == LEAVES) {
        killer_start(killer, 0, 0); /* nobody: signal 0 */
        return;
    }
    if (m != MAKING) {
        killer_start(killer, pid, m == MIDDLE ? rand() % 20000 : 0);
        if (m != MIDDLE)
            pthread_join(killer->thread, NULL);
    }
    while (going_on)
        going_on = one_block(k);
}

/* One peer's life; milliseconds from its death until the survivor's place is its own again. */
static int64_t kill_round(struct kills *k, enum moment m, bool apart)
{
    struct killer killer;
    struct end *e = &k->e;
    const uint32_t blocks = k->blocks;
    int64_t begin, ms;
    pid_t pid = next_peer(k, &e->fd);

    make_ahead(k, apart);
    live_and_die(k, &killer, pid, m);
    k->early += m != LEAVES && !__atomic_load_n(&killer.killed_ns, __ATOMIC_RELAXED);
    if (m == MAKING || m == MIDDLE || m == LEAVES)
        pthread_join(killer.thread, NULL);
    begin = m == LEAVES ? clock_now_ns() : __atomic_load_n(&killer.killed_ns, __ATOMIC_RELAXED);
    close(e->fd);
    if (e->link) {
        if (e->t->doubt && m != LEAVES)
            e->t->doubt(e->link);
        if (e->t->close(e->link) != ST_OK)
            die("the transport did not let go of the place");
    }
    e->link = NULL;
    ms = ms_since(begin);
    waitpid(pid, NULL, 0);
    k->met += k->blocks > blocks;
    k->at[m]++;
    k->rounds++;
    k->worst_ms = ms > k->worst_ms ? ms : k->worst_ms;
    return ms;
}

/* As a node does about once a second. */
static void tick(const struct kills *k)
{
    if (k->e.t->tick)
        k->e.t->tick(k->e.station);
}

static void nap_and_tick(const struct kills *k, int64_t ms)
{
    for (int64_t i = 0; i < ms; i += 500) {
        nap_ms(500);
        tick(k);
    }
}

/* Waits until the device has no more in use than `bytes` and a little; milliseconds, or -1 after five seconds. */
static int64_t settled_ms(const struct kills *k, size_t bytes, size_t *now)
{
    const int64_t begin = clock_now_ns();

    while ((*now = used_bytes()) > bytes + ((size_t)8 << 20)) {
        if (ms_since(begin) >= 5000)
            return -1;
        nap_and_tick(k, 500);
    }
    return ms_since(begin);
}

/* The peer that was made ahead is not needed: its memory goes. */
static void no_more_peers(struct kills *k)
{
    if (k->waiting == 0)
        return;
    kill(k->waiting, SIGKILL);
    close(k->waiting_fd);
    waitpid(k->waiting, NULL, 0);
    k->waiting = 0;
}

static void kills_open(struct kills *k, const char *name, int side, const int devices[2])
{
    memset(k, 0, sizeof *k);
    k->name = name;
    k->peer_device = devices[!side];
    end_open(&k->e, name, side == 0, devices[side], (size_t)KILL_MIB << 20);
}

static void tell_kills(const struct kills *k, int side, const size_t memory[3], int64_t settled, int threads)
{
    printf(
        "{\"kill\":\"%s\",\"transport\":\"%s\",\"rounds\":%u,\"moved_blocks_in\":%u,\"blocks\":%u,\"worst_ms\":%lld,",
        side == 0 ? "receiver" : "sender", k->name, k->rounds, k->met, k->blocks, (long long)k->worst_ms);
    for (int m = 0; m < LEAVES; m++)
        printf("\"%s\":%u,", moment_words[m], k->at[m]);
    printf("\"memory_before_mib\":%zu,\"memory_half_mib\":%zu,\"memory_after_mib\":%zu,\"settled_ms\":%lld,\"threads_"
           "more\":%d,\"early\":%u,"
           "\"holds\":%s}\n",
           memory[0] >> 20, memory[1] >> 20, memory[2] >> 20, (long long)settled, threads, k->early,
           k->worst_ms < 2000 && settled >= 0 && k->early == 0 ? "true" : "false");
    fflush(stdout);
}

/* What the first communicators make for good is the baseline: two that moved blocks before their peer died. */
static void baseline(struct kills *k, bool apart, size_t *memory, int *threads)
{
    for (int i = 0; i < 2; i++)
        kill_round(k, MIDDLE, apart);
    nap_and_tick(k, DOUBT_MS);
    *memory = used_bytes();
    *threads = threads_now();
    k->blocks = k->rounds = k->met = k->early = k->at[MIDDLE] = 0;
}

/* kill NAME SENDER RECEIVER ROUNDS SEED [SECONDS]: rounds of each side, or as many as fit into half of the seconds. */
static int run_kill(char **argv, int argc)
{
    const int devices[2] = { atoi(argv[3]), atoi(argv[4]) };
    const uint32_t rounds = (uint32_t)atoi(argv[5]);
    const int64_t ms = argc > 7 ? atoll(argv[7]) * 500 : INT64_MAX / NS_PER_MS / 2;

    srand((unsigned)atoi(argv[6]));
    for (int side = 0; side < 2; side++) {
        const int64_t end = clock_now_ns() + ms * NS_PER_MS;
        size_t before = 0, half = 0, after = 0;
        int threads = 0;
        int64_t settled;
        struct kills k;

        kills_open(&k, argv[2], side, devices);
        baseline(&k, devices[0] != devices[1], &before, &threads);
        while (k.rounds < rounds && clock_now_ns() < end) {
            kill_round(&k, (enum moment)(rand() % LEAVES), devices[0] != devices[1]);
            if (k.rounds == rounds / 2)
                half = used_bytes();
        }
        no_more_peers(&k);
        settled = settled_ms(&k, before, &after);
        tell_kills(&k, side, (size_t[]){ before, half, after }, settled, threads_now() - threads);
        k.e.t->shut(k.e.station);
    }
    return 0;
}

/* ---- leak: what one death leaves, by what is done about it --------------------------------------------------------- */

/* NCCL's own table and one whose abort is preceded or followed by something. */
static struct {
    struct nccl_table table;
    int (*abort)(void *comm);
    int (*finalize)(void *comm);
    int (*revoke)(void *comm, int flags);
    int (*destroy)(void *comm);
    int32_t aborts, failed; /* atomic */
    int last;               /* the last abort's result that was not 0 */
} variant;

static int counted(int result)
{
    __atomic_fetch_add(&variant.aborts, 1, __ATOMIC_RELAXED);
    if (result != NCCL_OK) {
        __atomic_fetch_add(&variant.failed, 1, __ATOMIC_RELAXED);
        variant.last = result;
    }
    return result;
}

static int abort_plain(void *comm)
{
    return counted(variant.abort(comm));
}

/* The peer's memory and sockets are surely gone before. */
static int abort_late(void *comm)
{
    nap_ms(500);
    return counted(variant.abort(comm));
}

static int abort_then_sync(void *comm)
{
    const int result = counted(variant.abort(comm));

    cuda.sync();
    return result;
}

static int settle(void *comm, int result, int64_t ms)
{
    const int64_t end = clock_in_ms(ms);

    while (result == NCCL_IN_PROGRESS && clock_now_ns() < end) {
        nap_ms(1);
        if (variant.table.comm_state(comm, &result) != NCCL_OK)
            break;
    }
    return result;
}

static int abort_settled(void *comm)
{
    settle(comm, NCCL_IN_PROGRESS, 500);
    return counted(variant.abort(comm));
}

static int abort_finalized(void *comm)
{
    if (variant.finalize)
        settle(comm, variant.finalize(comm), 500);
    return counted(variant.abort(comm));
}

static int abort_revoked(void *comm)
{
    if (variant.revoke)
        settle(comm, variant.revoke(comm, 0), 500);
    return counted(variant.destroy && variant.revoke ? variant.destroy(comm) : variant.abort(comm));
}

static const struct {
    const char *name;
    int (*abort)(void *comm);
} variants[] = {
    { "plain", abort_plain },     { "late", abort_late },          { "sync", abort_then_sync },
    { "settled", abort_settled }, { "finalize", abort_finalized }, { "revoke", abort_revoked },
};

static void find_optional(void *library, const char *name, void *out)
{
    void *at = dlsym(library, name);

    memcpy(out, &at, sizeof at);
}

/* False: no such variant, or not with this NCCL. */
static bool use_variant(const char *name)
{
    struct err err = { 0 };
    void *library;

    if (nccl_table_fill(&variant.table, &err) != ST_OK)
        die(err.text);
    variant.abort = variant.table.comm_abort;
    library = dlopen("libnccl.so.2", RTLD_NOW);
    find_optional(library, "ncclCommFinalize", &variant.finalize);
    find_optional(library, "ncclCommRevoke", &variant.revoke);
    find_optional(library, "ncclCommDestroy", &variant.destroy);
    for (size_t i = 0; i < ARRAY_LEN(variants); i++) {
        if (strcmp(variants[i].name, name) != 0)
            continue;
        variant.table.comm_abort = variants[i].abort;
        nccl_of_ends = &variant.table;
        return strcmp(name, "revoke") != 0 || variant.revoke;
    }
    return false;
}

/* leak SENDER RECEIVER ROUNDS VARIANT MOMENT [LABEL]: every round the peer dies (or leaves) at that moment; the device memory
 * and threads that a round leaves, after the pair's time of doubt. */
static int run_leak(char **argv, int argc)
{
    const int devices[2] = { atoi(argv[2]), atoi(argv[3]) }, rounds = atoi(argv[4]);
    enum moment m = 0;

    while (m < MOMENTS && strcmp(moment_words[m], argv[6]) != 0)
        m++;
    if (m == MOMENTS || rounds < 2)
        die("leak: MOMENT is making, before, middle, after, commit or leaves; ROUNDS at least 2");
    if (!use_variant(argv[5])) {
        printf("{\"leak\":\"%s\",\"skipped\":true}\n", argv[5]);
        return 0;
    }
    for (int side = 0; side < 2; side++) {
        size_t before = 0, after = 0;
        int threads = 0;
        struct kills k;

        kills_open(&k, "nccl", side, devices);
        baseline(&k, true, &before, &threads);
        for (int r = 0; r < rounds; r++)
            kill_round(&k, m, true);
        no_more_peers(&k);
        nap_and_tick(&k, DOUBT_MS);
        after = used_bytes();
        printf(
            "{\"leak\":\"%s\",\"with\":\"%s\",\"moment\":\"%s\",\"survivor\":\"%s\",\"rounds\":%d,\"mib_a_round\":%.1f,"
            "\"threads_a_round\":%.1f,\"pairs\":%d,\"ending\":%d,\"aborts\":%d,\"aborts_failed\":%d,\"last_result\":%d,"
            "\"worst_ms\":%lld}\n",
            argv[5], argc > 7 ? argv[7] : "", argv[6], side == 0 ? "sender" : "receiver", rounds,
            ((double)after - (double)before) / (1 << 20) / rounds, (double)(threads_now() - threads) / rounds,
            nccl_pairs(k.e.station), nccl_ending(k.e.station), variant.aborts, variant.failed, variant.last,
            (long long)k.worst_ms);
        fflush(stdout);
        variant.aborts = variant.failed = variant.last = 0;
        k.e.t->shut(k.e.station);
    }
    return 0;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (getenv("GPU_WIRE_NCCL"))
        try_otherwise(getenv("GPU_WIRE_NCCL"));
    if (argc == 7 && strcmp(argv[1], "peer") == 0)
        return run_peer(argv);
    if (argc >= 7 && strcmp(argv[1], "bench") == 0)
        return run_bench(argv, argc);
    if (argc >= 6 && strcmp(argv[1], "copy") == 0)
        return run_copy(argv, argc);
    if (argc >= 7 && strcmp(argv[1], "kill") == 0)
        return run_kill(argv, argc);
    if (argc >= 7 && strcmp(argv[1], "leak") == 0)
        return run_leak(argv, argc);
    die("bench nccl|ipc SENDER RECEIVER ROUNDS MIB...; copy A B ROUNDS MIB...; kill nccl|ipc A B ROUNDS SEED "
        "[SECONDS]; "
        "leak A B ROUNDS VARIANT MOMENT [LABEL]");
    return 2;
}
