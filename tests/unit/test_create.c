/* SPDX-License-Identifier: Apache-2.0 */
/* test_create.c - Contexts.Create at its end: the context is kept for a caller who is there, and for nobody else. */
#include "common/rpc/rpc_message.h"
#include "decode-node/context.h"
#include "decode-node/node.h"
#include "decode-node/stream.h"
#include "tests/support/cmocka_main.h"
#include "tests/unit/rpc_pair.h"

static struct rpc_pair pair;
static struct node node;

static int open_all(void **state)
{
    struct err err = { 0 };

    (void)state;
    memset(&node, 0, sizeof node);
    rpc_pair_open(&pair, NULL, NULL);
    node.parts.name = "here";
    node.parts.metrics = metrics_open(64);
    node_register_metrics(&node);
    node.contexts = contexts_open(4);
    assert_int_equal(stream_open(&node.stream, &err), ST_OK);
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    stream_close(node.stream);
    contexts_close(node.contexts);
    metrics_close(node.parts.metrics);
    rpc_pair_close(&pair);
    return 0;
}

/* A request whose context has just been adopted, on a call that a caller waits for. */
static struct request *adopted(struct rpc_call *call)
{
    struct request *r = request_open(&node, REQUEST_CREATE, call, NULL);

    r->context = context_open(NULL, 2);
    r->phase = PHASE_READY;
    return r;
}

static struct rpc_stream *ask(void)
{
    Request r = request_of("slow");
    struct rpc_stream *s;

    assert_int_equal(rpc_stream_open(&s, pair.channel, "/test.T/Echo", &r.base,
                                     &platen__v1__create_response__descriptor, clock_in_ms(20000), NULL),
                     ST_OK);
    return s;
}

/* The stream thread looks at it, ends the call and lets go; the callbacks' count is the test's. */
static void answer(struct request *r)
{
    stream_take(node.stream, r);
    stream_end(node.stream);
}

static void a_context_is_kept_for_a_caller_who_is_there(void **state)
{
    struct rpc_stream *s = ask();
    struct rpc_call *call = rpc_pair_held(&pair);
    struct request *r = adopted(call);
    ProtobufCMessage *msg = NULL;
    struct err err = { 0 };

    (void)state;
    answer(r);
    assert_int_equal(contexts_count(node.contexts), 1);
    assert_int_equal(rpc_stream_next(s, clock_in_ms(10000), &msg, &err), ST_OK);
    assert_string_equal(((Platen__V1__CreateResponse *)msg)->handle, r->handle);
    rpc_message_free(msg);
    request_forget(r);
    request_forget(r); /* a second time is fine */
    assert_int_equal(contexts_count(node.contexts), 0);
    request_unref(r);
    rpc_call_unref(call);
    rpc_stream_close(s);
}

static void no_context_is_kept_for_a_caller_who_went_away(void **state)
{
    struct rpc_stream *s = ask();
    struct rpc_call *call = rpc_pair_held(&pair);
    struct request *r = adopted(call);

    (void)state;
    rpc_stream_close(s);
    assert_true(reaches(&pair.cancelled, 1));
    answer(r);
    assert_int_equal(contexts_count(node.contexts), 0);
    assert_true(metric_value(node.m_requests_failed) == 1);
    request_unref(r);
    rpc_call_unref(call);
}

static void no_context_is_kept_for_a_caller_whose_call_has_ended(void **state)
{
    struct rpc_stream *s = ask();
    struct rpc_call *call = rpc_pair_held(&pair);
    struct request *r = adopted(call);

    (void)state;
    __atomic_store_n(&r->gone, true, __ATOMIC_SEQ_CST); /* as on_end says it, before it is kept */
    answer(r);
    assert_int_equal(contexts_count(node.contexts), 0);
    rpc_stream_close(s);
    request_unref(r);
    rpc_call_unref(call);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_context_is_kept_for_a_caller_who_is_there, open_all, close_all),
        cmocka_unit_test_setup_teardown(no_context_is_kept_for_a_caller_who_went_away, open_all, close_all),
        cmocka_unit_test_setup_teardown(no_context_is_kept_for_a_caller_whose_call_has_ended, open_all, close_all),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
