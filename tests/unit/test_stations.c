/* SPDX-License-Identifier: Apache-2.0 */
/* test_stations.c - what a node offers, what it chooses and why; and whole contexts over nccl and ipc, on fakes. */
#include "common/transport/stations.h"

#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/kv/wire.h"
#include "common/transport/nccl.h"
#include "common/transport/shipper.h"
#include "tests/support/cmocka_main.h"
#include "tests/unit/fake_nccl.h"
#include "tests/unit/wire_maker.h"

#include <stdlib.h>
#include <time.h>

static struct stations *open_on(int32_t device, const char *allowed)
{
    const struct station_config config = { .device = device, .cuda = &fake_cuda, .nccl = &fake_nccl };
    struct stations *s = NULL;

    assert_int_equal(stations_open(&s, allowed, &config, NULL, NULL, NULL), ST_OK);
    return s;
}

/* What the prefill end chooses when the decode end offers all it has. */
static const char *chosen(struct stations *prefill, struct stations *decode, struct text *note)
{
    const char *offered[STATIONS_MAX];
    const struct transport *t = NULL;
    struct text hello = { 0 };
    size_t count = 0;

    for (; stations_at(decode, count); count++)
        offered[count] = stations_at(decode, count)->name;
    assert_int_equal(stations_hello(decode, &hello, NULL), ST_OK);
    text_clear(note);
    if (stations_choose(prefill, offered, count, text_str(&hello), hello.bytes, &t, note, NULL) != ST_OK)
        t = NULL;
    text_fini(&hello);
    return t ? t->name : "none";
}

static void the_best_that_both_can_is_taken_and_the_others_explained(void **state)
{
    struct stations *gpu0, *nccl, *gpu1, *cpu, *ipc;
    struct text note = { 0 };

    (void)state;
    fake_reset();
    gpu0 = open_on(0, NULL);
    gpu1 = open_on(1, NULL);
    cpu = open_on(-1, NULL);
    ipc = open_on(1, "ipc,grpc");
    assert_string_equal(stations_list(gpu0), "ipc,nccl,grpc");
    assert_string_equal(stations_list(cpu), "grpc");
    nccl = open_on(0, "nccl,ipc,grpc");
    assert_string_equal(chosen(gpu0, gpu1, &note), "ipc");
    assert_string_equal(text_str(&note), "");
    assert_string_equal(chosen(gpu1, nccl, &note), "nccl");
    assert_string_equal(chosen(gpu0, nccl, &note), "ipc");
    assert_non_null(strstr(text_str(&note), "one device"));
    assert_string_equal(chosen(gpu0, ipc, &note), "ipc");
    assert_string_equal(chosen(ipc, nccl, &note), "ipc");
    assert_non_null(strstr(text_str(&note), "this node uses ipc,grpc"));
    assert_string_equal(chosen(cpu, gpu0, &note), "grpc");
    assert_string_equal(chosen(gpu0, cpu, &note), "grpc");
    text_fini(&note);
    stations_close(ipc);
    stations_close(cpu);
    stations_close(gpu1);
    stations_close(nccl);
    stations_close(gpu0);
}

/* One end of an ipc link between the two. */
static struct link *ipc_link(struct stations *s, bool sends, const struct text *hello)
{
    const struct transport *ipc = transport_find("ipc");
    const struct link_config config = {
        .station = stations_of(s, ipc, NULL), .sends = sends, .hello = text_str(hello), .hello_bytes = hello->bytes
    };
    struct link *l = NULL;

    assert_int_equal(ipc->connect(&l, &config, NULL), ST_OK);
    return l;
}

