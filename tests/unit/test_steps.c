/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_steps.c - the CPU back end's steps over blocks of every codec: nothing is allocated in them, no byte of a block
 * changes, and a sequence does not notice the others.
 */
#include "common/base/arena.h"
#include "common/kv/block.h"
#include "kernels/backend.h"
#include "tests/support/allocations.h"
#include "tests/support/cmocka_main.h"

#include <stdlib.h>

enum { SLOTS = 5, PAGES = 6, H = 6, G = 2, D = 64, LAYERS = 1, ROWS = 8, WIDTH = (H + 2 * G) * D };

/* A back end with SLOTS slots over blocks of their own lengths, and one weight. */
struct node {
    struct backend *be;
    struct weight *w;
    void *blocks[SLOTS];
    uint64_t bytes[SLOTS], sum[SLOTS]; /* of the blocks as they were packed */
};

static float number(uint64_t i)
{
    i = (i + 1) * 0x9e3779b97f4a7c15u;
    i = (i ^ (i >> 30)) * 0xbf58476d1ce4e5b9u;
    return (float)(i >> 40) / 8388608.0f - 1.0f;
}

static enum status read_numbers(void *ctx, int64_t row, int64_t rows, float *out, struct err *err)
{
    (void)ctx;
    (void)err;
    for (int64_t i = 0; i < rows * H * D; i++)
        out[i] = 0.1f * number((uint64_t)(row * H * D + i));
    return ST_OK;
}

/* A dense layer of `tokens` random rows a head. */
static void *random_layer(struct node *n, int64_t tokens, uint64_t seed)
{
    const uint64_t values = (uint64_t)(G * tokens * D), bytes = dtype_bytes(n->be->kv, values);
    char *rows;

    assert_int_equal(n->be->ops->alloc(n->be, bytes + 1, "blocks", (void **)&rows, NULL), ST_OK);
    for (uint64_t i = 0; i < values; i++) {
        float x = number(i + seed);

        dtype_from_f32(rows + i * dtype_bytes(n->be->kv, 1), n->be->kv, &x, 1);
    }
    return rows;
}

/* Ragged heads; the slots hold all codecs there are. */
static void tie_block(struct node *n, int32_t slot)
{
    const int64_t rows[G] = { 100 * slot + 3, 300 * slot }, tokens = rows[0] + rows[1];
    struct kv_block b = {
        .heads = G, .dim = D, .k_dim = D, .dtype = n->be->kv, .codec = (enum kv_codec)(slot % KV_CODECS)
    };
    struct kv_rows in = {
        .heads = G, .dim = D, .dtype = n->be->kv, .first = { 0, tokens }, .at = { 0, tokens, 2 * tokens }
    };
    struct pack_args args = { .rows = &in };
    int32_t *index = mem_zero((size_t)tokens, sizeof *index);

    in.k = random_layer(n, tokens, 1000000u * (uint64_t)slot);
    in.v = random_layer(n, tokens, 1000000u * (uint64_t)slot + 500000u);
    for (int32_t g = 0; g < G; g++) {
        in.rows[g] = tokens;
        for (int64_t i = 0; i < rows[g]; i++)
            index[b.first[g] + i] = (int32_t)i;
        b.first[g + 1] = args.first[g + 1] = b.first[g] + rows[g];
    }
    args.index = index;
    assert_int_equal(kv_block_plan(&b, NULL), ST_OK);
    assert_int_equal(n->be->ops->alloc(n->be, b.bytes, "blocks", &b.data, NULL), ST_OK);
    n->be->ops->pack(n->be, &args, &b);
    n->blocks[slot] = b.data;
    n->bytes[slot] = b.bytes;
    n->sum[slot] = n->be->ops->checksum(n->be, LANE_PRESS, b.data, b.bytes);
    n->be->ops->slot_blocks(n->be, slot, &b);
    n->be->ops->free(n->be, (void *)(uintptr_t)in.k);
    n->be->ops->free(n->be, (void *)(uintptr_t)in.v);
    free(index);
}

