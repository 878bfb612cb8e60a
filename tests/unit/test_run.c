/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_run.c - Prefill.Run through a real stream: a node without its process, and decode nodes that are right, wrong,
 * impatient, or gone. After every test nothing is queued, running or held.
 */
#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/kv/wire.h"
#include "common/rpc/rpc_channel.h"
#include "common/rpc/rpc_message.h"
#include "common/rpc/rpc_server.h"
#include "common/transport/receiver.h"
#include "proto/platen/internal/v1/prefill.pb-c.h"
#include "proto/platen/v1/control.pb-c.h"
#include "kernels/cpu/cpu.h"
#include "prefill-node/control.h"
#include "prefill-node/room.h"
#include "prefill-node/run.h"
#include "tests/support/cmocka_main.h"
#include "tests/unit/small_prefill.h"

#include <stdlib.h>
#include <time.h>

enum { LARGE = 1 << 30 };

static struct prefill_node node;
static struct rpc_server *server;
static struct rpc_client *client;
static struct rpc_channel *channel;

/* ---- a decode node --------------------------------------------------------------------------------------------- */

struct decoder {
    struct rpc_call *call;
    struct receiver *receiver;
    struct receiver_sink sink;
    void **place;
    int32_t layers;
    bool mute; /* never says Adopted */
    char transport[16], note[100], press[100];
    Platen__Internal__V1__Commit commit;
    struct err damage;
    int accepted, arrived, committed, done; /* release */
    enum status status;
    char sentence[1024];
    int64_t retry_ms;
};

static enum status on_accepted(void *ctx, const Platen__Internal__V1__Accepted *msg, struct err *err)
{
    struct decoder *d = ctx;

    (void)err;
    d->layers = msg->layers;
    snprintf(d->transport, sizeof d->transport, "%s", msg->transport);
    snprintf(d->note, sizeof d->note, "%s", msg->transport_note);
    snprintf(d->press, sizeof d->press, "%s", msg->press);
    __atomic_add_fetch(&d->accepted, 1, __ATOMIC_RELEASE);
    return ST_OK;
}

static enum status on_place(void *ctx, const struct kv_block *plan, void **place, struct err *err)
{
    struct decoder *d = ctx;

    (void)err;
    *place = d->place[plan->layer] = mem_aligned(plan->bytes);
    return ST_OK;
}

static void on_arrived(void *ctx, const struct kv_block *block)
{
    struct decoder *d = ctx;

    (void)block;
    __atomic_add_fetch(&d->arrived, 1, __ATOMIC_RELEASE);
}

static void on_committed(void *ctx, const Platen__Internal__V1__Commit *msg)
{
    struct decoder *d = ctx;
    Platen__Internal__V1__ToPrefill answer = PLATEN__INTERNAL__V1__TO_PREFILL__INIT;
    Platen__Internal__V1__Adopted adopted = PLATEN__INTERNAL__V1__ADOPTED__INIT;

    d->commit = *msg;
    answer.kind_case = PLATEN__INTERNAL__V1__TO_PREFILL__KIND_ADOPTED;
    answer.adopted = &adopted;
    if (!d->mute) {
        rpc_call_send(d->call, &answer.base);
        rpc_call_half_close(d->call);
    }
    __atomic_add_fetch(&d->committed, 1, __ATOMIC_RELEASE);
}

static void on_buffer(struct rpc_call *call, void *owner, struct rpc_buffer *buffer)
{
    struct decoder *d = owner;

    if (receiver_message(d->receiver, buffer, &d->damage) < 0)
        rpc_call_cancel(call);
    else
        rpc_call_want(call);
}

static void on_done(struct rpc_call *call, void *owner, const struct rpc_end *end)
{
    struct decoder *d = owner;

    (void)call;
    d->status = end->status;
    d->retry_ms = end->retry_ms;
    snprintf(d->sentence, sizeof d->sentence, "%s", end->sentence);
    __atomic_store_n(&d->done, 1, __ATOMIC_RELEASE);
}

static const struct rpc_events events = { .buffer = on_buffer, .done = on_done };

