/* SPDX-License-Identifier: Apache-2.0 */
/* test_rpc_call.c - what a call promises, from both of its ends. */
#include "tests/support/cmocka_main.h"
#include "tests/unit/rpc_pair.h"

#include "common/rpc/rpc_message.h"

#include <dirent.h>
#include <stdlib.h>
#include <unistd.h>

static enum status ask(struct rpc_pair *p, const char *method, Request *r, int64_t ms, Event **out, struct err *err)
{
    ProtobufCMessage *reply = NULL;
    enum status st =
        rpc_call_unary(p->channel, method, &r->base, &platen__v1__event__descriptor, clock_in_ms(ms), &reply, err);

    if (out != NULL)
        *out = (Event *)reply;
    else
        rpc_message_free(reply);
    return st;
}

static void a_unary_call_gives_the_answer(void **state)
{
    struct rpc_pair p;
    struct err err = { 0 };
    Request r = request_of("h\xC3\xA9llo");
    Event *e = NULL;

    (void)state;
    rpc_pair_open(&p, NULL, NULL);
    assert_int_equal(ask(&p, "/test.T/Echo", &r, 5000, &e, &err), ST_OK);
    assert_int_equal(e->text.len, 6);
    assert_memory_equal(e->text.data, "h\xC3\xA9llo", 6);
    rpc_message_free(&e->base);
    assert_true(reaches(&p.done, 1));
    assert_int_equal(atomic_load(&p.last_status), ST_OK);
    assert_int_equal(atomic_load(&p.cancelled), 0);
    rpc_pair_close(&p);
}

static void a_nul_never_cuts_a_text(void **state)
{
    struct rpc_pair p;
    struct err err = { 0 };
    Request r = request_of("");
    Event *e = NULL;

    (void)state;
    rpc_pair_open(&p, NULL, NULL);
    r.context.data = (uint8_t *)"a\0b\0";
    r.context.len = 4;
    assert_int_equal(ask(&p, "/test.T/Echo", &r, 5000, &e, &err), ST_OK);
    assert_int_equal(e->text.len, 4);
    assert_memory_equal(e->text.data, "a\0b\0", 4);
    rpc_message_free(&e->base);
    rpc_pair_close(&p);
}

static void an_error_carries_its_sentence(void **state)
{
    struct rpc_pair p;
    struct err err = { 0 };
    Request r = request_of("fail");

    (void)state;
    rpc_pair_open(&p, NULL, NULL);
    assert_int_equal(ask(&p, "/test.T/Echo", &r, 5000, NULL, &err), ST_EEXHAUSTED);
    assert_string_equal(err.text, "full: \xE2\x9C\x93\n  ^ here");
    rpc_pair_close(&p);
}

static void an_error_carries_its_retry_delay(void **state)
{
    struct rpc_pair p;
    struct err err = { 0 };
    Request r = request_of("fail");
    struct rpc_stream *s;
    ProtobufCMessage *msg;

    (void)state;
    rpc_pair_open(&p, NULL, NULL);
    assert_int_equal(rpc_stream_open(&s, p.channel, "/test.T/Echo", &r.base, &platen__v1__event__descriptor,
                                     clock_in_ms(5000), &err),
                     ST_OK);
    assert_int_equal(rpc_stream_next(s, clock_in_ms(5000), &msg, &err), ST_EEXHAUSTED);
    assert_int_equal(rpc_stream_retry_ms(s), 250);
    rpc_stream_close(s);
    rpc_pair_close(&p);
}

static void an_unknown_method_is_unimplemented(void **state)
{
    struct rpc_pair p;
    struct err err = { 0 };
    Request r = request_of("x");

    (void)state;
    rpc_pair_open(&p, NULL, NULL);
    for (int i = 0; i < 20; i++) {
        err_clear(&err);
        assert_int_equal(ask(&p, "/platen.internal.v1.Prefill/Run", &r, 5000, NULL, &err), ST_EUNIMPLEMENTED);
        assert_non_null(strstr(err.text, "/platen.internal.v1.Prefill/Run"));
    }
    rpc_pair_close(&p);
}

