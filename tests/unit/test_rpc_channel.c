/* SPDX-License-Identifier: Apache-2.0 */
/* test_rpc_channel.c - servers that are not there, that froze, that came back. */
#include "tests/support/cmocka_main.h"
#include "tests/unit/rpc_pair.h"

#include "common/rpc/rpc_message.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static enum status ask(struct rpc_channel *ch, int64_t ms, struct err *err)
{
    Request r = request_of("x");
    ProtobufCMessage *reply = NULL;
    enum status st =
        rpc_call_unary(ch, "/test.T/Echo", &r.base, &platen__v1__event__descriptor, clock_in_ms(ms), &reply, err);

    rpc_message_free(reply);
    return st;
}

/* A socket that listens and never answers; *port is where. */
static int listen_mute(int *port)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t bytes = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(fd, 8), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &bytes), 0);
    *port = ntohs(at.sin_port);
    return fd;
}

static void channel_to(struct rpc_client **client, struct rpc_channel **ch, int port,
                       const struct rpc_channel_options *o)
{
    char target[40];

    snprintf(target, sizeof(target), "127.0.0.1:%d", port);
    assert_int_equal(rpc_client_open(client, 1, NULL), ST_OK);
    assert_int_equal(rpc_channel_open(ch, *client, target, o, NULL), ST_OK);
    assert_string_equal(rpc_channel_target(*ch), target);
}

static void targets_are_checked(void **state)
{
    static const char *const bad[] = { "", "nowhere", "127.0.0.1:0", "dns:name", "unix:/tmp/x", "a:b:c" };
    struct rpc_client *client;
    struct rpc_channel *ch = NULL;

    (void)state;
    assert_int_equal(rpc_client_open(&client, 1, NULL), ST_OK);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(rpc_channel_open(&ch, client, bad[i], NULL, NULL), ST_EINVAL);
    assert_int_equal(rpc_channel_open(&ch, client, "dns:localhost:80", NULL, NULL), ST_OK);
    rpc_channel_close(ch);
    rpc_client_close(client);
    rpc_client_close(NULL);
    rpc_channel_close(NULL);
}

static void a_server_that_is_not_there_is_unavailable_at_once(void **state)
{
    struct rpc_client *client;
    struct rpc_channel *ch;
    struct err err = { 0 };
    int64_t from = clock_now_ns();
    int port, fd = listen_mute(&port);

    (void)state;
    close(fd);
    channel_to(&client, &ch, port, NULL);
    assert_int_equal(ask(ch, 60000, &err), ST_EUNAVAILABLE);
    assert_true(strlen(err.text) > 10);
    assert_int_equal(rpc_channel_connect(ch, clock_in_ms(5000), NULL), ST_EUNAVAILABLE);
    assert_false(rpc_channel_ready(ch));
    assert_in_range((clock_now_ns() - from) / NS_PER_MS, 0, 5000);
    rpc_channel_close(ch);
    rpc_client_close(client);
}

/* It takes the connection (the kernel does) and says nothing: a stopped process. */
static void a_server_that_says_nothing_is_unavailable_soon(void **state)
{
    struct rpc_client *client;
    struct rpc_channel *ch;
    struct err err = { 0 };
    int64_t from;
    int port, fd = listen_mute(&port);

    (void)state;
    channel_to(&client, &ch, port, NULL);
    from = clock_now_ns();
    assert_int_equal(ask(ch, 60000, &err), ST_EUNAVAILABLE);
    assert_in_range((clock_now_ns() - from) / NS_PER_MS, 1000, RPC_CONNECT_MS + 1500);
    rpc_channel_close(ch);
    rpc_client_close(client);
    close(fd);
}

static void connect_keeps_its_deadline(void **state)
{
    struct rpc_client *client;
    struct rpc_channel *ch;
    struct err err = { 0 };
    int64_t from;
    int port, fd = listen_mute(&port);

    (void)state;
    channel_to(&client, &ch, port, NULL);
    from = clock_now_ns();
    assert_int_equal(rpc_channel_connect(ch, clock_in_ms(300), &err), ST_EUNAVAILABLE);
    assert_in_range((clock_now_ns() - from) / NS_PER_MS, 290, 1500);
    assert_non_null(strstr(err.text, "127.0.0.1"));
    rpc_channel_close(ch);
    rpc_client_close(client);
    close(fd);
}

static void connect_finds_a_server(void **state)
{
    struct rpc_pair p;

    (void)state;
    rpc_pair_open(&p, NULL, NULL);
    assert_false(rpc_channel_ready(p.channel));
    assert_int_equal(rpc_channel_connect(p.channel, clock_in_ms(5000), NULL), ST_OK);
    assert_true(rpc_channel_ready(p.channel));
    rpc_pair_close(&p);
}

