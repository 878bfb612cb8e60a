/* SPDX-License-Identifier: Apache-2.0 */
/* test_rpc_server.c - the door and the end of a server. */
#include "tests/support/cmocka_main.h"
#include "tests/unit/rpc_pair.h"

#include "common/rpc/rpc_message.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static struct rpc_server_options options_at(const char *listen)
{
    struct rpc_server_options o;

    rpc_server_options_init(&o);
    o.listen = listen;
    return o;
}

static enum status ask(struct rpc_channel *ch, const char *method, const char *text, int64_t ms, struct err *err)
{
    Request r = request_of(text);
    ProtobufCMessage *reply = NULL;
    enum status st = rpc_call_unary(ch, method, &r.base, &platen__v1__event__descriptor, clock_in_ms(ms), &reply, err);

    rpc_message_free(reply);
    return st;
}

static void addresses_are_read_as_people_write_them(void **state)
{
    char host[RPC_ADDRESS_MAX];
    struct err err = { 0 };
    int port;
    static const char *const bad[] = { "localhost", "localhost:", ":80",   "a:65536", "a:-1",
                                       "a:8x",      "::1:80",     "[]:80", "a b:80",  "http://a:80" };

    (void)state;
    assert_int_equal(rpc_address_parse("127.0.0.1:0", host, &port, NULL), ST_OK);
    assert_string_equal(host, "127.0.0.1");
    assert_int_equal(port, 0);
    assert_int_equal(rpc_address_parse("[::1]:65535", host, &port, NULL), ST_OK);
    assert_string_equal(host, "::1");
    assert_int_equal(port, 65535);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        err_clear(&err);
        assert_int_equal(rpc_address_parse(bad[i], host, &port, &err), ST_EINVAL);
        assert_non_null(strstr(err.text, bad[i]));
    }
}

static void a_port_in_use_is_refused_by_name(void **state)
{
    struct rpc_pair p;
    struct rpc_server_options o;
    struct rpc_server *second = NULL;
    struct err err = { 0 };

    (void)state;
    rpc_pair_open(&p, NULL, NULL);
    o = options_at(p.target);
    assert_int_equal(rpc_server_open(&second, &o, &err), ST_EUNAVAILABLE);
    assert_null(second);
    assert_non_null(strstr(err.text, p.target));
    assert_non_null(strstr(err.text, "in use"));
    assert_int_equal(ask(p.channel, "/test.T/Echo", "x", 5000, &err), ST_OK); /* the first one still serves */
    rpc_pair_close(&p);
}

static void a_host_that_is_not_ours_is_refused(void **state)
{
    struct rpc_server_options o = options_at("192.0.2.1:0");
    struct rpc_server *s = NULL;
    struct err err = { 0 };

    (void)state;
    assert_int_equal(rpc_server_open(&s, &o, &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "192.0.2.1:0"));
}

static void a_server_that_never_started_closes(void **state)
{
    struct rpc_server_options o = options_at("127.0.0.1:0");
    struct rpc_server *s = NULL;

    (void)state;
    assert_int_equal(rpc_server_open(&s, &o, NULL), ST_OK);
    assert_in_range(rpc_server_port(s), 1, 65535);
    rpc_server_close(s);
    rpc_server_close(NULL);
}

static void a_port_is_free_again_after_close(void **state)
{
    struct rpc_server_options o;
    struct rpc_pair p;
    struct rpc_server *s = NULL;
    struct err err = { 0 };
    char target[64];

    (void)state;
    rpc_pair_open(&p, NULL, NULL);
    assert_int_equal(ask(p.channel, "/test.T/Echo", "x", 5000, &err), ST_OK);
    memcpy(target, p.target, sizeof(target));
    rpc_pair_close(&p);
    o = options_at(target);
    if (rpc_server_open(&s, &o, &err) != ST_OK)
        fail_msg("%s", err.text);
    rpc_server_close(s);
}