static void decoder_open(struct decoder *d, int64_t rows_max, int32_t layers)
{
    struct receiver_config in = { .shape = node.parts.shape, .rows_max = rows_max };

    memset(d, 0, sizeof *d);
    d->place = mem_zero((size_t)layers, sizeof *d->place);
    d->sink = (struct receiver_sink){ d, on_accepted, NULL, on_place, on_arrived, on_committed };
    in.shape.layers = layers;
    in.sink = &d->sink;
    d->receiver = receiver_open(&in);
    d->layers = layers;
}

static void decoder_start(struct decoder *d, const Platen__Internal__V1__ToPrefill *first)
{
    const struct rpc_call_options o = {
        .method = "/platen.internal.v1.Prefill/Run", .deadline_ns = clock_in_ms(60000), .events = &events, .owner = d
    };

    assert_int_equal(rpc_call_start(&d->call, channel, &o, &first->base, NULL), ST_OK);
}

static void decoder_close(struct decoder *d)
{
    assert_true(small_reaches(&d->done, 1, 20000));
    assert_true(small_prefill_quiet(&node, 60000));
    receiver_close(d->receiver);
    for (int32_t l = 0; l < d->layers; l++)
        free(d->place[l]);
    free(d->place);
    rpc_call_unref(d->call);
}

/* ---- orders ---------------------------------------------------------------------------------------------------- */

/* An order and everything in it, to be changed before it is sent. */
struct order {
    Platen__Internal__V1__ToPrefill msg;
    Platen__Internal__V1__Order order;
    Platen__Internal__V1__Identity identity;
    Platen__Internal__V1__Transfer transfer;
    char *offered[2];
    int32_t token[SMALL_TOKENS_MAX + 1];
};

static void identity_init(Platen__Internal__V1__Identity *id)
{
    platen__internal__v1__identity__init(id);
    id->wire_version = WIRE_VERSION;
    id->hparams_hash = node.parts.identity.hparams;
    id->tokenizer_hash = node.parts.tokenizer_hash;
    id->weights_hash = node.parts.identity.weights;
    id->dtype = (char *)"f32";
}

static void set_press(struct order *o, const char *press)
{
    o->order.press.data = (uint8_t *)press;
    o->order.press.len = strlen(press);
}

static struct order *order_of(size_t tokens, const char *press)
{
    struct order *o = mem_zero(1, sizeof *o);

    platen__internal__v1__to_prefill__init(&o->msg);
    platen__internal__v1__order__init(&o->order);
    identity_init(&o->identity);
    o->msg.kind_case = PLATEN__INTERNAL__V1__TO_PREFILL__KIND_ORDER;
    o->msg.order = &o->order;
    o->order.identity = &o->identity;
    o->order.request_id = (char *)"test";
    o->offered[0] = (char *)"grpc";
    o->order.transport = o->offered;
    o->order.n_transport = 1;
    o->order.token = o->token;
    o->order.n_token = tokens;
    for (size_t i = 0; i < tokens; i++)
        o->token[i] = small_token((int64_t)i);
    set_press(o, press);
    return o;
}

/* Sends it and waits for its end. */
static void ask(struct decoder *d, const struct order *o)
{
    decoder_open(d, SMALL_TOKENS_MAX, SMALL_LAYERS);
    decoder_start(d, &o->msg);
    assert_true(small_reaches(&d->done, 1, 30000));
}

/* The order is refused with this status, and the sentence says `part`. Frees it. */
static void refused(struct order *o, enum status st, const char *part)
{
    struct decoder d;

    ask(&d, o);
    assert_int_equal(d.accepted, 0);
    assert_int_equal(d.status, st);
    if (!strstr(d.sentence, part))
        fail_msg("expected \"%s\" in: %s", part, d.sentence);
    decoder_close(&d);
    free(o);
}

static void an_order_comes_back_whole(void **state)
{
    struct order *o = order_of(900, "snapkv:window=64 | adakv | ratio=0.5");
    struct decoder d;

    (void)state;
    o->offered[0] = (char *)"nccl";
    o->offered[1] = (char *)"grpc";
    o->order.n_transport = 2;
    ask(&d, o);
    assert_string_equal(d.damage.text, "");
    assert_string_equal(d.sentence, "");
    assert_int_equal(d.status, ST_OK);
    assert_int_equal(d.committed, 1);
    assert_int_equal(d.arrived, SMALL_LAYERS);
    assert_string_equal(d.transport, "grpc");
    assert_non_null(strstr(d.note, "nccl"));
    assert_string_equal(d.press, "snapkv | adakv | ratio=0.5");
    assert_int_equal(d.commit.next_position, 900);
    assert_int_equal(d.commit.rows, 900 * SMALL_LAYERS);
    assert_true(d.commit.forward_ms > 0);
    decoder_close(&d);
    free(o);
}