static void bad_utf8_is_invalid(void **state)
{
    struct rpc_pair p;
    struct err err = { 0 };
    Request r = request_of("a\xFF");

    (void)state;
    rpc_pair_open(&p, NULL, NULL);
    assert_int_equal(ask(&p, "/test.T/Echo", &r, 5000, NULL, &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "context"));
    assert_non_null(strstr(err.text, "UTF-8"));
    assert_int_equal(atomic_load(&p.messages), 0);
    rpc_pair_close(&p);
}

static void a_message_of_another_kind_is_invalid(void **state)
{
    struct rpc_pair p;
    struct err err = { 0 };
    Platen__V1__RowCounts other = PLATEN__V1__ROW_COUNTS__INIT; /* field 1 is a varint there, text here */
    ProtobufCMessage *reply = NULL;

    (void)state;
    rpc_pair_open(&p, NULL, NULL);
    other.min = 7;
    assert_int_equal(rpc_call_unary(p.channel, "/test.T/Echo", &other.base, &platen__v1__event__descriptor,
                                    clock_in_ms(5000), &reply, &err),
                     ST_EINVAL);
    assert_int_equal(atomic_load(&p.messages), 0);
    rpc_pair_close(&p);
}

static void a_message_too_large_is_refused(void **state)
{
    struct rpc_pair p;
    struct err err = { 0 };
    struct rpc_server_options o;
    char *big = (char *)malloc(300001);
    Request r;

    (void)state;
    memset(big, 'x', 300000);
    big[300000] = '\0';
    r = request_of(big);
    rpc_server_options_init(&o);
    o.listen = "127.0.0.1:0";
    o.receive_max_bytes = 200000;
    rpc_pair_open(&p, &o, NULL);
    assert_int_equal(ask(&p, "/test.T/Echo", &r, 5000, NULL, &err), ST_EEXHAUSTED);
    assert_int_equal(ask(&p, "/test.T/Count", &r, 5000, NULL, NULL), ST_EEXHAUSTED);
    assert_int_equal(atomic_load(&p.messages), 0);
    free(big);
    rpc_pair_close(&p);
}

static void a_stream_comes_in_order_to_its_end(void **state)
{
    struct rpc_pair p;
    struct err err = { 0 };
    Request r = request_of("x");
    struct rpc_stream *s;
    ProtobufCMessage *msg;
    int left = 5000;

    (void)state;
    rpc_pair_open(&p, NULL, NULL);
    r.has_max_new_tokens_case = PLATEN__V1__GENERATE_REQUEST__HAS_MAX_NEW_TOKENS_MAX_NEW_TOKENS;
    r.max_new_tokens = left;
    assert_int_equal(rpc_stream_open(&s, p.channel, "/test.T/Count", &r.base, &platen__v1__event__descriptor,
                                     clock_in_ms(20000), &err),
                     ST_OK);
    while (rpc_stream_next(s, clock_in_ms(5000), &msg, &err) == ST_OK && msg != NULL) {
        assert_int_equal(((Event *)msg)->question_index, left--);
        rpc_message_free(msg);
    }
    assert_int_equal(left, 0);
    assert_int_equal(rpc_stream_next(s, clock_in_ms(5000), &msg, &err), ST_OK);
    assert_null(msg);
    rpc_stream_close(s);
    rpc_pair_close(&p);
}

static void the_server_sees_a_cancel(void **state)
{
    struct rpc_pair p;
    struct err err = { 0 };
    Request r = request_of("slow");
    struct rpc_stream *s;
    struct rpc_call *held;
    ProtobufCMessage *msg;

    (void)state;
    rpc_pair_open(&p, NULL, NULL);
    assert_int_equal(rpc_stream_open(&s, p.channel, "/test.T/Echo", &r.base, &platen__v1__event__descriptor,
                                     clock_in_ms(20000), &err),
                     ST_OK);
    held = rpc_pair_held(&p);
    assert_false(rpc_call_cancelled(held));
    assert_int_equal(rpc_stream_next(s, clock_in_ms(20), &msg, &err), ST_AGAIN);
    rpc_stream_cancel(s);
    assert_int_equal(rpc_stream_next(s, clock_in_ms(2000), &msg, &err), ST_ECANCELLED);
    assert_true(reaches(&p.cancelled, 1));
    assert_true(rpc_call_cancelled(held));
    assert_int_equal(atomic_load(&p.last_status), ST_ECANCELLED);
    rpc_call_unref(held);
    rpc_stream_close(s);
    rpc_pair_close(&p);
}