static void node_open(struct node *n, enum dtype dtype, int threads)
{
    const struct backend_config config = {
        .dtype = dtype, .threads = threads, .memory_fraction = 0.2, .rows_max = ROWS
    };
    const struct cache_config cache = { .slots = SLOTS,
                                        .pages = SLOTS * PAGES,
                                        .pages_per_slot = PAGES,
                                        .rows_max = ROWS,
                                        .layers = LAYERS,
                                        .q_heads = H,
                                        .kv_heads = G,
                                        .dim = D };
    const struct weight_source source = { .rows = 200, .cols = H * D, .read = read_numbers };

    assert_int_equal(backend_open(&n->be, "cpu", &config, NULL), ST_OK);
    assert_int_equal(n->be->ops->weight_open(n->be, &source, WEIGHT_MATRIX, &n->w, NULL), ST_OK);
    assert_int_equal(n->be->ops->cache_open(n->be, &cache, NULL), ST_OK);
    for (int32_t slot = 0; slot < SLOTS; slot++) {
        tie_block(n, slot);
        for (int32_t page = 0; page < PAGES; page++)
            n->be->ops->slot_page(n->be, slot, page, slot * PAGES + page);
    }
}

static void node_close(struct node *n)
{
    n->be->ops->cache_close(n->be);
    n->be->ops->weight_close(n->be, n->w);
    for (int slot = 0; slot < SLOTS; slot++) {
        const uint64_t sum = n->be->ops->checksum(n->be, LANE_PRESS, n->blocks[slot], n->bytes[slot]);

        assert_true(sum == n->sum[slot]); /* steps read blocks and change none of their bytes */
        n->be->ops->free(n->be, n->blocks[slot]);
    }
    backend_close(n->be);
}

/* A step of `seqs` sequences of `rows` rows each, from slot `slot` on, whose tails hold `tail` rows. What a row is fed
 * depends on its slot and place alone. out gets the attention [rows][H][D], ids the choices. */
static void run_step(struct node *n, int32_t slot, int32_t seqs, int32_t rows, int32_t tail, float *out, int32_t *ids)
{
    const struct qkv_shape shape = { .q_heads = H, .kv_heads = G, .dim = D };
    const float inv_freq[D / 2] = { 1.0f, 0.1f, 0.01f };
    const struct rope_table rope = { .inv_freq = inv_freq, .dims = D, .scale = 1.0f };
    static float qkv[ROWS * WIDTH], q[ROWS * H * D], wanted[SLOTS * H * D], logits[SLOTS * 200];
    struct step_seq seq[SLOTS];
    int32_t token[ROWS] = { 0 }, position[ROWS], output[SLOTS];
    const struct step step = {
        .rows = seqs * rows, .seqs = seqs, .seq = seq, .token = token, .position = position, .output = output
    };

    for (int32_t s = 0; s < seqs; s++) {
        seq[s] = (struct step_seq){ slot + s, s * rows, rows, tail, 0 };
        output[s] = s * rows + rows - 1;
        for (int32_t i = 0; i < rows; i++) {
            position[s * rows + i] = 50 + tail + i;
            for (int32_t k = 0; k < WIDTH; k++)
                qkv[(s * rows + i) * WIDTH + k] = 3.0f * number((uint64_t)(((slot + s) * 1000 + tail + i) * WIDTH + k));
        }
    }
    assert_false(n->be->ops->step_begin(n->be, &step));
    n->be->ops->qkv_to_tail(n->be, &shape, &rope, 0, qkv, q);
    n->be->ops->attn_decode(n->be, 0, q, H, 0.125f, 0, out);
    n->be->ops->step_outputs(n->be, out, H * D, wanted);
    n->be->ops->matmul(n->be, n->w, NULL, wanted, seqs, logits, false);
    n->be->ops->step_choose(n->be, logits, 200);
    n->be->ops->step_end(n->be);
    n->be->ops->step_result(n->be, 0, ids);
}