static void compact_positions_go_on_at_the_kept_length(void **state)
{
    struct order *o = order_of(400, "knorm | ratio=0.75");
    struct decoder d;

    (void)state;
    o->order.compact = true;
    ask(&d, o);
    assert_int_equal(d.status, ST_OK);
    assert_int_equal(d.commit.next_position, 100);
    decoder_close(&d);
    free(o);
}

static void another_model_is_refused_field_by_field(void **state)
{
    struct order *o = order_of(10, "");

    (void)state;
    o->identity.hparams_hash ^= 1;
    refused(o, ST_EPRECONDITION, "hparams_hash");
    o = order_of(10, "");
    o->identity.tokenizer_hash ^= 1;
    refused(o, ST_EPRECONDITION, "tokenizer_hash");
    o = order_of(10, "");
    o->identity.weights_hash ^= 1;
    o->identity.dtype = (char *)"bf16";
    refused(o, ST_EPRECONDITION, "dtype is f32 here and bf16 there");
    o = order_of(10, "");
    o->identity.wire_version = WIRE_VERSION + 1;
    refused(o, ST_EPRECONDITION, "wire_version is 1 here and 2 there");
    o = order_of(10, "");
    o->order.identity = NULL;
    refused(o, ST_EINVAL, "without identity");
}

static void contexts_that_cannot_be_are_refused(void **state)
{
    struct order *o = order_of(10, "");

    (void)state;
    o->token[3] = SMALL_VOCAB;
    refused(o, ST_EINVAL, "token 3 is 256");
    o = order_of(10, "");
    o->token[9] = -1;
    refused(o, ST_EINVAL, "token 9 is -1");
    refused(order_of(0, ""), ST_EINVAL, "empty");
    refused(order_of(SMALL_TOKENS_MAX + 1, ""), ST_ERANGE, "4096 at most");
    o = order_of(10, "");
    o->order.query_tokens = 11;
    refused(o, ST_EINVAL, "11 query tokens of 10");
    o = order_of(10, "");
    o->order.query_tokens = -1;
    refused(o, ST_EINVAL, "query tokens");
    o = order_of(10, "kvzip | ratio=0.5");
    o->order.prefix_tokens = 11;
    refused(o, ST_EINVAL, "11 prefix tokens");
    o = order_of(10, "kvzip | ratio=0.5");
    o->order.prefix_tokens = -1;
    refused(o, ST_EINVAL, "prefix tokens");
}

static void suffix_tokens_that_cannot_be_are_refused(void **state)
{
    int32_t suffix[] = { 5, SMALL_VOCAB };
    struct order *o = order_of(10, "");

    (void)state;
    o->order.suffix_token = suffix;
    o->order.n_suffix_token = 2;
    refused(o, ST_EINVAL, "suffix token 1 is 256");
    suffix[1] = -1;
    o = order_of(10, "");
    o->order.suffix_token = suffix;
    o->order.n_suffix_token = 2;
    refused(o, ST_EINVAL, "suffix token 1 is -1");
}

static void presses_that_cannot_be_are_refused(void **state)
{
    (void)state;
    refused(order_of(100, "knrm | ratio=0.5"), ST_EINVAL, "knorm");
    refused(order_of(100, "knorm | ratio=1.5"), ST_EINVAL, "^");
    refused(order_of(100, "knorm"), ST_EINVAL, "press: ");
}

/* ---- memory ---------------------------------------------------------------------------------------------------- */

static uint64_t fixed_bytes; /* in use when everything is open */

/* What the press takes for so many tokens, as the door measures it. */
static uint64_t bytes_of(const char *press, int64_t tokens)
{
    const struct press_prompt prompt = { .tokens = tokens, .token = (const int32_t[]){ 0 } };
    struct chain_needs needs;
    struct room_ask ask = { .prefill = engine_prefill(node.engine),
                            .be = node.parts.be,
                            .hp = &node.parts.weights->hp,
                            .needs = &needs,
                            .prompt = &prompt,
                            .tokens = tokens };
    struct chain *chain;
    uint64_t bytes;

    assert_int_equal(chain_parse(&chain, press, strlen(press), node.parts.files, NULL), ST_OK);
    chain_needs_of(chain, 0, false, &needs);
    ask.chain = chain;
    bytes = room_bytes(&ask, tokens);
    chain_close(chain);
    return bytes;
}

