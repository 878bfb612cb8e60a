/* SPDX-License-Identifier: Apache-2.0 */
/* test_service.c - the life of a node's process, seen from outside: its two lines, its drain, its exit code. */
#include "tests/support/cmocka_main.h"

#include "common/base/clock.h"
#include "common/rpc/rpc_channel.h"
#include "common/rpc/rpc_message.h"
#include "common/service/service.h"
#include "common/service/signals.h"
#include "proto/grpc/health/v1/health.pb-c.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SERVING = 1, NOT_SERVING = 2 };

struct process {
    pid_t pid;
    FILE *out;
    char serving[200], metrics[200];
};

/* A node that does nothing but live. Exit code 3 when it cannot start. */
static void node_run(const char *listen, const char *metrics_listen)
{
    static const char *const names[] = { "platen.v1.Inference" };
    struct metrics *m = metrics_open(4);
    struct service_options o = { .metrics_listen = metrics_listen, .metrics = m, .names = names, .name_count = 1 };
    struct signals *signals = NULL;
    struct service *s = NULL;
    struct err err = { 0 };
    bool clean;

    rpc_server_options_init(&o.rpc);
    o.rpc.listen = listen;
    if (signals_open(&signals, NULL, NULL, &err) != ST_OK || service_open(&s, &o, &err) != ST_OK ||
        service_start(s, &err) != ST_OK) {
        fprintf(stderr, "%s\n", err.text);
        _exit(3);
    }
    health_set(service_health(s), NULL, true);
    signals_wait(signals, clock_in_ms(30000));
    clean = service_drain(s, clock_in_ms(5000));
    service_close(s);
    metrics_close(m);
    signals_close(signals);
    _exit(clean ? 0 : 4);
}

static void line_read(FILE *from, const char *word, char *out, size_t room)
{
    char line[300];

    assert_non_null(fgets(line, sizeof(line), from));
    assert_memory_equal(line, word, strlen(word));
    snprintf(out, room, "%s", line + strlen(word));
    out[strcspn(out, "\n")] = '\0';
}

static struct process process_start(const char *listen, const char *metrics_listen)
{
    struct process p = { 0 };
    int ends[2];

    assert_int_equal(pipe(ends), 0);
    p.pid = fork(); /* before gRPC is in this process */
    if (p.pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        node_run(listen, metrics_listen);
    }
    close(ends[1]);
    p.out = fdopen(ends[0], "r");
    return p;
}

static int exit_code(struct process *p, int64_t ms)
{
    int64_t until = clock_in_ms(ms);
    int status = 0;

    while (waitpid(p->pid, &status, WNOHANG) == 0) {
        if (clock_now_ns() > until) {
            kill(p->pid, SIGKILL);
            waitpid(p->pid, &status, 0);
            fail_msg("the process did not leave within %d ms", (int)ms);
        }
        usleep(5000);
    }
    fclose(p->out);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void it_says_where_it_serves(void **state)
{
    struct process p = process_start("127.0.0.1:0", "127.0.0.1:0");
    char more[100];

    (void)state;
    line_read(p.out, "serving ", p.serving, sizeof(p.serving));
    line_read(p.out, "metrics ", p.metrics, sizeof(p.metrics));
    assert_memory_equal(p.serving, "127.0.0.1:", 10);
    assert_in_range(atoi(p.serving + 10), 1, 65535);
    assert_in_range(atoi(p.metrics + 10), 1, 65535);
    kill(p.pid, SIGTERM);
    assert_null(fgets(more, sizeof(more), p.out)); /* and nothing else */
    assert_int_equal(exit_code(&p, 3000), 0);
}

static void a_port_in_use_ends_the_start(void **state)
{
    struct process first = process_start("127.0.0.1:0", NULL), second, third;

    (void)state;
    line_read(first.out, "serving ", first.serving, sizeof(first.serving));
    second = process_start(first.serving, NULL);
    assert_int_equal(exit_code(&second, 5000), 3);
    third = process_start("127.0.0.1:0", first.serving);
    assert_int_equal(exit_code(&third, 5000), 3);
    kill(first.pid, SIGINT);
    assert_int_equal(exit_code(&first, 3000), 0);
}

static void an_open_watch_does_not_hold_the_drain(void **state)
{
    struct process p = process_start("127.0.0.1:0", NULL);
    Grpc__Health__V1__HealthCheckRequest r = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    struct rpc_client *client;
    struct rpc_channel *ch;
    struct rpc_stream *s;
    ProtobufCMessage *msg;
    int heard = 0;

    (void)state;
    line_read(p.out, "serving ", p.serving, sizeof(p.serving));
    assert_int_equal(rpc_client_open(&client, 1, NULL), ST_OK);
    assert_int_equal(rpc_channel_open(&ch, client, p.serving, NULL, NULL), ST_OK);
    assert_int_equal(rpc_stream_open(&s, ch, "/grpc.health.v1.Health/Watch", &r.base,
                                     &grpc__health__v1__health_check_response__descriptor, INT64_MAX, NULL),
                     ST_OK);
    while (heard != SERVING) {
        assert_int_equal(rpc_stream_next(s, clock_in_ms(5000), &msg, NULL), ST_OK);
        heard = (int)((Grpc__Health__V1__HealthCheckResponse *)msg)->status;
        rpc_message_free(msg);
    }
    kill(p.pid, SIGTERM);
    assert_int_equal(rpc_stream_next(s, clock_in_ms(3000), &msg, NULL), ST_OK);
    assert_int_equal(((Grpc__Health__V1__HealthCheckResponse *)msg)->status, NOT_SERVING);
    rpc_message_free(msg);
    assert_int_equal(rpc_stream_next(s, clock_in_ms(3000), &msg, NULL), ST_EUNAVAILABLE);
    assert_int_equal(exit_code(&p, 3000), 0);
    rpc_stream_close(s);
    rpc_channel_close(ch);
    rpc_client_close(client);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_says_where_it_serves),
        cmocka_unit_test(a_port_in_use_ends_the_start),
        cmocka_unit_test(an_open_watch_does_not_hold_the_drain),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
