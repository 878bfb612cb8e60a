/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_ways.c - a prefill node and a decode node in one process, a committed tiny model, and every way between them: what
 * arrives is the same, the way is named, and a way that is lost in the middle of an order is left for another.
 *
 * nccl and ipc run on fakes whose device memory is the host's.
 */
#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/kv/wire.h"
#include "common/base/log.h"
#include "common/transport/nccl.h"
#include "decode-node/node.h"
#include "prefill-node/node.h"
#include "presses/chain.h"
#include "tests/support/cmocka_main.h"
#include "tests/unit/fake_nccl.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define MODEL "tests/golden/families/llama"

enum { TOKENS = 100, WAIT_MS = 20000, HELD_LAYERS_MAX = 64 };

static const struct nccl_times quick = {
    .make_ms = 2000, .post_ms = 500, .grace_ms = 50, .abort_ms = 200, .doubt_ms = 500, .idle_ms = 600000
};

struct pair_of_nodes {
    struct arena arena;
    struct signals *signals;
    struct prefill_node prefill;
    struct node decode;
};

/* What an order left. */
struct outcome {
    struct context *context;
    struct err err;
    int32_t done; /* atomic */
};

static void nodes_open(struct pair_of_nodes *p, const char *list, int32_t decode_device)
{
    char *prefill_line[] = { (char *)"p",        (char *)"--model",     (char *)MODEL,
                             (char *)"--listen", (char *)"127.0.0.1:0", (char *)"--threads",
                             (char *)"1",        (char *)"--dtype",     (char *)"f32" };
    char *decode_line[] = { (char *)"d",
                            (char *)"--model",
                            (char *)MODEL,
                            (char *)"--listen",
                            (char *)"127.0.0.1:0",
                            (char *)"--threads",
                            (char *)"1",
                            (char *)"--dtype",
                            (char *)"f32",
                            (char *)"--block-mib",
                            (char *)"16",
                            (char *)"--prefill",
                            NULL };
    const struct station_config sites[] = {
        { .device = 0, .cuda = &fake_cuda, .nccl = &fake_nccl, .times = &quick },
        { .device = decode_device, .cuda = &fake_cuda, .nccl = &fake_nccl, .times = &quick },
    };
    struct prefill_options prefill;
    struct options decode;
    struct err err = { 0 };

    memset(p, 0, sizeof *p);
    fake_reset();
    log_set_level(LOG_ERROR);
    assert_int_equal(signals_open(&p->signals, NULL, NULL, NULL), ST_OK);
    assert_int_equal(prefill_options_read(&prefill, ARRAY_LEN(prefill_line), prefill_line, &p->arena, &err), ST_OK);
    prefill.node.stations = &sites[0];
    prefill.node.transport = "nccl,ipc,grpc";
    assert_int_equal(prefill_node_open(&p->prefill, &prefill, p->signals, &err), ST_OK);
    decode_line[ARRAY_LEN(decode_line) - 1] = (char *)p->prefill.parts.name;
    assert_int_equal(options_read(&decode, ARRAY_LEN(decode_line), decode_line, &p->arena, &err), ST_OK);
    decode.node.stations = &sites[1];
    decode.node.transport = list;
    assert_int_equal(node_open(&p->decode, &decode, p->signals, &err), ST_OK);
    for (int64_t deadline = clock_in_ms(WAIT_MS); peers_alive(p->decode.peers) == 0 && clock_now_ns() < deadline;)
        nanosleep(&(struct timespec){ 0, NS_PER_MS }, NULL);
    assert_int_equal(peers_alive(p->decode.peers), 1);
}

static void nodes_close(struct pair_of_nodes *p)
{
    fake_release();
    node_close(&p->decode, clock_in_ms(1000));
    prefill_node_close(&p->prefill, clock_in_ms(1000));
    signals_close(p->signals);
    arena_fini(&p->arena);
    assert_int_equal(fake_comms(), 0);
    assert_int_equal(fake_streams(), 0);
    assert_int_equal(fake_mapped(), 0);
}

static void on_done(void *ctx, const struct err *err, int64_t retry_ms)
{
    struct outcome *o = ctx;

    (void)retry_ms;
    o->err = *err;
    __atomic_store_n(&o->done, 1, __ATOMIC_RELEASE);
}

/* Orders one context and waits for it. */
static void ask(struct pair_of_nodes *p, struct outcome *out)
{
    static const char press[] = "knorm | ratio=0.5";
    int32_t ids[TOKENS];
    const struct token_list tokens = { .ids = ids, .count = TOKENS };
    struct chain *chain = NULL;
    struct order_spec spec = { .request_id = "ways", .tokens = &tokens, .done = on_done, .ctx = out };
    const int64_t deadline = clock_in_ms(WAIT_MS);
    struct order *o;

    memset(out, 0, sizeof *out);
    for (int i = 0; i < TOKENS; i++)
        ids[i] = (i * 7 + 3) % p->decode.parts.weights->hp.vocab;
    assert_int_equal(chain_parse(&chain, press, sizeof press - 1, NULL, NULL), ST_OK);
    out->context = context_open(p->decode.blocks, p->decode.parts.shape.layers);
    out->context->figures.context_tokens = TOKENS;
    spec.chain = chain;
    spec.deadline_ns = deadline;
    spec.context = out->context;
    o = order_open(&p->decode, &spec);
    order_begin(o);
    while (!__atomic_load_n(&out->done, __ATOMIC_ACQUIRE) && clock_now_ns() < deadline)
        nanosleep(&(struct timespec){ 0, NS_PER_MS }, NULL);
    assert_int_equal(out->done, 1);
    order_unref(o);
    chain_close(chain);
}