static void only_callers_with_the_token_come_in(void **state)
{
    struct rpc_server_options o = options_at("127.0.0.1:0");
    struct rpc_channel_options c;
    static const char *const wrong[] = { NULL, "", "secre", "secret2", "Secret" };
    struct rpc_pair p;
    struct err err = { 0 };

    (void)state;
    o.token = "secret";
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        rpc_channel_options_init(&c);
        c.token = wrong[i];
        rpc_pair_open(&p, &o, &c);
        err_clear(&err);
        assert_int_equal(ask(p.channel, "/test.T/Echo", "x", 5000, &err), ST_EUNAUTHENTICATED);
        assert_int_equal(ask(p.channel, "/test.T/Chat", "x", 5000, NULL), ST_EUNAUTHENTICATED);
        assert_null(strstr(err.text, "secret"));
        assert_int_equal(atomic_load(&p.opened), 0);
        assert_int_equal(ask(p.channel, "/test.T/Open", "x", 5000, NULL), ST_OK);
        rpc_pair_close(&p);
    }
    c.token = "secret";
    rpc_pair_open(&p, &o, &c);
    assert_int_equal(ask(p.channel, "/test.T/Echo", "x", 5000, NULL), ST_OK);
    rpc_pair_close(&p);
}

static void an_idle_server_drains_at_once(void **state)
{
    struct rpc_pair p;
    int64_t from;

    (void)state;
    rpc_pair_open(&p, NULL, NULL);
    assert_int_equal(ask(p.channel, "/test.T/Echo", "x", 5000, NULL), ST_OK); /* a connection stands */
    from = clock_now_ns();
    assert_true(rpc_server_drain(p.server, clock_in_ms(10000)));
    assert_in_range((clock_now_ns() - from) / NS_PER_MS, 0, 1500);
    rpc_pair_close(&p);
}

struct late {
    struct rpc_call *call;
    int64_t sleep_ms;
};

static void *answer_late(void *arg)
{
    struct late *l = (struct late *)arg;
    Event e = PLATEN__V1__EVENT__INIT;

    usleep((useconds_t)l->sleep_ms * 1000);
    rpc_call_reply(l->call, &e.base);
    rpc_call_unref(l->call);
    return NULL;
}

static void a_drain_waits_for_the_running_call(void **state)
{
    struct rpc_pair p;
    struct rpc_stream *s;
    struct late late = { NULL, 300 };
    Request r = request_of("slow");
    ProtobufCMessage *msg = NULL;
    pthread_t worker;

    (void)state;
    rpc_pair_open(&p, NULL, NULL);
    assert_int_equal(rpc_stream_open(&s, p.channel, "/test.T/Echo", &r.base, &platen__v1__event__descriptor,
                                     clock_in_ms(20000), NULL),
                     ST_OK);
    late.call = rpc_pair_held(&p);
    pthread_create(&worker, NULL, answer_late, &late);
    assert_true(rpc_server_drain(p.server, clock_in_ms(10000)));
    assert_int_equal(rpc_stream_next(s, clock_in_ms(2000), &msg, NULL), ST_OK);
    assert_non_null(msg);
    rpc_message_free(msg);
    assert_int_equal(rpc_stream_next(s, clock_in_ms(2000), &msg, NULL), ST_OK);
    assert_null(msg);
    pthread_join(worker, NULL);
    rpc_stream_close(s);
    assert_int_equal(ask(p.channel, "/test.T/Echo", "x", 5000, NULL), ST_EUNAVAILABLE); /* nobody new comes in */
    rpc_pair_close(&p);
}

static void a_drain_cancels_at_its_deadline(void **state)
{
    struct rpc_pair p;
    struct rpc_stream *s;
    Request r = request_of("slow");
    ProtobufCMessage *msg = NULL;
    struct rpc_call *held;
    int64_t from;

    (void)state;
    rpc_pair_open(&p, NULL, NULL);
    assert_int_equal(rpc_stream_open(&s, p.channel, "/test.T/Echo", &r.base, &platen__v1__event__descriptor,
                                     clock_in_ms(20000), NULL),
                     ST_OK);
    held = rpc_pair_held(&p);
    from = clock_now_ns();
    assert_false(rpc_server_drain(p.server, clock_in_ms(200)));
    assert_in_range((clock_now_ns() - from) / NS_PER_MS, 190, 1500);
    assert_true(rpc_call_cancelled(held));
    assert_int_equal(rpc_stream_next(s, clock_in_ms(2000), &msg, NULL), ST_EUNAVAILABLE);
    rpc_stream_close(s);
    rpc_call_unref(held);
    rpc_pair_close(&p);
}

