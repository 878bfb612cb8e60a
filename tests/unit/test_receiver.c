/* SPDX-License-Identifier: Apache-2.0 */
/* test_receiver.c - what comes is proven, and each byte is put into its place exactly once. */
#include "common/transport/receiver.h"

#include "common/base/arena.h"
#include "tests/support/cmocka_main.h"
#include "tests/unit/wire_maker.h"

#include <stdlib.h>

static struct kv_block blocks[MAKER_LAYERS];

static int make_blocks(void **state)
{
    (void)state;
    for (int32_t l = 0; l < MAKER_LAYERS; l++)
        blocks[l] = maker_block(l, 100 + 30 * (uint32_t)l, 77);
    return 0;
}

static int free_blocks(void **state)
{
    (void)state;
    for (int32_t l = 0; l < MAKER_LAYERS; l++)
        free(blocks[l].data);
    return 0;
}

/* All chunks of a block, in pieces of `piece` bytes. */
static enum status send_bytes(struct catcher *c, const struct kv_block *b, size_t piece)
{
    enum status st = ST_OK;

    for (uint64_t at = 0; st == ST_OK && at < b->bytes; at += piece) {
        const size_t n = b->bytes - at < piece ? (size_t)(b->bytes - at) : piece;

        st = catcher_take(c, maker_chunk(b->layer, at, (uint8_t *)b->data + at, n));
    }
    return st;
}

static void opened(struct catcher *c)
{
    catcher_open(c);
    assert_int_equal(catcher_take(c, maker_accepted(MAKER_LAYERS)), ST_OK);
}

static void whole_context_arrives_and_commits(void **state)
{
    static const int32_t order[] = { 2, 0, 3, 1 };
    struct catcher c;

    (void)state;
    opened(&c);
    for (int i = 0; i < MAKER_LAYERS; i++) {
        assert_int_equal(catcher_take(&c, maker_announce(&blocks[order[i]])), ST_OK);
        assert_int_equal(send_bytes(&c, &blocks[order[i]], 1000), ST_OK);
        assert_int_equal(receiver_layers(c.receiver), i + 1);
    }
    assert_int_equal(catcher_take(&c, maker_commit(blocks, MAKER_LAYERS)), ST_OK);
    assert_int_equal(c.accepted, 1);
    assert_int_equal(c.arrived, MAKER_LAYERS);
    assert_int_equal(c.committed, 1);
    for (int32_t l = 0; l < MAKER_LAYERS; l++) {
        assert_true(catcher_has(&c, &blocks[l]));
        assert_int_equal(receiver_blocks(c.receiver)[l].first[1], blocks[l].first[1]);
        assert_ptr_equal(receiver_blocks(c.receiver)[l].data, c.place[l]);
    }
    catcher_close(&c);
}

static void two_blocks_may_come_interleaved(void **state)
{
    const uint64_t half = blocks[0].bytes / 2;
    struct catcher c;

    (void)state;
    opened(&c);
    assert_int_equal(catcher_take(&c, maker_announce(&blocks[0])), ST_OK);
    assert_int_equal(catcher_take(&c, maker_announce(&blocks[1])), ST_OK);
    assert_int_equal(catcher_take(&c, maker_chunk(0, 0, blocks[0].data, half)), ST_OK);
    assert_int_equal(send_bytes(&c, &blocks[1], 4096), ST_OK);
    assert_int_equal(c.arrived, 1);
    assert_int_equal(catcher_take(&c, maker_chunk(0, half, (uint8_t *)blocks[0].data + half, blocks[0].bytes - half)),
                     ST_OK);
    assert_int_equal(c.arrived, 2);
    assert_true(catcher_has(&c, &blocks[0]) && catcher_has(&c, &blocks[1]));
    catcher_close(&c);
}

static void damage_is_found_before_anybody_is_told(void **state)
{
    struct catcher c;

    (void)state;
    opened(&c);
    assert_int_equal(catcher_take(&c, maker_announce(&blocks[1])), ST_OK);
    ((uint8_t *)blocks[1].data)[blocks[1].bytes - 1] ^= 1;
    assert_int_equal(send_bytes(&c, &blocks[1], 700), ST_EDATALOSS);
    ((uint8_t *)blocks[1].data)[blocks[1].bytes - 1] ^= 1;
    assert_int_equal(c.arrived, 0);
    assert_non_null(strstr(c.err.text, "layer 1 arrived damaged"));
    catcher_close(&c);
}

static void gaps_overlaps_and_overruns_are_refused(void **state)
{
    const struct {
        uint64_t offset;
        size_t bytes;
    } wrong[] = { { 65, 64 }, { 0, 64 }, { 63, 64 }, { 64, blocks[0].bytes }, { UINT64_MAX - 10, 64 } };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        uint8_t *bytes = mem_zero(1, blocks[0].bytes + 64);
        struct catcher c;

        opened(&c);
        assert_int_equal(catcher_take(&c, maker_announce(&blocks[0])), ST_OK);
        assert_int_equal(catcher_take(&c, maker_chunk(0, 0, blocks[0].data, 64)), ST_OK);
        assert_int_equal(catcher_take(&c, maker_chunk(0, wrong[i].offset, bytes, wrong[i].bytes)), ST_EDATALOSS);
        assert_int_equal(((uint8_t *)c.place[0])[64], 0xee);
        catcher_close(&c);
        free(bytes);
    }
}