/* A killed process's memory stays on its device while we map it. */
static void a_mapping_that_nobody_uses_is_given_back(void **state)
{
    const struct transport *ipc = transport_find("ipc");
    const struct station_config config = { .device = 1, .cuda = &fake_cuda, .nccl = &fake_nccl, .keep_ms = 40 };
    struct kv_block from = maker_block(0, 40, 40), into = maker_block(0, 40, 40);
    struct text hello = { 0 }, answer = { 0 };
    struct link *sender, *receiver;
    struct ticket ticket = { 0 };
    struct stations *gpu0, *gpu1;

    (void)state;
    fake_reset();
    gpu0 = open_on(0, NULL);
    assert_int_equal(stations_open(&gpu1, "ipc", &config, NULL, NULL, NULL), ST_OK);
    assert_int_equal(ipc->hello(stations_of(gpu1, ipc, NULL), &hello, NULL), ST_OK);
    sender = ipc_link(gpu0, true, &hello);
    assert_int_equal(ipc->answer(sender, &answer, NULL), ST_OK);
    receiver = ipc_link(gpu1, false, &answer);
    fake_memory(from.data, from.bytes);
    assert_int_equal(ipc->lend(sender, &from, &ticket, NULL), ST_OK);
    assert_int_equal(ipc->recv(receiver, &into, &ticket, NULL), ST_OK);
    nanosleep(&(struct timespec){ 0, 50 * NS_PER_MS }, NULL);
    stations_tick(gpu1);
    assert_int_equal(fake_mapped(), 1); /* a copy is under way */
    while (ipc->poll(receiver, NULL) == ST_AGAIN)
        ;
    stations_tick(gpu1);
    assert_int_equal(fake_mapped(), 1); /* the next block comes soon */
    nanosleep(&(struct timespec){ 0, 50 * NS_PER_MS }, NULL);
    stations_tick(gpu1);
    assert_int_equal(fake_mapped(), 0);
    ipc->close(receiver);
    ipc->close(sender);
    stations_close(gpu1);
    stations_close(gpu0);
    fake_reset();
    text_fini(&answer);
    text_fini(&hello);
    free(into.data);
    free(from.data);
}

/* Two devices of one machine that do not reach each other: the driver says so when it is asked to map, once. */
static void memory_that_cannot_be_mapped_is_not_tried_again(void **state)
{
    const struct transport *ipc = transport_find("ipc");
    struct stations *gpu0, *gpu1;
    struct text note = { 0 }, hello = { 0 }, answer = { 0 };
    struct kv_block b = maker_block(0, 40, 40);
    struct ticket ticket = { 0 };
    struct link *sender, *receiver;

    (void)state;
    fake_reset();
    gpu0 = open_on(0, NULL);
    gpu1 = open_on(1, NULL);
    assert_string_equal(chosen(gpu0, gpu1, &note), "ipc");
    assert_int_equal(ipc->hello(stations_of(gpu1, ipc, NULL), &hello, NULL), ST_OK);
    sender = ipc_link(gpu0, true, &hello);
    assert_int_equal(ipc->answer(sender, &answer, NULL), ST_OK);
    receiver = ipc_link(gpu1, false, &answer);
    fake_memory(b.data, b.bytes);
    assert_int_equal(ipc->lend(sender, &b, &ticket, NULL), ST_OK);
    fake_memory(&note, sizeof note);
    assert_int_equal(ipc->recv(receiver, &b, &ticket, NULL), ST_EUNAVAILABLE);
    ipc->close(receiver);
    ipc->close(sender);
    assert_string_equal(chosen(gpu0, gpu1, &note), "nccl");
    assert_non_null(strstr(text_str(&note), "cannot map"));
    assert_string_equal(chosen(gpu1, gpu0, &note), "ipc"); /* the other way it was not tried */
    stations_close(gpu1);
    stations_close(gpu0);
    fake_reset();
    text_fini(&answer);
    text_fini(&hello);
    text_fini(&note);
    free(b.data);
}

static void told(void *ctx, const char *name, const char *why)
{
    text_printf(ctx, "%s: %s;", name, why);
}

static void what_is_not_to_be_had_is_told(void **state)
{
    const struct station_config host = { .device = -1 };
    struct stations *s = NULL;
    struct text missing = { 0 };
    struct err err = { 0 };

    (void)state;
    assert_int_equal(stations_open(&s, "nccl,grpc", &host, told, &missing, &err), ST_OK);
    assert_string_equal(stations_list(s), "grpc");
    assert_non_null(strstr(text_str(&missing), "nccl: blocks lie in the host's memory"));
    stations_close(s);
    s = NULL;
    assert_int_equal(stations_open(&s, "nccl,ipc", &host, told, &missing, &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "none of them can be used here"));
    assert_null(s);
    err_clear(&err);
    assert_int_equal(stations_open(&s, "carrier-pigeon", &host, told, &missing, &err), ST_EINVAL);
    text_fini(&missing);
}

