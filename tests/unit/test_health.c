/* SPDX-License-Identifier: Apache-2.0 */
/* test_health.c - Check and Watch, as a caller sees them. */
#include "tests/support/cmocka_main.h"

#include "common/base/clock.h"
#include "common/rpc/rpc_channel.h"
#include "common/rpc/rpc_message.h"
#include "common/rpc/rpc_server.h"
#include "common/service/health.h"
#include "proto/grpc/health/v1/health.pb-c.h"

#include <unistd.h>

typedef Grpc__Health__V1__HealthCheckRequest Request;
typedef Grpc__Health__V1__HealthCheckResponse Response;

enum { SERVING = 1, NOT_SERVING = 2, SERVICE_UNKNOWN = 3 };

struct fixture {
    struct health *health;
    struct rpc_server *server;
    struct rpc_client *client;
    struct rpc_channel *channel;
};

static int fixture_open(void **state)
{
    static const char *const names[] = { "", "platen.v1.Inference" };
    static struct fixture f;
    struct rpc_server_options o;

    rpc_server_options_init(&o);
    o.listen = "127.0.0.1:0";
    o.token = "secret"; /* health is asked without */
    f.health = health_open(names, 2);
    if (rpc_server_open(&f.server, &o, NULL) != ST_OK)
        return -1;
    health_add(f.health, f.server);
    if (rpc_server_start(f.server, NULL) != ST_OK || rpc_client_open(&f.client, 1, NULL) != ST_OK)
        return -1;
    *state = &f;
    return rpc_channel_open(&f.channel, f.client, rpc_server_address(f.server), NULL, NULL);
}

static int fixture_close(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    rpc_channel_close(f->channel);
    rpc_client_close(f->client);
    rpc_server_close(f->server);
    health_close(f->health);
    return 0;
}

/* The state, or a negative status. */
static int check(struct fixture *f, const char *name)
{
    Request r = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    ProtobufCMessage *reply = NULL;
    enum status st;
    int answer;

    r.service = (char *)name;
    st = rpc_call_unary(f->channel, "/grpc.health.v1.Health/Check", &r.base,
                        &grpc__health__v1__health_check_response__descriptor, clock_in_ms(5000), &reply, NULL);
    answer = st == ST_OK ? (int)((Response *)reply)->status : (int)st;
    rpc_message_free(reply);
    return answer;
}

static struct rpc_stream *watch(struct fixture *f, const char *name)
{
    Request r = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    struct rpc_stream *s = NULL;

    r.service = (char *)name;
    assert_int_equal(rpc_stream_open(&s, f->channel, "/grpc.health.v1.Health/Watch", &r.base,
                                     &grpc__health__v1__health_check_response__descriptor, INT64_MAX, NULL),
                     ST_OK);
    return s;
}

/* What the watch hears next: a state, 0 for nothing within ms, or a negative status. */
static int hear(struct rpc_stream *s, int64_t ms)
{
    ProtobufCMessage *msg = NULL;
    enum status st = rpc_stream_next(s, clock_in_ms(ms), &msg, NULL);
    int answer = st == ST_AGAIN ? 0 : (int)st;

    if (msg != NULL)
        answer = (int)((Response *)msg)->status;
    rpc_message_free(msg);
    return answer;
}

static void check_follows_what_was_set(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    assert_int_equal(check(f, ""), NOT_SERVING);
    health_set(f->health, "", true);
    assert_int_equal(check(f, ""), SERVING);
    assert_int_equal(check(f, "platen.v1.Inference"), NOT_SERVING);
    health_set(f->health, NULL, true);
    assert_int_equal(check(f, "platen.v1.Inference"), SERVING);
    health_set(f->health, "", false);
    assert_int_equal(check(f, ""), NOT_SERVING);
    assert_int_equal(check(f, "no.such.Service"), ST_ENOTFOUND);
}

static void a_watch_hears_every_change_once(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct rpc_stream *s = watch(f, "");

    assert_int_equal(hear(s, 2000), NOT_SERVING);
    health_set(f->health, "", true);
    assert_int_equal(hear(s, 2000), SERVING);
    health_set(f->health, "", true);
    health_set(f->health, "platen.v1.Inference", true);
    assert_int_equal(hear(s, 100), 0);
    health_set(f->health, "", false);
    assert_int_equal(hear(s, 2000), NOT_SERVING);
    rpc_stream_close(s);
}

static void a_watch_of_an_unknown_name_waits(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct rpc_stream *s = watch(f, "no.such.Service");

    assert_int_equal(hear(s, 2000), SERVICE_UNKNOWN);
    assert_int_equal(hear(s, 100), 0);
    rpc_stream_close(s);
}

static void a_drain_does_not_wait_for_watches(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    struct rpc_stream *s = watch(f, ""), *unknown = watch(f, "no.such.Service");
    int64_t from;

    health_set(f->health, NULL, true);
    while (hear(s, 2000) != SERVING)
        ;
    assert_int_equal(hear(unknown, 2000), SERVICE_UNKNOWN);
    from = clock_now_ns();
    health_shutdown(f->health);
    assert_true(rpc_server_drain(f->server, clock_in_ms(10000)));
    assert_in_range((clock_now_ns() - from) / NS_PER_MS, 0, 1500);
    assert_int_equal(hear(s, 2000), NOT_SERVING);
    assert_int_equal(hear(s, 2000), ST_EUNAVAILABLE);
    assert_int_equal(hear(unknown, 2000), ST_EUNAVAILABLE);
    health_set(f->health, NULL, true); /* too late, and harmless */
    rpc_stream_close(s);
    rpc_stream_close(unknown);
}

static void a_watch_that_hangs_up_is_forgotten(void **state)
{
    struct fixture *f = (struct fixture *)*state;

    for (int i = 0; i < 50; i++) {
        struct rpc_stream *s = watch(f, "");

        if (i % 2 == 0)
            assert_int_equal(hear(s, 2000), NOT_SERVING);
        rpc_stream_close(s);
        health_set(f->health, "", true); /* while the hang-up is on its way */
        health_set(f->health, "", false);
    }
    for (int i = 0; i < 2000 && rpc_server_calls(f->server) > 0; i++)
        usleep(1000);
    assert_int_equal(rpc_server_calls(f->server), 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(check_follows_what_was_set, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(a_watch_hears_every_change_once, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(a_watch_of_an_unknown_name_waits, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(a_drain_does_not_wait_for_watches, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(a_watch_that_hangs_up_is_forgotten, fixture_open, fixture_close),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