static void a_deadline_ends_both_sides(void **state)
{
    struct rpc_pair p;
    struct err err = { 0 };
    Request r = request_of("slow");
    int64_t from = clock_now_ns(), left;
    struct rpc_call *held;

    (void)state;
    rpc_pair_open(&p, NULL, NULL);
    assert_int_equal(ask(&p, "/test.T/Echo", &r, 200, NULL, &err), ST_EDEADLINE);
    assert_in_range((clock_now_ns() - from) / NS_PER_MS, 190, 1500);
    assert_true(reaches(&p.cancelled, 1));
    assert_int_equal(atomic_load(&p.last_status), ST_EDEADLINE);
    held = rpc_pair_held(&p);
    left = rpc_call_deadline_ns(held) - from;
    assert_in_range(left / NS_PER_MS, 150, 400);
    rpc_call_unref(held);
    rpc_pair_close(&p);
}

static void a_call_that_ended_takes_nothing(void **state)
{
    struct rpc_pair p;
    Request r = request_of("slow");
    Event e = PLATEN__V1__EVENT__INIT;
    struct rpc_call *held;

    (void)state;
    rpc_pair_open(&p, NULL, NULL);
    assert_int_equal(ask(&p, "/test.T/Echo", &r, 100, NULL, NULL), ST_EDEADLINE);
    held = rpc_pair_held(&p);
    assert_true(reaches(&p.done, 1));
    assert_int_equal(rpc_call_send(held, &e.base), ST_ECANCELLED);
    assert_int_equal(rpc_call_wait_room(held, clock_in_ms(100)), ST_ECANCELLED);
    rpc_call_reply(held, &e.base);
    rpc_call_finish(held, ST_OK, NULL, -1);
    rpc_call_abort(held, ST_EINTERNAL, "late");
    rpc_call_want(held);
    assert_int_equal(atomic_load(&p.done), 1);
    rpc_call_unref(held);
    rpc_pair_close(&p);
}

/* A worker keeps a cancelled call across the end of the whole server. */
static void a_call_outlives_its_server(void **state)
{
    struct rpc_pair p;
    Request r = request_of("slow");
    Event e = PLATEN__V1__EVENT__INIT;
    struct rpc_call *held;

    (void)state;
    rpc_pair_open(&p, NULL, NULL);
    assert_int_equal(ask(&p, "/test.T/Echo", &r, 100, NULL, NULL), ST_EDEADLINE);
    held = rpc_pair_held(&p);
    rpc_pair_close(&p);
    assert_true(rpc_call_cancelled(held));
    assert_int_equal(rpc_call_send(held, &e.base), ST_ECANCELLED);
    rpc_call_finish(held, ST_EINTERNAL, "late", 1);
    rpc_call_unref(held);
}

static void a_reader_that_sleeps_fills_a_bounded_queue(void **state)
{
    struct rpc_pair p;
    struct err err = { 0 };
    Request r = request_of("x");
    struct rpc_stream *s;
    struct rpc_call *held;
    ProtobufCMessage *msg;
    Event e = PLATEN__V1__EVENT__INIT;
    int flooded;

    (void)state;
    rpc_pair_open(&p, NULL, NULL);
    assert_int_equal(rpc_stream_open(&s, p.channel, "/test.T/Flood", &r.base, &platen__v1__event__descriptor,
                                     clock_in_ms(20000), &err),
                     ST_OK);
    held = rpc_pair_held(&p);
    usleep(300000);
    flooded = atomic_load(&p.flooded);
    assert_in_range(flooded, 256, 4096); /* 256 queued here and what gRPC's windows took */
    assert_int_equal(rpc_call_send(held, &e.base), ST_AGAIN);
    assert_int_equal(rpc_call_wait_room(held, clock_in_ms(50)), ST_AGAIN);
    assert_in_range(rpc_call_queued_bytes(held), 1, (4 << 20) + 20000);
    usleep(200000);
    assert_int_equal(atomic_load(&p.flooded), flooded); /* nothing moves until somebody reads */

    for (int i = 0; i < 1000; i++) {
        assert_int_equal(rpc_stream_next(s, clock_in_ms(5000), &msg, &err), ST_OK);
        assert_non_null(msg);
        rpc_message_free(msg);
    }
    assert_true(reaches(&p.flooded, flooded + 500)); /* room() was told */
    rpc_call_unref(held);
    rpc_stream_close(s);
    assert_true(reaches(&p.cancelled, 1));
    rpc_pair_close(&p);
}

