/* SPDX-License-Identifier: Apache-2.0 */
/* test_reflection.c - what a stranger's tool learns. */
#include "tests/support/cmocka_main.h"

#include "common/base/clock.h"
#include "common/rpc/rpc_channel.h"
#include "common/rpc/rpc_message.h"
#include "common/rpc/rpc_server.h"
#include "common/service/health.h"
#include "common/service/reflection.h"
#include "proto/grpc/reflection/v1/reflection.pb-c.h"

#include <stdatomic.h>
#include <unistd.h>

typedef Grpc__Reflection__V1__ServerReflectionRequest Request;
typedef Grpc__Reflection__V1__ServerReflectionResponse Response;

#define CASE(word) GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_##word
#define ANSWER(word) GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_##word

struct fixture {
    struct reflection *reflection;
    struct health *health;
    struct rpc_server *server;
    struct rpc_client *client;
    struct rpc_channel *channel;
    const char *version;

    /* the last answer, and how many came */
    ProtobufCMessage *answer;
    atomic_int answers, done;
};

static int fixture_open(void **state)
{
    static const char *const names[] = { "" };
    static struct fixture f;
    struct rpc_server_options o;

    memset(&f, 0, sizeof(f));
    f.version = "v1";
    rpc_server_options_init(&o);
    o.listen = "127.0.0.1:0";
    f.health = health_open(names, 1);
    if (reflection_open(&f.reflection, NULL) != ST_OK || rpc_server_open(&f.server, &o, NULL) != ST_OK)
        return -1;
    health_add(f.health, f.server);
    reflection_add(f.reflection, f.server);
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
    rpc_message_free(f->answer);
    reflection_close(f->reflection);
    health_close(f->health);
    return 0;
}

static void on_message(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    struct fixture *f = (struct fixture *)owner;

    rpc_call_keep(call);
    rpc_message_free(f->answer);
    f->answer = (ProtobufCMessage *)msg;
    atomic_fetch_add(&f->answers, 1);
    rpc_call_want(call);
}

static void on_done(struct rpc_call *call, void *owner, const struct rpc_end *end)
{
    (void)call;
    (void)end;
    atomic_fetch_add(&((struct fixture *)owner)->done, 1);
}

static const struct rpc_events events = { .message = on_message, .done = on_done };

/* One question on a stream of its own; the answer is the fixture's until the next. */
static const Response *ask(struct fixture *f, int what, const char *text)
{
    struct rpc_call_options o = {
        .deadline_ns = clock_in_ms(5000), .one_message = true, .events = &events, .owner = f
    };
    Request q = GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__INIT;
    struct rpc_call *call = NULL;
    char method[100];
    int before = atomic_load(&f->answers), done = atomic_load(&f->done);

    snprintf(method, sizeof(method), "/grpc.reflection.%s.ServerReflection/ServerReflectionInfo", f->version);
    o.method = method;
    o.reply = &grpc__reflection__v1__server_reflection_response__descriptor;
    q.host = (char *)"here";
    q.message_request_case = (Grpc__Reflection__V1__ServerReflectionRequest__MessageRequestCase)what;
    q.list_services = (char *)text; /* all words are strings in one place */
    assert_int_equal(rpc_call_start(&call, f->channel, &o, &q.base, NULL), ST_OK);
    for (int i = 0; i < 5000 && atomic_load(&f->done) == done; i++)
        usleep(1000);
    assert_int_equal(atomic_load(&f->done), done + 1);
    assert_int_equal(atomic_load(&f->answers), before + 1);
    rpc_call_unref(call);
    return (const Response *)f->answer;
}

static int has_service(const Response *r, const char *name)
{
    for (size_t i = 0; i < r->list_services_response->n_service; i++)
        if (strcmp(r->list_services_response->service[i]->name, name) == 0)
            return 1;
    return 0;
}

static void services_of_the_server_are_listed(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    static const char *const versions[] = { "v1", "v1alpha" };

    for (size_t i = 0; i < ARRAY_LEN(versions); i++) {
        const Response *r;

        f->version = versions[i];
        r = ask(f, CASE(LIST_SERVICES), "*");
        assert_int_equal(r->message_response_case, ANSWER(LIST_SERVICES_RESPONSE));
        assert_int_equal(r->list_services_response->n_service, 3);
        assert_true(has_service(r, "grpc.health.v1.Health"));
        assert_true(has_service(r, "grpc.reflection.v1.ServerReflection"));
        assert_true(has_service(r, "grpc.reflection.v1alpha.ServerReflection"));
        assert_false(has_service(r, "platen.internal.v1.Prefill")); /* not of this server */
        assert_string_equal(r->valid_host, "here");
        assert_string_equal(r->original_request->list_services, "*");
    }
}

/* The file's own name is field 1 of its bytes. */
static void first_file_is(const Response *r, const char *name)
{
    struct cursor c;
    struct rpc_field field;

    assert_int_equal(r->message_response_case, ANSWER(FILE_DESCRIPTOR_RESPONSE));
    assert_true(r->file_descriptor_response->n_file_descriptor_proto >= 1);
    c = cursor_on(r->file_descriptor_response->file_descriptor_proto[0].data,
                  r->file_descriptor_response->file_descriptor_proto[0].len);
    assert_true(rpc_field_next(&c, &field));
    assert_int_equal(field.number, 1);
    assert_int_equal(field.bytes, strlen(name));
    assert_memory_equal(field.data, name, field.bytes);
}

static void files_are_found_by_name_and_by_symbol(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    static const char *const symbols[] = { "platen.v1.Inference", "platen.v1.Inference.Generate",
                                           "platen.v1.GenerateRequest", "platen.v1.GenerateRequest.context" };

    first_file_is(ask(f, CASE(FILE_BY_FILENAME), "platen/v1/inference.proto"), "platen/v1/inference.proto");
    for (size_t i = 0; i < ARRAY_LEN(symbols); i++)
        first_file_is(ask(f, CASE(FILE_CONTAINING_SYMBOL), symbols[i]), "platen/v1/inference.proto");
    first_file_is(ask(f, CASE(FILE_CONTAINING_SYMBOL), "grpc.health.v1.HealthCheckResponse.ServingStatus"),
                  "grpc/health/v1/health.proto");
}

static void what_is_not_there_is_not_found(void **state)
{
    struct fixture *f = (struct fixture *)*state;
    static const int kinds[] = { CASE(FILE_BY_FILENAME), CASE(FILE_CONTAINING_SYMBOL),
                                 CASE(ALL_EXTENSION_NUMBERS_OF_TYPE) };

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        const Response *r = ask(f, kinds[i], "no.such.thing");

        assert_int_equal(r->message_response_case, ANSWER(ERROR_RESPONSE));
        assert_int_equal(r->error_response->error_code, 5);
    }
    assert_int_equal(ask(f, CASE(ALL_EXTENSION_NUMBERS_OF_TYPE), "platen.v1.Event")->message_response_case,
                     ANSWER(ALL_EXTENSION_NUMBERS_RESPONSE));
    assert_int_equal(ask(f, 0, NULL)->message_response_case, ANSWER(ERROR_RESPONSE));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(services_of_the_server_are_listed, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(files_are_found_by_name_and_by_symbol, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(what_is_not_there_is_not_found, fixture_open, fixture_close),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