static void a_hello_of_nonsense_is_no_hello(void **state)
{
    static const uint8_t cut[] = { 4, 'n', 'c', 'c', 'l', 200, 0, 0, 0, 'x' };
    const char *const offered[] = { "nccl" };
    const struct transport *t = NULL;
    struct text note = { 0 };
    struct stations *s;

    (void)state;
    fake_reset();
    s = open_on(0, NULL);
    assert_int_equal(stations_choose(s, offered, 1, cut, sizeof cut, &t, &note, NULL), ST_EPRECONDITION);
    assert_int_equal(stations_choose(s, offered, 1, NULL, 0, &t, &note, NULL), ST_EPRECONDITION);
    text_fini(&note);
    stations_close(s);
}

/* ---- whole contexts ---------------------------------------------------------------------------------------------- */

/* Both ends of an order in one thread: what the shipper says the receiver hears at once. */
struct flow {
    struct stations *prefill, *decode;
    const struct transport *t;
    struct shipper *shipper;
    struct link *link;
    struct catcher catcher;
    int32_t ready; /* layer + 1 */
    struct ticket ticket;
    enum status heard;
};

static enum status flow_say(void *ctx, const Platen__Internal__V1__FromPrefill *msg)
{
    struct flow *f = ctx;

    f->heard = catcher_take(&f->catcher, maker_message(msg));
    return f->heard < 0 ? ST_ECANCELLED : ST_OK;
}

static enum status flow_ready(void *ctx, int32_t layer, const struct ticket *ticket)
{
    struct flow *f = CONTAINER_OF(ctx, struct flow, catcher);

    f->ready = layer + 1;
    f->ticket = *ticket;
    return ST_OK;
}

static struct link *meet(struct flow *f, struct text *answer)
{
    struct link_config config = { .station = stations_of(f->prefill, f->t, NULL), .sends = true };
    struct text hello = { 0 };
    struct link *l = NULL;

    stations_hello(f->decode, &hello, NULL);
    assert_true(stations_hello_of(text_str(&hello), hello.bytes, f->t->name, &config.hello, &config.hello_bytes));
    assert_int_equal(f->t->connect(&l, &config, NULL), ST_OK);
    if (f->t->answer && answer)
        f->t->answer(l, answer, NULL);
    text_fini(&hello);
    return l;
}

static void flow_open(struct flow *f, const char *name)
{
    struct shipper_config out = { .layers = MAKER_LAYERS, .say = flow_say, .ctx = f };
    struct link_config in = { 0 };
    struct text answer = { 0 };

    memset(f, 0, sizeof *f);
    fake_reset();
    f->prefill = open_on(0, NULL);
    f->decode = open_on(1, NULL);
    f->t = out.transport = transport_find(name);
    out.made = meet(f, &answer);
    assert_int_equal(shipper_open(&f->shipper, &out, NULL), ST_OK);
    in.station = stations_of(f->decode, f->t, NULL);
    in.hello = text_str(&answer);
    in.hello_bytes = answer.bytes;
    assert_int_equal(f->t->connect(&f->link, &in, NULL), ST_OK);
    text_fini(&answer);
    catcher_open(&f->catcher);
    receiver_use(f->catcher.receiver, f->t, f->link, flow_ready);
    assert_int_equal(catcher_take(&f->catcher, maker_accepted(MAKER_LAYERS)), ST_OK);
}

static void flow_close(struct flow *f)
{
    shipper_close(f->shipper);
    f->t->close(f->link);
    catcher_close(&f->catcher);
    stations_close(f->prefill);
    stations_close(f->decode);
    assert_int_equal(fake_streams(), 0);
    assert_int_equal(fake_mapped(), 0);
}

/* The receiving end's part: what the decode node's intake does. */
static enum status intake(struct flow *f)
{
    struct receiver *r = f->catcher.receiver;
    const int32_t layer = receiver_awaits(r);
    const struct kv_block *b = receiver_blocks(r);
    enum status st;