/* What a context holds, to be compared with another node's. */
struct held {
    int32_t layers;
    uint64_t bytes[HELD_LAYERS_MAX], sum[HELD_LAYERS_MAX];
};

static void hold(struct held *out, const struct context *c)
{
    assert_true(c->layers <= HELD_LAYERS_MAX);
    memset(out, 0, sizeof *out);
    out->layers = c->layers;
    for (int32_t l = 0; l < c->layers; l++) {
        out->bytes[l] = c->block[l].bytes;
        out->sum[l] = wire_checksum(c->block[l].data, c->block[l].bytes);
    }
}

/* One context over the best of `list`. */
static void ask_over(const char *list, int32_t device, const char *expected, const char *note, struct held *out)
{
    struct pair_of_nodes *p = mem_zero(1, sizeof *p);
    struct outcome a;

    nodes_open(p, list, device);
    ask(p, &a);
    assert_int_equal(a.err.code, ST_OK);
    assert_string_equal(a.context->figures.transport, expected);
    assert_non_null(strstr(a.context->figures.transport_note, note));
    assert_int_equal(a.context->figures.attempts, 1);
    assert_true(a.context->figures.wire_bytes >= a.context->figures.kept_bytes);
    hold(out, a.context);
    context_unref(a.context);
    nodes_close(p);
    free(p);
}

/* The same context over `list` and over grpc. */
static void same_as_grpc(const char *list, int32_t device, const char *expected, const char *note)
{
    struct held ours, plain;

    ask_over(list, device, expected, note, &ours);
    ask_over("grpc", -1, "grpc", "", &plain);
    assert_memory_equal(&ours, &plain, sizeof ours);
}

static void nccl_brings_what_grpc_brings(void **state)
{
    (void)state;
    same_as_grpc("nccl,ipc,grpc", 1, "nccl", "");
}

static void on_one_device_ipc_is_taken_and_told(void **state)
{
    (void)state;
    same_as_grpc("nccl,ipc,grpc", 0, "ipc", "one device");
}

/* Orders after a loss use nccl again: as soon as the call that hung is back, and where this machine has time for it. */
static void comes_back(struct pair_of_nodes *p)
{
    const int64_t deadline = clock_in_ms(WAIT_MS);
    struct outcome a;
    bool back = false;

    while (!back && clock_now_ns() < deadline) {
        ask(p, &a);
        assert_int_equal(a.err.code, ST_OK);
        back = strcmp(a.context->figures.transport, "nccl") == 0;
        context_unref(a.context);
    }
    assert_true(back);
}

/* The fault comes with the first block; the order ends well all the same. */
static void lost_and_asked_again(int32_t *knob, int32_t value)
{
    struct pair_of_nodes *p = mem_zero(1, sizeof *p);
    struct outcome a;

    nodes_open(p, "nccl,grpc", 1);
    __atomic_store_n(knob, value, __ATOMIC_RELAXED);
    ask(p, &a);
    assert_int_equal(a.err.code, ST_OK);
    assert_string_equal(a.context->figures.transport, "grpc");
    assert_non_null(strstr(a.context->figures.transport_note, "nccl was lost"));
    assert_int_equal(a.context->figures.attempts, 2);
    assert_int_equal((int)metric_value(node_transport_metric(p->decode.m_transport_losses, "nccl")), 1);
    assert_int_equal((int)metric_value(node_transport_metric(p->decode.m_transport_fallbacks, "grpc")), 1);
    context_unref(a.context);
    __atomic_store_n(knob, 0, __ATOMIC_RELAXED);
    fake_release();
    comes_back(p);
    nodes_close(p);
    free(p);
}

static void an_error_in_the_middle_is_asked_again_over_grpc(void **state)
{
    (void)state;
    lost_and_asked_again(&fake_knobs.error, 6);
}

static void silence_in_the_middle_is_asked_again_over_grpc(void **state)
{
    (void)state;
    lost_and_asked_again(&fake_knobs.silent, 1);
}

static void damage_in_the_middle_is_asked_again_over_grpc(void **state)
{
    (void)state;
    lost_and_asked_again(&fake_knobs.damage, 1);
}

static void a_communicator_whose_making_hangs_is_asked_again_over_grpc(void **state)
{
    (void)state;
    lost_and_asked_again(&fake_knobs.hang, FAKE_HANG_OPEN);
}

static void a_send_that_hangs_is_asked_again_over_grpc(void **state)
{
    (void)state;
    lost_and_asked_again(&fake_knobs.hang, FAKE_HANG_SEND);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(nccl_brings_what_grpc_brings),
    cmocka_unit_test(on_one_device_ipc_is_taken_and_told),
    cmocka_unit_test(an_error_in_the_middle_is_asked_again_over_grpc),
    cmocka_unit_test(silence_in_the_middle_is_asked_again_over_grpc),
    cmocka_unit_test(damage_in_the_middle_is_asked_again_over_grpc),
    cmocka_unit_test(a_communicator_whose_making_hangs_is_asked_again_over_grpc),
    cmocka_unit_test(a_send_that_hangs_is_asked_again_over_grpc),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
