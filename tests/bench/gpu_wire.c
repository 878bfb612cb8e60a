/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpu_wire.c - blocks between the GPUs of two processes: how fast, and what is left when one of them is killed.
 *
 *   gpu_wire bench nccl|ipc SENDER RECEIVER ROUNDS MIB...     GB/s of one block, announcement included
 *   gpu_wire copy SENDER RECEIVER ROUNDS MIB...               a plain peer copy inside one process
 *   gpu_wire kill nccl|ipc SENDER RECEIVER ROUNDS SEED        kill -9 of either process at a random moment
 *
 * Numbers are device ordinals. The order's stream is a socket pair here: hello, answer, Block, Ready, and its end as the
 * judge of life. One process of a pair is this one, the other this program again (`peer`). One JSON line per result.
 */
#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/transport/transport.h"

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

enum { MESSAGE_MAX = 4096, WAIT_MS = 30000, WARM_ROUNDS = 3, KILL_MIB = 64 };

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

struct message {
    uint32_t bytes; /* of the block; 0: the last */
    uint32_t layer;
    struct ticket ticket;
};

static void end_open(struct end *e, const char *name, bool sends, int ordinal, size_t bytes)
{
    const struct station_config config = { .device = ordinal };
    struct err err = { 0 };

    memset(e, 0, sizeof *e);
    e->t = strcmp(name, "nccl") == 0 ? &transport_nccl : &transport_ipc;
    e->sends = sends;
    e->bytes = bytes;
    e->context = open_device(ordinal);
    fine(cuda.alloc((void **)&e->memory, bytes), "alloc");
    fine(cuda.fill(e->memory, sends ? 0x5a : 0, bytes), "fill");
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
    char peeked;
    enum status st;

    while ((st = e->t->poll(e->link, &err)) == ST_AGAIN && clock_now_ns() < deadline) {
        if (recv(e->fd, &peeked, 1, MSG_PEEK | MSG_DONTWAIT) == 0) {
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

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static void show(const char *name, size_t mib, double *seconds, int rounds)
{
    qsort(seconds, (size_t)rounds, sizeof *seconds, compare);
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

/* Kills at its moment, whatever the survivor is doing then. */
struct killer {
    pthread_t thread;
    pid_t pid;
    int delay_ms;
    int64_t killed_ns; /* atomic */
};

static void *killer_run(void *arg)
{
    struct killer *k = arg;

    nanosleep(&(struct timespec){ k->delay_ms / 1000, k->delay_ms % 1000 * NS_PER_MS }, NULL);
    __atomic_store_n(&k->killed_ns, clock_now_ns(), __ATOMIC_RELAXED);
    kill(k->pid, SIGKILL);
    return NULL;
}

/* One new peer, killed after `delay_ms`; milliseconds from then until the survivor's memory is its own again. */
static int64_t kill_round(struct end *e, const char *name, int peer_device, int delay_ms, uint32_t *blocks)
{
    struct killer k = { .delay_ms = delay_ms };
    bool gone = false, going_on;
    size_t bytes = 1;
    int64_t ms;

    k.pid = spawn_peer(name, !e->sends, peer_device, e->bytes, &e->fd);
    if (pthread_create(&k.thread, NULL, killer_run, &k) != 0)
        die("no thread");
    going_on = meet(e);
    while (going_on) {
        going_on = e->sends ? send_block(e, *blocks, e->bytes, &gone) : receive_block(e, &bytes, &gone);
        *blocks += going_on;
    }
    close(e->fd);
    if (e->t->close(e->link) != ST_OK)
        die("the transport did not let go of the place");
    e->link = NULL;
    ms = __atomic_load_n(&k.killed_ns, __ATOMIC_RELAXED) ? ms_since(k.killed_ns) : -1;
    pthread_join(k.thread, NULL);
    waitpid(k.pid, NULL, 0);
    if (ms < 0)
        die("a block was lost before anything was killed");
    return ms;
}

static int run_kill(char **argv)
{
    const int devices[2] = { atoi(argv[3]), atoi(argv[4]) }, rounds = atoi(argv[5]);
    int64_t worst = 0;
    uint32_t blocks = 0, met = 0;
    size_t before = 0, after;

    srand((unsigned)atoi(argv[6]));
    for (int side = 0; side < 2; side++) {
        struct end e;

        end_open(&e, argv[2], side == 0, devices[side], (size_t)KILL_MIB << 20);
        for (int r = 0; r < rounds; r++) {
            const uint32_t at = blocks;
            const int64_t ms = kill_round(&e, argv[2], devices[!side], 300 + rand() % 2500, &blocks);

            met += blocks > at;
            worst = ms > worst ? ms : worst;
            if (r == 0)
                before = used_bytes();
        }
        for (int64_t begin = clock_now_ns();
             (after = used_bytes()) > before + ((size_t)8 << 20) && ms_since(begin) < 5000;)
            nanosleep(&(struct timespec){ 0, 50 * NS_PER_MS }, NULL);
        printf("{\"kill\":\"%s\",\"transport\":\"%s\",\"rounds\":%d,\"moved_blocks_in\":%u,\"blocks\":%u,\"worst_ms\":%"
               "lld,"
               "\"memory_before_mib\":%zu,\"memory_after_mib\":%zu}\n",
               side == 0 ? "receiver" : "sender", argv[2], rounds, met, blocks, (long long)worst, before >> 20,
               after >> 20);
        fflush(stdout);
        e.t->shut(e.station);
        blocks = met = 0;
        worst = 0;
    }
    return 0;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc == 7 && strcmp(argv[1], "peer") == 0)
        return run_peer(argv);
    if (argc >= 7 && strcmp(argv[1], "bench") == 0)
        return run_bench(argv, argc);
    if (argc >= 6 && strcmp(argv[1], "copy") == 0)
        return run_copy(argv, argc);
    if (argc == 7 && strcmp(argv[1], "kill") == 0)
        return run_kill(argv);
    die("bench nccl|ipc SENDER RECEIVER ROUNDS MIB...; copy A B ROUNDS MIB...; kill nccl|ipc A B ROUNDS SEED");
    return 2;
}