    if (layer < 0)
        return ST_OK;
    st = f->t->poll(f->link, NULL);
    if (st != ST_OK)
        return st;
    assert_int_equal(receiver_taken(r, NULL), ST_OK);
    return receiver_filled(r, layer, wire_checksum(b[layer].data, b[layer].bytes), NULL);
}

static enum status ship(struct flow *f, const struct kv_block *b)
{
    const int64_t deadline = clock_in_ms(5000);
    enum status out = ST_AGAIN, in = ST_AGAIN;

    fake_memory(b->data, b->bytes);
    shipper_block(f->shipper, b, wire_checksum(b->data, b->bytes));
    while ((out == ST_AGAIN || in == ST_AGAIN) && clock_now_ns() < deadline) {
        out = shipper_poll(f->shipper, NULL);
        in = in < 0 || f->heard < 0 ? in : intake(f);
        if (f->ready > 0)
            shipper_ready(f->shipper, f->ready - 1, &f->ticket);
        f->ready = 0;
        if (f->heard < 0 || in < 0)
            break;
        nanosleep(&(struct timespec){ 0, 50000 }, NULL);
    }
    return f->heard < 0 ? f->heard : in < 0 ? in : out;
}

static void context_over(const char *name)
{
    struct flow f;

    flow_open(&f, name);
    for (int32_t l = 0; l < MAKER_LAYERS; l++) {
        struct kv_block b = maker_block(l, 50 * (uint32_t)l, 60);

        assert_int_equal(ship(&f, &b), ST_OK);
        assert_true(catcher_has(&f.catcher, &b));
        free(b.data);
    }
    assert_int_equal(shipper_layers(f.shipper), MAKER_LAYERS);
    assert_int_equal(receiver_bytes(f.catcher.receiver), shipper_bytes(f.shipper));
    flow_close(&f);
}

static void a_context_goes_over_nccl(void **state)
{
    (void)state;
    context_over("nccl");
}

static void a_context_goes_over_ipc(void **state)
{
    (void)state;
    context_over("ipc");
}

static void bytes_damaged_on_the_way_are_found(void **state)
{
    struct kv_block b = maker_block(0, 40, 40);
    struct flow f;

    (void)state;
    flow_open(&f, "nccl");
    __atomic_store_n(&fake_knobs.damage, 1, __ATOMIC_RELAXED);
    assert_int_equal(ship(&f, &b), ST_EDATALOSS);
    flow_close(&f);
    free(b.data);
}

/* A peer that names memory outside of what it lent. */
static void a_ticket_past_the_end_is_refused(void **state)
{
    struct kv_block b = maker_block(0, 40, 40), into = b;
    struct ticket ticket = { 0 };
    struct err err = { 0 };
    struct link *l;
    struct flow f;

    (void)state;
    flow_open(&f, "ipc");
    fake_memory(b.data, b.bytes);
    l = meet(&f, NULL);
    assert_int_equal(f.t->lend(l, &b, &ticket, NULL), ST_OK);
    ticket.data[CUDA_IPC_BYTES] = 1; /* its offset */
    into.data = mem_aligned(b.bytes);
    assert_int_equal(f.t->recv(f.link, &into, &ticket, &err), ST_EDATALOSS);
    assert_non_null(strstr(err.text, "outside"));
    ticket.bytes = 3;
    assert_int_equal(f.t->recv(f.link, &into, &ticket, NULL), ST_EDATALOSS);
    f.t->close(l);
    flow_close(&f);
    free(into.data);
    free(b.data);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(the_best_that_both_can_is_taken_and_the_others_explained),
    cmocka_unit_test(memory_that_cannot_be_mapped_is_not_tried_again),
    cmocka_unit_test(what_is_not_to_be_had_is_told),
    cmocka_unit_test(a_hello_of_nonsense_is_no_hello),
    cmocka_unit_test(a_context_goes_over_nccl),
    cmocka_unit_test(a_context_goes_over_ipc),
    cmocka_unit_test(a_mapping_that_nobody_uses_is_given_back),
    cmocka_unit_test(bytes_damaged_on_the_way_are_found),
    cmocka_unit_test(a_ticket_past_the_end_is_refused),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