static void an_abort_reaches_a_reader_that_slept(void **state)
{
    struct rpc_pair p;
    struct err err = { 0 };
    Request r = request_of("x");
    struct rpc_stream *s;
    struct rpc_call *held;
    ProtobufCMessage *msg;
    enum status st;

    (void)state;
    rpc_pair_open(&p, NULL, NULL);
    assert_int_equal(rpc_stream_open(&s, p.channel, "/test.T/Flood", &r.base, &platen__v1__event__descriptor,
                                     clock_in_ms(20000), &err),
                     ST_OK);
    held = rpc_pair_held(&p);
    usleep(100000);
    rpc_call_abort(held, ST_EEXHAUSTED, "the answer was not read");
    assert_true(reaches(&p.done, 1));
    assert_int_equal(atomic_load(&p.last_status), ST_EEXHAUSTED);
    while ((st = rpc_stream_next(s, clock_in_ms(5000), &msg, &err)) == ST_OK && msg != NULL)
        rpc_message_free(msg);
    assert_int_equal(st, ST_EEXHAUSTED);
    assert_string_equal(err.text, "the answer was not read");
    rpc_call_unref(held);
    rpc_stream_close(s);
    rpc_pair_close(&p);
}

/* The client's side of a bidirectional call. */
struct talk {
    atomic_int heard, done, status, bytes_wrong;
    atomic_ullong bytes;
};

static void talk_message(struct rpc_call *call, void *owner, const ProtobufCMessage *msg)
{
    struct talk *t = (struct talk *)owner;
    const Event *e = (const Event *)msg;
    char want[32];

    snprintf(want, sizeof(want), "line %d", atomic_load(&t->heard));
    if (e->text.len != strlen(want) || memcmp(e->text.data, want, e->text.len) != 0)
        atomic_fetch_add(&t->bytes_wrong, 1);
    atomic_fetch_add(&t->heard, 1);
    rpc_call_want(call);
}

static void talk_done(struct rpc_call *call, void *owner, const struct rpc_end *end)
{
    struct talk *t = (struct talk *)owner;

    (void)call;
    atomic_store(&t->status, end->status);
    atomic_fetch_add(&t->done, 1);
}

static const struct rpc_events talk_events = { .message = talk_message, .done = talk_done };

static struct rpc_call *talk_start(struct rpc_pair *p, struct talk *t, const struct rpc_events *events)
{
    struct rpc_call_options o = { .method = "/test.T/Chat",
                                  .reply = &platen__v1__event__descriptor,
                                  .deadline_ns = INT64_MAX,
                                  .events = events,
                                  .owner = t };
    Request r = request_of("line 0");
    struct rpc_call *call = NULL;

    memset(t, 0, sizeof(*t));
    assert_int_equal(rpc_call_start(&call, p->channel, &o, &r.base, NULL), ST_OK);
    return call;
}

static void both_sides_talk_until_the_client_closes(void **state)
{
    struct rpc_pair p;
    struct talk t;
    struct rpc_call *call;
    char line[32];

    (void)state;
    rpc_pair_open(&p, NULL, NULL);
    call = talk_start(&p, &t, &talk_events);
    for (int i = 1; i < 500; i++) {
        Request r;

        snprintf(line, sizeof(line), "line %d", i);
        r = request_of(line);
        while (rpc_call_send(call, &r.base) == ST_AGAIN)
            assert_int_equal(rpc_call_wait_room(call, clock_in_ms(2000)), ST_OK);
    }
    rpc_call_half_close(call);
    assert_true(reaches(&t.done, 1));
    assert_int_equal(atomic_load(&t.status), ST_OK);
    assert_int_equal(atomic_load(&t.heard), 500);
    assert_int_equal(atomic_load(&t.bytes_wrong), 0);
    assert_int_equal(atomic_load(&p.half_closed), 1);
    rpc_call_unref(call);
    rpc_pair_close(&p);
}