/* The other process: a client that learns the port through a pipe, opens a stream and is then stopped by a signal. */
static void call_until_killed(int in)
{
    struct rpc_client *client;
    struct rpc_channel *ch;
    struct rpc_stream *s;
    Request r = request_of("x");
    char target[40];
    int port;

    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves nobody behind who is stopped and holds its output */
    if (read(in, &port, sizeof(port)) != sizeof(port))
        _exit(1);
    snprintf(target, sizeof(target), "127.0.0.1:%d", port);
    if (rpc_client_open(&client, 1, NULL) != ST_OK || rpc_channel_open(&ch, client, target, NULL, NULL) != ST_OK ||
        rpc_stream_open(&s, ch, "/test.T/Flood", &r.base, &platen__v1__event__descriptor, INT64_MAX, NULL) != ST_OK)
        _exit(1);
    for (;;)
        pause();
}

/* A pair whose server is called by a process that froze in the middle. */
static pid_t frozen_caller(struct rpc_pair *p, const struct rpc_server_options *o)
{
    int pipe_ends[2], port;
    pid_t child;

    assert_int_equal(pipe(pipe_ends), 0);
    child = fork(); /* before gRPC is in this process */
    if (child == 0)
        call_until_killed(pipe_ends[0]);
    rpc_pair_open(p, o, NULL);
    port = rpc_server_port(p->server);
    assert_int_equal(write(pipe_ends[1], &port, sizeof(port)), sizeof(port));
    rpc_call_unref(rpc_pair_held(p));
    kill(child, SIGSTOP);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
    return child;
}

static void a_frozen_client_is_given_up(void **state)
{
    struct rpc_server_options o = options_at("127.0.0.1:0");
    struct rpc_pair p;
    int64_t from;
    pid_t child;

    (void)state;
    o.keepalive_ms = 1000;
    o.keepalive_timeout_ms = 1000;
    child = frozen_caller(&p, &o);
    from = clock_now_ns();
    assert_true(reaches(&p.cancelled, 1));
    assert_in_range((clock_now_ns() - from) / NS_PER_MS, 200, 8000);
    assert_true(rpc_server_drain(p.server, clock_in_ms(2000))); /* a call leaves the list after its end is told */
    assert_int_equal(rpc_server_calls(p.server), 0);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    rpc_pair_close(&p);
}

static void a_drain_does_not_wait_for_a_frozen_client(void **state)
{
    struct rpc_pair p;
    int64_t from;
    pid_t child;

    (void)state;
    child = frozen_caller(&p, NULL);
    from = clock_now_ns();
    assert_false(rpc_server_drain(p.server, clock_in_ms(300)));
    assert_in_range((clock_now_ns() - from) / NS_PER_MS, 290, 1500);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    rpc_pair_close(&p);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_frozen_client_is_given_up),
        cmocka_unit_test(a_drain_does_not_wait_for_a_frozen_client),
        cmocka_unit_test(addresses_are_read_as_people_write_them),
        cmocka_unit_test(a_port_in_use_is_refused_by_name),
        cmocka_unit_test(a_host_that_is_not_ours_is_refused),
        cmocka_unit_test(a_server_that_never_started_closes),
        cmocka_unit_test(a_port_is_free_again_after_close),
        cmocka_unit_test(only_callers_with_the_token_come_in),
        cmocka_unit_test(an_idle_server_drains_at_once),
        cmocka_unit_test(a_drain_waits_for_the_running_call),
        cmocka_unit_test(a_drain_cancels_at_its_deadline),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