/* The device has so much for orders, whatever earlier ones have made the engine keep. */
static void leave_room(uint64_t bytes)
{
    cpu_of(node.parts.be)->capacity = fixed_bytes + bytes;
    node.room = bytes;
}

static void comes_back_whole(struct decoder *d)
{
    assert_true(small_reaches(&d->done, 1, 60000));
    assert_string_equal(d->sentence, "");
    assert_int_equal(d->status, ST_OK);
    assert_int_equal(d->committed, 1);
    decoder_close(d);
}

static const char *const wide_presses[] = {
    "kvzip:chunk=300 | ratio=0.5",
    "kvzip:plus=on | ratio=0.5",
    "kvzip:layerwise=on | ratio=0.5",
    "kvcompose | ratio=0.5",
    "kvcompose:structured=off,vnorm=on | ratio=0.25",
    "duo:probe=on,heads=0.5",
    "kvzip | ratio=0.3 | snapkv | ratio=0.3 | knorm | rows=40 | rerotate",
    "kvcompose | ratio=0.5 | rerotate | merge",
    "kvzip | ratio=0.5 | think",
    "observed | ratio=0.5",
    "expected | adakv | ratio=0.5",
    "expected | block:size=200 | ratio=0.5",
    "noncausal | block | ratio=0.5",
    "compactor | critical | ratio=0.5",
    "cap | chunk:length=100 | ratio=0.5 | snapkv | criticaladakv | ratio=0.1 | rerotate | merge",
};

static void what_fits_at_the_door_fits_to_the_end_and_one_token_more_does_not(void **state)
{
    enum { TOKENS = 1500 };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(wide_presses); i++) {
        const char *press = wide_presses[i];
        struct order *o = order_of(TOKENS, press);
        struct decoder d;

        leave_room(bytes_of(press, TOKENS));
        refused(order_of(TOKENS + 1, press), ST_ERANGE, "1500 tokens would fit");
        decoder_open(&d, SMALL_TOKENS_MAX, SMALL_LAYERS);
        decoder_start(&d, &o->msg);
        comes_back_whole(&d);
        free(o);
    }
    leave_room(LARGE);
}

static void a_press_that_holds_too_much_is_refused_with_the_numbers(void **state)
{
    char sentence[200];

    (void)state;
    leave_room(1 << 20);
    snprintf(sentence, sizeof sentence,
             "press: kvzip holds all 6 layers of the context at once: 4000 tokens need %llu bytes, "
             "there are 1048576; ",
             (unsigned long long)bytes_of("kvzip | ratio=0.5", 4000));
    refused(order_of(4000, "kvzip | ratio=0.5"), ST_ERANGE, sentence);
    refused(order_of(4000, "expected | ratio=0.5"), ST_ERANGE, "looks at besides a layer's rows");
    leave_room(0);
    refused(order_of(1, "kvcompose | ratio=0.5"), ST_ERANGE, "; 0 tokens would fit");
    leave_room(LARGE);
}

static void two_that_do_not_fit_together_run_one_after_the_other(void **state)
{
    struct order *o = order_of(1200, "kvzip | ratio=0.5"), *other = order_of(700, "kvcompose | ratio=0.5");
    struct decoder d[4];

    (void)state;
    leave_room(bytes_of("kvzip | ratio=0.5", 1200));
    for (int i = 0; i < 4; i++) {
        decoder_open(&d[i], SMALL_TOKENS_MAX, SMALL_LAYERS);
        decoder_start(&d[i], i % 2 ? &other->msg : &o->msg);
    }
    for (int i = 0; i < 4; i++) {
        assert_true(small_reaches(&d[i].done, 1, 60000));
        assert_string_equal(d[i].sentence, "");
    }
    for (int i = 0; i < 4; i++)
        comes_back_whole(&d[i]);
    leave_room(LARGE);
    free(o);
    free(other);
}