static void a_cancelled_stream_ends_on_both_sides(void **state)
{
    struct rpc_pair p;
    struct talk t;
    struct rpc_call *call;

    (void)state;
    rpc_pair_open(&p, NULL, NULL);
    call = talk_start(&p, &t, &talk_events);
    assert_true(reaches(&t.heard, 1));
    rpc_call_cancel(call);
    assert_true(reaches(&t.done, 1));
    assert_int_equal(atomic_load(&t.status), ST_ECANCELLED);
    assert_true(reaches(&p.cancelled, 1));
    assert_int_equal(atomic_load(&p.half_closed), 0);
    rpc_call_unref(call);
    rpc_pair_close(&p);
}

static void bulk_came(struct rpc_call *call, void *owner, struct rpc_buffer *buffer)
{
    struct talk *t = (struct talk *)owner;
    ProtobufCMessage *head = NULL;
    struct rpc_bulk bulk;
    struct rpc_span run;
    uint64_t at = atomic_load(&t->bytes);

    if (rpc_chunk_split(buffer, &bulk_chunk, &head, &bulk, NULL) != ST_OK || head == NULL ||
        ((Platen__Internal__V1__Chunk *)head)->offset != at || ((Platen__Internal__V1__Chunk *)head)->layer != 3)
        atomic_fetch_add(&t->bytes_wrong, 1);
    while (head != NULL && rpc_bulk_next(&bulk, &run)) {
        for (size_t i = 0; i < run.bytes; i++, at++)
            if (((const uint8_t *)run.data)[i] != (uint8_t)(at * 31 >> 3))
                atomic_fetch_add(&t->bytes_wrong, 1);
    }
    atomic_store(&t->bytes, at);
    rpc_message_free(head);
    rpc_buffer_free(buffer);
    rpc_call_want(call);
}

static const struct rpc_events bulk_events = { .buffer = bulk_came, .done = talk_done };

static struct rpc_call *bulk_start(struct rpc_pair *p, struct talk *t, uint64_t bytes)
{
    struct rpc_call_options o = { .method = "/test.T/Bulk", .deadline_ns = INT64_MAX, .events = &bulk_events };
    Platen__Internal__V1__ToPrefill m = PLATEN__INTERNAL__V1__TO_PREFILL__INIT;
    Platen__Internal__V1__Transfer transfer = PLATEN__INTERNAL__V1__TRANSFER__INIT;
    struct rpc_call *call = NULL;

    memset(t, 0, sizeof(*t));
    o.owner = t;
    transfer.bytes = bytes;
    m.kind_case = PLATEN__INTERNAL__V1__TO_PREFILL__KIND_TRANSFER;
    m.transfer = &transfer;
    assert_int_equal(rpc_call_start(&call, p->channel, &o, &m.base, NULL), ST_OK);
    return call;
}

static void bulk_arrives_whole_and_is_given_back(void **state)
{
    struct rpc_pair p;
    struct talk t;
    struct rpc_call *call;
    uint64_t bytes = 40 * (uint64_t)BULK_PIECE + 12345;

    (void)state;
    rpc_pair_open(&p, NULL, NULL);
    call = bulk_start(&p, &t, bytes);
    for (int i = 0; i < 20 && !reaches(&t.done, 1); i++)
        ;
    assert_int_equal(atomic_load(&t.status), ST_OK);
    assert_int_equal(atomic_load(&t.bytes_wrong), 0);
    assert_true(atomic_load(&t.bytes) == bytes);
    assert_true(reaches(&p.released, 41));
    rpc_call_unref(call);
    rpc_pair_close(&p);
    assert_int_equal(atomic_load(&p.released), 41);
}

static void bulk_is_given_back_when_the_receiver_goes(void **state)
{
    struct rpc_pair p;
    struct talk t;
    struct rpc_call *call;
    int released;

    (void)state;
    rpc_pair_open(&p, NULL, NULL);
    call = bulk_start(&p, &t, (uint64_t)1 << 40);
    for (int i = 0; i < 2000 && atomic_load(&t.bytes) < (10u << 20); i++)
        usleep(1000);
    rpc_call_cancel(call);
    assert_true(reaches(&t.done, 1));
    assert_true(reaches(&p.done, 1));
    rpc_call_unref(call);
    rpc_pair_close(&p);
    released = atomic_load(&p.released); /* the leak checker finds what was not */
    assert_in_range(released, 10, 1 << 20);
}