static void a_server_that_comes_back_is_found_again(void **state)
{
    struct rpc_server_options o;
    struct rpc_client *client;
    struct rpc_channel *ch;
    struct rpc_pair p;
    enum status st = ST_EUNAVAILABLE;
    int port, fd = listen_mute(&port);
    char target[64];

    (void)state;
    close(fd);
    channel_to(&client, &ch, port, NULL);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(ask(ch, 5000, NULL), ST_EUNAVAILABLE);
        usleep(200000);
    }
    snprintf(target, sizeof(target), "127.0.0.1:%d", port);
    rpc_server_options_init(&o);
    o.listen = target;
    rpc_pair_open(&p, &o, NULL);
    for (int i = 0; i < 60 && st != ST_OK; i++) {
        st = ask(ch, 5000, NULL);
        usleep(100000);
    }
    assert_int_equal(st, ST_OK);
    rpc_channel_close(ch);
    rpc_client_close(client);
    rpc_pair_close(&p);
}

/* The other process: a server that is told its port through a pipe and then stopped by a signal. */
static void serve_until_killed(int out)
{
    struct rpc_pair p;
    int port;

    rpc_pair_open(&p, NULL, NULL);
    port = rpc_server_port(p.server);
    if (write(out, &port, sizeof(port)) != sizeof(port))
        _exit(1);
    for (;;)
        pause();
}

static void a_frozen_server_is_noticed_during_a_silent_call(void **state)
{
    struct rpc_channel_options o;
    struct rpc_client *client;
    struct rpc_channel *ch;
    struct rpc_stream *s;
    struct err err = { 0 };
    ProtobufCMessage *msg;
    Request r = request_of("slow");
    int pipe_ends[2], port = 0;
    int64_t from;
    pid_t child;

    (void)state;
    assert_int_equal(pipe(pipe_ends), 0);
    child = fork(); /* before gRPC is in this process */
    if (child == 0)
        serve_until_killed(pipe_ends[1]);
    assert_int_equal(read(pipe_ends[0], &port, sizeof(port)), sizeof(port));
    rpc_channel_options_init(&o);
    o.keepalive_ms = 1000;
    o.keepalive_timeout_ms = 1000;
    channel_to(&client, &ch, port, &o);
    assert_int_equal(rpc_stream_open(&s, ch, "/test.T/Echo", &r.base, &platen__v1__event__descriptor, INT64_MAX, &err),
                     ST_OK);
    assert_int_equal(rpc_stream_next(s, clock_in_ms(3500), &msg, &err),
                     ST_AGAIN); /* pings are answered, no complaint */
    kill(child, SIGSTOP);
    from = clock_now_ns();
    assert_int_equal(rpc_stream_next(s, clock_in_ms(20000), &msg, &err), ST_EUNAVAILABLE);
    assert_in_range((clock_now_ns() - from) / NS_PER_MS, 500, 4000);
    rpc_stream_close(s);
    rpc_channel_close(ch);
    rpc_client_close(client);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
}

static void a_killed_server_ends_the_call_at_once(void **state)
{
    struct rpc_client *client;
    struct rpc_channel *ch;
    struct rpc_stream *s;
    ProtobufCMessage *msg;
    Request r = request_of("slow");
    int pipe_ends[2], port = 0;
    int64_t from;
    pid_t child;

    (void)state;
    assert_int_equal(pipe(pipe_ends), 0);
    child = fork();
    if (child == 0)
        serve_until_killed(pipe_ends[1]);
    assert_int_equal(read(pipe_ends[0], &port, sizeof(port)), sizeof(port));
    channel_to(&client, &ch, port, NULL);
    assert_int_equal(rpc_stream_open(&s, ch, "/test.T/Echo", &r.base, &platen__v1__event__descriptor, INT64_MAX, NULL),
                     ST_OK);
    assert_int_equal(rpc_stream_next(s, clock_in_ms(300), &msg, NULL), ST_AGAIN);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    from = clock_now_ns();
    assert_int_equal(rpc_stream_next(s, clock_in_ms(5000), &msg, NULL), ST_EUNAVAILABLE);
    assert_in_range((clock_now_ns() - from) / NS_PER_MS, 0, 1500);
    rpc_stream_close(s);
    rpc_channel_close(ch);
    rpc_client_close(client);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_frozen_server_is_noticed_during_a_silent_call),
        cmocka_unit_test(a_killed_server_ends_the_call_at_once),
        cmocka_unit_test(targets_are_checked),
        cmocka_unit_test(a_server_that_is_not_there_is_unavailable_at_once),
        cmocka_unit_test(a_server_that_says_nothing_is_unavailable_soon),
        cmocka_unit_test(connect_keeps_its_deadline),
        cmocka_unit_test(connect_finds_a_server),
        cmocka_unit_test(a_server_that_comes_back_is_found_again),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