static void codecs_and_transports_are_named(void **state)
{
    struct order *o = order_of(10, "");

    (void)state;
    o->order.kv = (char *)"int7";
    refused(o, ST_EINVAL, "`int8`");
    o = order_of(10, "");
    o->order.kv = (char *)"plian";
    refused(o, ST_EINVAL, "plain");
    o = order_of(10, "");
    o->offered[0] = (char *)"nccl";
    refused(o, ST_EPRECONDITION, "nccl");
    o = order_of(10, "");
    o->order.n_transport = 0;
    refused(o, ST_EPRECONDITION, "transport");
}

static void a_full_queue_says_when_to_come_again(void **state)
{
    struct order *big = order_of(4000, ""), *small = order_of(600, "");
    struct decoder busy, waiting, d;

    (void)state;
    decoder_open(&busy, 4000, SMALL_LAYERS);
    decoder_start(&busy, &big->msg);
    assert_true(small_reaches(&busy.accepted, 1, 5000));
    decoder_open(&waiting, 4000, SMALL_LAYERS);
    decoder_start(&waiting, &big->msg);
    assert_true(small_reaches(&waiting.accepted, 1, 5000));
    ask(&d, small);
    assert_int_equal(d.status, ST_EEXHAUSTED);
    assert_true(d.retry_ms >= 100);
    assert_non_null(strstr(d.sentence, "queue: "));
    rpc_call_cancel(busy.call);
    rpc_call_cancel(waiting.call);
    decoder_close(&busy);
    decoder_close(&waiting);
    decoder_close(&d);
    free(big);
    free(small);
}

static void a_second_order_ends_the_stream(void **state)
{
    struct order *o = order_of(3000, "");
    struct decoder d;

    (void)state;
    decoder_open(&d, SMALL_TOKENS_MAX, SMALL_LAYERS);
    decoder_start(&d, &o->msg);
    rpc_call_send(d.call, &o->msg.base);
    assert_true(small_reaches(&d.done, 1, 20000));
    assert_int_equal(d.status, ST_EINVAL);
    assert_non_null(strstr(d.sentence, "Order may not come"));
    decoder_close(&d);
    free(o);
}

static void half_closing_gives_everything_back(void **state)
{
    struct order *o = order_of(3000, "");
    struct decoder d;

    (void)state;
    decoder_open(&d, SMALL_TOKENS_MAX, SMALL_LAYERS);
    decoder_start(&d, &o->msg);
    rpc_call_half_close(d.call);
    assert_true(small_reaches(&d.done, 1, 20000));
    assert_int_not_equal(d.status, ST_OK);
    assert_int_equal(d.committed, 0);
    decoder_close(&d);
    free(o);
}

static void cancels_at_every_moment_leave_nothing(void **state)
{
    struct order *o = order_of(200, "knorm | ratio=0.5");

    (void)state;
    for (int i = 0; i < 150; i++) {
        const struct timespec nap = { 0, (i * 53 % 150) * 60000 };
        struct decoder d;

        decoder_open(&d, SMALL_TOKENS_MAX, SMALL_LAYERS);
        decoder_start(&d, &o->msg);
        nanosleep(&nap, NULL);
        rpc_call_cancel(d.call);
        decoder_close(&d);
    }
    free(o);
}

static void a_peer_that_goes_after_the_commit_is_no_harm(void **state)
{
    struct order *o = order_of(50, "");
    struct decoder d;

    (void)state;
    decoder_open(&d, SMALL_TOKENS_MAX, SMALL_LAYERS);
    d.mute = true;
    decoder_start(&d, &o->msg);
    assert_true(small_reaches(&d.committed, 1, 10000));
    rpc_call_cancel(d.call);
    decoder_close(&d);
    free(o);
}

