/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wire.c - blocks over gRPC against bytes over a plain socket, in turn, between two processes on loopback.
 *
 *   bench_wire [MIB] [ROUNDS]
 *
 * tcp    send() from and recv() into one buffer of 16 MiB, nothing else
 * grpc   what an order does: announced, packed into protobuf, checksummed on both sides, put into its place
 *
 * One line per way: the median and the best of the rounds in GiB/s, and the ratio of the medians.
 */
#include "client/bench.h"
#include "client/transfer.h"
#include "common/base/arena.h"
#include "common/base/clock.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BUFFER_BYTES = 16 << 20, ROUNDS_MAX = 100 };

static void die(const char *what)
{
    fprintf(stderr, "bench_wire: %s\n", what);
    exit(1);
}

/* A child that runs `serve` with the writing end of a pipe; gives the reading end. Ends with this process. */
static int child(pid_t *pid, void (*serve)(int fd))
{
    int fds[2];

    if (pipe(fds) != 0)
        die("no pipe");
    *pid = fork();
    if (*pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        serve(fds[1]);
        _exit(1);
    }
    close(fds[1]);
    return fds[0];
}

static void serve_grpc(int fd)
{
    struct err err = { 0 };

    transfer_serve(fd, &err);
    fprintf(stderr, "bench_wire: %s\n", err.text);
}

static void send_all(int s, const char *buffer, uint64_t bytes)
{
    while (bytes > 0) {
        ssize_t n = send(s, buffer, bytes < BUFFER_BYTES ? bytes : BUFFER_BYTES, 0);

        if (n <= 0)
            return;
        bytes -= (uint64_t)n;
    }
}

/* Sends as many bytes as each caller's first eight say. */
static void serve_tcp(int fd)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof at;
    int s = socket(AF_INET, SOCK_STREAM, 0);
    char *buffer = mem_zero(BUFFER_BYTES, 1);
    int32_t port;

    if (bind(s, (struct sockaddr *)&at, sizeof at) != 0 || listen(s, 8) != 0 ||
        getsockname(s, (struct sockaddr *)&at, &size) != 0)
        die("tcp: cannot listen");
    port = ntohs(at.sin_port);
    if (write(fd, &port, sizeof port) != sizeof port)
        die("tcp: nobody wants the port");
    for (;;) {
        int c = accept(s, NULL, NULL);
        uint64_t bytes;

        if (c >= 0 && recv(c, &bytes, sizeof bytes, MSG_WAITALL) == sizeof bytes)
            send_all(c, buffer, bytes);
        close(c);
    }
}

static double tcp_seconds(int32_t port, uint64_t bytes, char *buffer)
{
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                              .sin_port = htons((uint16_t)port) };
    int s = socket(AF_INET, SOCK_STREAM, 0);
    uint64_t came = 0;
    int64_t begin;

    if (connect(s, (struct sockaddr *)&at, sizeof at) != 0)
        die("tcp: cannot connect");
    begin = clock_now_ns();
    if (send(s, &bytes, sizeof bytes, 0) != sizeof bytes)
        die("tcp: cannot send");
    while (came < bytes) {
        ssize_t n = recv(s, buffer + came % BUFFER_BYTES, BUFFER_BYTES - came % BUFFER_BYTES, 0);

        if (n <= 0)
            die("tcp: ended early");
        came += (uint64_t)n;
    }
    close(s);
    return (double)(clock_now_ns() - begin) / 1e9;
}

static double grpc_seconds(int32_t port, uint64_t bytes)
{
    struct transfer_result result;
    struct err err = { 0 };

    if (transfer_receive(port, "grpc", bytes, &result, &err) != ST_OK)
        die(err.text);
    return result.seconds * (double)bytes / (double)result.bytes;
}

static double line(const char *name, double *gib_s, int32_t rounds)
{
    double median = bench_median(gib_s, rounds); /* sorts */

    printf("%-5s median %6.3f GiB/s, best %6.3f\n", name, median, gib_s[rounds - 1]);
    return median;
}

int main(int argc, char **argv)
{
    uint64_t mib = argc > 1 ? strtoull(argv[1], NULL, 10) : 512;
    int32_t rounds = argc > 2 ? (int32_t)strtol(argv[2], NULL, 10) : 7, ports[2];
    double tcp[ROUNDS_MAX], grpc[ROUNDS_MAX], gib = (double)mib / 1024;
    char *buffer = mem_zero(BUFFER_BYTES, 1);
    pid_t pids[2];
    int fds[2];

    if (mib < 1 || mib > 4096 || rounds < 1 || rounds > ROUNDS_MAX)
        die("usage: bench_wire [MIB 1..4096] [ROUNDS 1..100]");
    fds[0] = child(&pids[0], serve_tcp);
    fds[1] = child(&pids[1], serve_grpc);
    for (int i = 0; i < 2; i++)
        if (read(fds[i], &ports[i], sizeof ports[i]) != sizeof ports[i])
            die("a sender did not start");
    for (int32_t round = -1; round < rounds; round++) {
        double a = tcp_seconds(ports[0], mib << 20, buffer), b = grpc_seconds(ports[1], mib << 20);

        if (round >= 0) {
            tcp[round] = gib / a;
            grpc[round] = gib / b;
        }
    }
    {
        double plain = line("tcp", tcp, rounds), ours = line("grpc", grpc, rounds);

        printf("ratio %.3f\n", ours / plain);
    }
    for (int i = 0; i < 2; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
    free(buffer);
    return 0;
}