static void many_calls_at_once_all_end(void **state)
{
    struct rpc_pair p;
    struct rpc_stream *s[200];
    struct err err = { 0 };
    ProtobufCMessage *msg;
    Request r = request_of("hello");

    (void)state;
    rpc_pair_open(&p, NULL, NULL);
    for (size_t i = 0; i < ARRAY_LEN(s); i++)
        assert_int_equal(rpc_stream_open(&s[i], p.channel, "/test.T/Echo", &r.base, &platen__v1__event__descriptor,
                                         clock_in_ms(20000), &err),
                         ST_OK);
    for (size_t i = 0; i < ARRAY_LEN(s); i++) {
        if (i % 3 == 0)
            rpc_stream_cancel(s[i]);
        if (rpc_stream_next(s[i], clock_in_ms(5000), &msg, NULL) == ST_OK)
            rpc_message_free(msg);
        rpc_stream_close(s[i]);
    }
    for (int i = 0; i < 2000 && rpc_server_calls(p.server) > 0; i++)
        usleep(1000);
    assert_int_equal(rpc_server_calls(p.server), 0);
    rpc_pair_close(&p);
}

static size_t entries(const char *path)
{
    DIR *dir = opendir(path);
    size_t count = 0;

    while (readdir(dir) != NULL)
        count++;
    closedir(dir);
    return count;
}

static void three_hundred_cancels_leave_nothing(void **state)
{
    struct rpc_pair p;
    size_t threads = 0, descriptors = 0;

    (void)state;
    rpc_pair_open(&p, NULL, NULL);
    for (int i = 0; i < 310; i++) {
        Request r = request_of("slow");
        struct rpc_stream *s;

        assert_int_equal(rpc_stream_open(&s, p.channel, "/test.T/Echo", &r.base, &platen__v1__event__descriptor,
                                         clock_in_ms(20000), NULL),
                         ST_OK);
        if (i % 2 == 0)
            assert_true(reaches(&p.messages, 1));
        rpc_stream_cancel(s);
        rpc_stream_close(s);
        if (i == 10) { /* everything that is made once has been made */
            threads = entries("/proc/self/task");
            descriptors = entries("/proc/self/fd");
        }
    }
    for (int i = 0; i < 2000 && rpc_server_calls(p.server) > 0; i++)
        usleep(1000);
    assert_int_equal(rpc_server_calls(p.server), 0);
    assert_in_range(entries("/proc/self/task"), 1, threads);
    assert_in_range(entries("/proc/self/fd"), 1, descriptors + 8); /* a thread of gRPC opens one when it first waits */
    rpc_pair_close(&p);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_unary_call_gives_the_answer),
        cmocka_unit_test(a_nul_never_cuts_a_text),
        cmocka_unit_test(an_error_carries_its_sentence),
        cmocka_unit_test(an_error_carries_its_retry_delay),
        cmocka_unit_test(an_unknown_method_is_unimplemented),
        cmocka_unit_test(bad_utf8_is_invalid),
        cmocka_unit_test(a_message_of_another_kind_is_invalid),
        cmocka_unit_test(a_message_too_large_is_refused),
        cmocka_unit_test(a_stream_comes_in_order_to_its_end),
        cmocka_unit_test(the_server_sees_a_cancel),
        cmocka_unit_test(a_deadline_ends_both_sides),
        cmocka_unit_test(a_call_that_ended_takes_nothing),
        cmocka_unit_test(a_call_outlives_its_server),
        cmocka_unit_test(a_reader_that_sleeps_fills_a_bounded_queue),
        cmocka_unit_test(an_abort_reaches_a_reader_that_slept),
        cmocka_unit_test(both_sides_talk_until_the_client_closes),
        cmocka_unit_test(a_cancelled_stream_ends_on_both_sides),
        cmocka_unit_test(bulk_arrives_whole_and_is_given_back),
        cmocka_unit_test(bulk_is_given_back_when_the_receiver_goes),
        cmocka_unit_test(many_calls_at_once_all_end),
        cmocka_unit_test(three_hundred_cancels_leave_nothing),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