static void bytes_nobody_announced_are_refused(void **state)
{
    static const int32_t layers[] = { 1, 3, -1, MAKER_LAYERS, INT32_MAX };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(layers); i++) {
        struct catcher c;

        opened(&c);
        assert_int_equal(catcher_take(&c, maker_announce(&blocks[0])), ST_OK);
        assert_int_equal(catcher_take(&c, maker_chunk(layers[i], 0, "12345678", 8)), ST_EDATALOSS);
        catcher_close(&c);
    }
}

static void a_layer_comes_once(void **state)
{
    struct catcher c;

    (void)state;
    opened(&c);
    assert_int_equal(catcher_take(&c, maker_announce(&blocks[0])), ST_OK);
    assert_int_equal(send_bytes(&c, &blocks[0], 5000), ST_OK);
    assert_int_equal(catcher_take(&c, maker_announce(&blocks[0])), ST_EDATALOSS);
    assert_int_equal(c.placed, 1);
    catcher_close(&c);
}

static void headers_that_do_not_fit_never_reach_the_sink(void **state)
{
    struct kv_block b = maker_block(0, MAKER_ROWS + 1, 1);
    struct catcher c;

    (void)state;
    opened(&c);
    assert_int_equal(catcher_take(&c, maker_announce(&b)), ST_EDATALOSS);
    assert_int_equal(c.placed, 0);
    catcher_close(&c);

    opened(&c);
    b.bytes -= 64;
    b.first[1] = b.first[2] = 10;
    assert_int_equal(catcher_take(&c, maker_announce(&b)), ST_EDATALOSS);
    assert_non_null(strstr(c.err.text, "announced with"));
    assert_int_equal(c.placed, 0);
    catcher_close(&c);

    opened(&c); /* nobody asked for verdicts */
    b.scored = 5;
    assert_int_equal(catcher_take(&c, maker_announce(&b)), ST_EDATALOSS);
    assert_non_null(strstr(c.err.text, "verdicts on 5 rows"));
    assert_int_equal(c.placed, 0);
    catcher_close(&c);
    free(b.data);
}

static void a_sink_without_room_ends_the_order(void **state)
{
    struct catcher c;

    (void)state;
    opened(&c);
    c.refuse = ST_EEXHAUSTED;
    assert_int_equal(catcher_take(&c, maker_announce(&blocks[0])), ST_EEXHAUSTED);
    assert_int_equal(catcher_take(&c, maker_announce(&blocks[1])), ST_EEXHAUSTED);
    assert_int_equal(c.placed, 1);
    catcher_close(&c);
}

static void a_block_without_rows_needs_no_bytes(void **state)
{
    struct kv_block empty = maker_block(0, 0, 0);
    struct catcher c;

    (void)state;
    opened(&c);
    assert_int_equal(catcher_take(&c, maker_announce(&empty)), ST_OK);
    assert_int_equal(c.arrived, 1);
    catcher_close(&c);
    free(empty.data);
}

/* Everything sent, then a Commit that was made from other blocks. */
static enum status commit_with(const struct kv_block *claimed, int32_t layers, int32_t sent, struct err *err)
{
    struct catcher c;
    enum status st;

    opened(&c);
    for (int32_t l = 0; l < sent; l++) {
        assert_int_equal(catcher_take(&c, maker_announce(&blocks[l])), ST_OK);
        assert_int_equal(send_bytes(&c, &blocks[l], 65536), ST_OK);
    }
    st = catcher_take(&c, maker_commit(claimed, layers));
    assert_int_equal(c.committed, st == ST_OK);
    *err = c.err;
    catcher_close(&c);
    return st;
}

static void a_commit_that_differs_is_refused(void **state)
{
    struct kv_block other[MAKER_LAYERS];
    struct err err;

    (void)state;
    assert_int_equal(commit_with(blocks, MAKER_LAYERS, MAKER_LAYERS, &err), ST_OK);
    assert_int_equal(commit_with(blocks, MAKER_LAYERS, MAKER_LAYERS - 1, &err), ST_EDATALOSS);
    assert_non_null(strstr(err.text, "3 of 4 layers"));
    assert_int_equal(commit_with(blocks, MAKER_LAYERS - 1, MAKER_LAYERS, &err), ST_EDATALOSS);
    memcpy(other, blocks, sizeof other);
    other[3] = other[2];
    assert_int_equal(commit_with(other, MAKER_LAYERS, MAKER_LAYERS, &err), ST_EDATALOSS);
    memcpy(other, blocks, sizeof other);
    other[3] = maker_block(2, 190, 77); /* as many rows, other bytes */
    assert_int_equal(commit_with(other, MAKER_LAYERS, MAKER_LAYERS, &err), ST_EDATALOSS);
    assert_non_null(strstr(err.text, "checksum"));
    free(other[3].data);
}