static void a_hundred_steps_allocate_nothing(void **state)
{
    static float out[ROWS * H * D];
    struct node n;
    int32_t ids[SLOTS];
    int32_t before;

    (void)state;
    node_open(&n, DT_BF16, 2);
    run_step(&n, 0, SLOTS, 1, 0, out, ids);
    before = allocations_so_far();
    for (int32_t tail = 1; tail <= 100; tail++)
        run_step(&n, 0, SLOTS, 1, tail, out, ids);
    assert_int_equal(allocations_so_far(), before);
    assert_true(before > 0 || !ALLOCATIONS_ARE_COUNTED); /* the counter counts */
    node_close(&n);
}

static void assert_alone_is_the_same(enum dtype dtype)
{
    static float together[PAGES * 64][SLOTS * H * D], alone[ROWS * H * D];
    static int32_t chosen[PAGES * 64][SLOTS];
    const int32_t steps = 300;
    struct node n;
    int32_t id;

    node_open(&n, dtype, 3);
    for (int32_t tail = 0; tail < steps; tail++)
        run_step(&n, 0, SLOTS, 1, tail, together[tail], chosen[tail]);
    for (int32_t slot = 0; slot < SLOTS; slot++)
        for (int32_t tail = 0; tail < steps; tail++) {
            run_step(&n, slot, 1, 1, tail, alone, &id);
            assert_memory_equal(alone, together[tail] + slot * H * D, H * D * sizeof(float));
            assert_int_equal(id, chosen[tail][slot]);
        }
    node_close(&n);
}

static void a_sequence_does_not_notice_the_others_in_f32(void **state)
{
    (void)state;
    assert_alone_is_the_same(DT_F32);
}

static void a_sequence_does_not_notice_the_others_in_bf16(void **state)
{
    (void)state;
    assert_alone_is_the_same(DT_BF16);
}

static void assert_question_is_the_same(enum dtype dtype)
{
    static float together[ROWS * H * D], alone[ROWS * H * D];
    struct node n;
    int32_t at_once, one;

    node_open(&n, dtype, 2);
    for (int32_t tail = 0; tail < 340; tail += ROWS) {
        run_step(&n, 3, 1, ROWS, tail, together, &at_once);
        for (int32_t i = 0; i < ROWS; i++) {
            run_step(&n, 3, 1, 1, tail + i, alone, &one);
            assert_memory_equal(alone, together + i * H * D, H * D * sizeof(float));
        }
        assert_int_equal(at_once, one);
    }
    node_close(&n);
}

static void rows_of_a_question_at_once_are_the_same_as_one_by_one(void **state)
{
    (void)state;
    assert_question_is_the_same(DT_F32);
    assert_question_is_the_same(DT_BF16);
}

static void threads_do_not_change_a_bit(void **state)
{
    static float one[SLOTS * H * D], many[SLOTS * H * D];
    struct node a, b;
    int32_t ids[SLOTS];

    (void)state;
    node_open(&a, DT_F32, 1);
    node_open(&b, DT_F32, 4);
    for (int32_t tail = 0; tail < 70; tail++) {
        run_step(&a, 0, SLOTS, 1, tail, one, ids);
        run_step(&b, 0, SLOTS, 1, tail, many, ids);
        assert_memory_equal(one, many, sizeof one);
    }
    node_close(&a);
    node_close(&b);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(a_hundred_steps_allocate_nothing),
    cmocka_unit_test(a_sequence_does_not_notice_the_others_in_f32),
    cmocka_unit_test(a_sequence_does_not_notice_the_others_in_bf16),
    cmocka_unit_test(rows_of_a_question_at_once_are_the_same_as_one_by_one),
    cmocka_unit_test(threads_do_not_change_a_bit),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