static void a_transfer_moves_its_bytes(void **state)
{
    struct order *o = order_of(1, "");
    struct decoder d;

    (void)state;
    platen__internal__v1__transfer__init(&o->transfer);
    o->transfer.identity = &o->identity;
    o->transfer.transport = (char *)"grpc";
    o->transfer.bytes = 40u << 20;
    o->msg.kind_case = PLATEN__INTERNAL__V1__TO_PREFILL__KIND_TRANSFER;
    o->msg.transfer = &o->transfer;
    decoder_open(&d, INT32_MAX, 64);
    decoder_start(&d, &o->msg);
    assert_true(small_reaches(&d.done, 1, 30000));
    assert_string_equal(d.damage.text, "");
    assert_int_equal(d.status, ST_OK);
    assert_int_equal(d.committed, 1);
    assert_true(receiver_bytes(d.receiver) >= 40u << 20);
    decoder_close(&d);

    o->transfer.bytes = 0;
    decoder_open(&d, INT32_MAX, 64);
    decoder_start(&d, &o->msg);
    assert_true(small_reaches(&d.done, 1, 5000));
    assert_int_equal(d.status, ST_ERANGE);
    decoder_close(&d);
    free(o);
}

static void the_self_test_goes_through_every_stop(void **state)
{
    Platen__V1__SelfTestRequest request = PLATEN__V1__SELF_TEST_REQUEST__INIT;
    ProtobufCMessage *reply = NULL;
    struct err err = { 0 };
    char *grpc = (char *)"grpc";

    (void)state;
    assert_int_equal(rpc_call_unary(channel, "/platen.v1.Control/SelfTest", &request.base,
                                    &platen__v1__self_test_response__descriptor, clock_in_ms(20000), &reply, &err),
                     ST_OK);
    assert_string_equal(((Platen__V1__SelfTestResponse *)reply)->detail, "");
    assert_true(((Platen__V1__SelfTestResponse *)reply)->ok);
    rpc_message_free(reply);
    assert_true(small_prefill_quiet(&node, 2000));
    request.n_transfer = 1;
    request.transfer = &grpc;
    assert_int_equal(rpc_call_unary(channel, "/platen.v1.Control/SelfTest", &request.base,
                                    &platen__v1__self_test_response__descriptor, clock_in_ms(5000), &reply, &err),
                     ST_EINVAL);
}

static int world_open(void **state)
{
    struct rpc_server_options so;

    (void)state;
    small_prefill_open(&node, 0, 4500);
    node.parts.identity.hparams = 11;
    node.parts.identity.weights = 22;
    node.parts.tokenizer_hash = 33;
    fixed_bytes = cpu_of(node.parts.be)->capacity - room_left(node.parts.be);
    rpc_server_options_init(&so);
    so.listen = "127.0.0.1:0";
    assert_int_equal(rpc_server_open(&server, &so, NULL), ST_OK);
    run_add(&node, server);
    prefill_control_add(&node, server);
    assert_int_equal(rpc_server_start(server, NULL), ST_OK);
    assert_int_equal(rpc_client_open(&client, 1, NULL), ST_OK);
    assert_int_equal(rpc_channel_open(&channel, client, rpc_server_address(server), NULL, NULL), ST_OK);
    return 0;
}

static int world_close(void **state)
{
    (void)state;
    rpc_channel_close(channel);
    rpc_client_close(client);
    rpc_server_drain(server, clock_in_ms(5000));
    small_prefill_close(&node);
    rpc_server_close(server);
    return 0;
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(an_order_comes_back_whole),
    cmocka_unit_test(compact_positions_go_on_at_the_kept_length),
    cmocka_unit_test(another_model_is_refused_field_by_field),
    cmocka_unit_test(contexts_that_cannot_be_are_refused),
    cmocka_unit_test(suffix_tokens_that_cannot_be_are_refused),
    cmocka_unit_test(presses_that_cannot_be_are_refused),
    cmocka_unit_test(what_fits_at_the_door_fits_to_the_end_and_one_token_more_does_not),
    cmocka_unit_test(a_press_that_holds_too_much_is_refused_with_the_numbers),
    cmocka_unit_test(two_that_do_not_fit_together_run_one_after_the_other),
    cmocka_unit_test(codecs_and_transports_are_named),
    cmocka_unit_test(a_full_queue_says_when_to_come_again),
    cmocka_unit_test(a_second_order_ends_the_stream),
    cmocka_unit_test(half_closing_gives_everything_back),
    cmocka_unit_test(cancels_at_every_moment_leave_nothing),
    cmocka_unit_test(a_peer_that_goes_after_the_commit_is_no_harm),
    cmocka_unit_test(a_transfer_moves_its_bytes),
    cmocka_unit_test(the_self_test_goes_through_every_stop),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), world_open, world_close);
}