static void a_commit_says_a_position_that_answers_can_go_on_at(void **state)
{
    static const int64_t position[] = { MAKER_ROWS - 20, MAKER_ROWS - 21, MAKER_ROWS + 1, 0, -1, INT64_MAX };

    (void)state;
    for (size_t i = 0; i < sizeof position / sizeof position[0]; i++) {
        struct catcher c;
        enum status st;

        opened(&c);
        for (int32_t l = 0; l < MAKER_LAYERS; l++) {
            assert_int_equal(catcher_take(&c, maker_announce(&blocks[l])), ST_OK);
            assert_int_equal(send_bytes(&c, &blocks[l], 65536), ST_OK);
        }
        st = catcher_take(&c, maker_commit_at(blocks, MAKER_LAYERS, position[i]));
        assert_int_equal(st, i == 0 ? ST_OK : ST_EDATALOSS);
        assert_int_equal(c.committed, i == 0);
        assert_true(i == 0 || strstr(c.err.text, "next_position"));
        catcher_close(&c);
    }
}

static void messages_out_of_order_are_damage(void **state)
{
    struct catcher c;

    (void)state;
    catcher_open(&c);
    assert_int_equal(catcher_take(&c, maker_announce(&blocks[0])), ST_EDATALOSS);
    assert_int_equal(c.err.code, ST_EDATALOSS);
    catcher_close(&c);
    opened(&c);
    assert_int_equal(catcher_take(&c, maker_accepted(MAKER_LAYERS)), ST_EDATALOSS);
    catcher_close(&c);
}

static void more_layers_than_the_model_has_are_refused(void **state)
{
    static const int32_t layers[] = { 0, -1, MAKER_LAYERS + 1, INT32_MAX };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(layers); i++) {
        struct catcher c;

        catcher_open(&c);
        assert_int_equal(catcher_take(&c, maker_accepted(layers[i])), ST_EDATALOSS);
        catcher_close(&c);
    }
}

static void beats_are_told_in_every_state(void **state)
{
    Platen__Internal__V1__FromPrefill msg = PLATEN__INTERNAL__V1__FROM_PREFILL__INIT;
    Platen__Internal__V1__Beat beat = PLATEN__INTERNAL__V1__BEAT__INIT;
    struct catcher c;

    (void)state;
    msg.kind_case = PLATEN__INTERNAL__V1__FROM_PREFILL__KIND_BEAT;
    msg.beat = &beat;
    catcher_open(&c);
    assert_int_equal(catcher_take(&c, maker_message(&msg)), ST_OK);
    assert_int_equal(catcher_take(&c, maker_accepted(MAKER_LAYERS)), ST_OK);
    assert_int_equal(catcher_take(&c, maker_message(&msg)), ST_OK);
    assert_int_equal(c.beats, 2);
    catcher_close(&c);
}

static void noise_is_damage_and_unknown_kinds_are_passed_over(void **state)
{
    static const uint8_t unknown[] = { 9 << 3 | 2, 3, 'a', 'b', 'c' }, noise[] = { 0xff, 0xff, 0xff };
    struct catcher c;

    (void)state;
    opened(&c);
    assert_int_equal(catcher_take(&c, rpc_buffer_copy(unknown, sizeof unknown)), ST_OK);
    assert_int_equal(catcher_take(&c, rpc_buffer_copy("", 0)), ST_OK);
    assert_int_equal(catcher_take(&c, rpc_buffer_copy(noise, sizeof noise)), ST_EDATALOSS);
    catcher_close(&c);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(whole_context_arrives_and_commits),
    cmocka_unit_test(two_blocks_may_come_interleaved),
    cmocka_unit_test(damage_is_found_before_anybody_is_told),
    cmocka_unit_test(gaps_overlaps_and_overruns_are_refused),
    cmocka_unit_test(bytes_nobody_announced_are_refused),
    cmocka_unit_test(a_layer_comes_once),
    cmocka_unit_test(headers_that_do_not_fit_never_reach_the_sink),
    cmocka_unit_test(a_sink_without_room_ends_the_order),
    cmocka_unit_test(a_block_without_rows_needs_no_bytes),
    cmocka_unit_test(a_commit_that_differs_is_refused),
    cmocka_unit_test(a_commit_says_a_position_that_answers_can_go_on_at),
    cmocka_unit_test(messages_out_of_order_are_damage),
    cmocka_unit_test(more_layers_than_the_model_has_are_refused),
    cmocka_unit_test(beats_are_told_in_every_state),
    cmocka_unit_test(noise_is_damage_and_unknown_kinds_are_passed_over),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), make_blocks, free_blocks);
}
