/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check_replay.c - steps that a back end may record and replay give the tokens that steps run as they are give.
 *
 * A model of one layer made of the operations of a step, run over the same random sequences twice: once with
 * cache_config.replay, where every shape comes back often enough to be recorded, once without. Rows and outputs vary, so
 * that recorded shapes are padded ones.
 */
#include "tests/ops/ops.h"

#include <math.h>
#include <string.h>

enum {
    SLOTS = 6,
    HEADS = 4,
    KV_HEADS = 2,
    HEAD_DIM = 64,
    WIDTH = 128,
    VOCAB = 331,
    STEPS = 14,
    ROWS_MAX = 24,
    BLOCK_ROWS = 40
};

struct tiny {
    struct ops *o;
    struct weight *table, *qkv, *out, *head, *norm;
    struct rope_table rope;
    void *block;
    void *x, *normed, *wide, *q, *heads, *last, *last_normed, *logits; /* the same in every step */
};

static void tiny_open(struct tiny *t, struct ops *o)
{
    const int64_t wide = (HEADS + 2 * KV_HEADS) * HEAD_DIM;
    float *values, freq[HEAD_DIM / 2], *ones = arena_array(&o->arena, WIDTH, sizeof *ones);

    t->o = o;
    for (int i = 0; i < WIDTH; i++)
        ones[i] = 1.0f;
    for (int i = 0; i < HEAD_DIM / 2; i++)
        freq[i] = powf(10000.0f, -2.0f * (float)i / HEAD_DIM);
    t->table = ops_weight(o, VOCAB, WIDTH, WEIGHT_TABLE, 1.0f, &values);
    t->qkv = ops_weight(o, wide, WIDTH, WEIGHT_QKV, 0.1f, &values);
    t->out = ops_weight(o, WIDTH, HEADS * HEAD_DIM, WEIGHT_ADDS, 0.1f, &values);
    t->head = ops_weight(o, VOCAB, WIDTH, WEIGHT_MATRIX, 0.3f, &values);
    t->norm = ops_weight_of(o, ones, 1, WIDTH, WEIGHT_VECTOR);
    t->rope = (struct rope_table){ .inv_freq = ops_up_bytes(o, freq, sizeof freq), .dims = HEAD_DIM, .scale = 1.0f };
    t->block =
        ops_up_kv(o, ops_random(o, 2 * KV_HEADS * BLOCK_ROWS * HEAD_DIM, 1.0f), 2 * KV_HEADS * BLOCK_ROWS * HEAD_DIM);
    t->x = ops_poisoned_x(o, ROWS_MAX * WIDTH);
    t->normed = ops_poisoned_act(o, ROWS_MAX * WIDTH);
    t->wide = ops_poisoned_x(o, ROWS_MAX * wide);
    t->q = ops_poisoned_act(o, ROWS_MAX * HEADS * HEAD_DIM);
    t->heads = ops_poisoned_act(o, ROWS_MAX * HEADS * HEAD_DIM);
    t->last = ops_poisoned_x(o, SLOTS * WIDTH);
    t->last_normed = ops_poisoned_act(o, SLOTS * WIDTH);
    t->logits = ops_poisoned_act(o, SLOTS * VOCAB);
}

static void tiny_close(struct tiny *t)
{
    struct weight *all[] = { t->table, t->qkv, t->out, t->head, t->norm };

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        t->o->be->ops->weight_close(t->o->be, all[i]);
}

static void tiny_step(struct tiny *t, const struct step *step, int32_t outputs)
{
    struct backend *be = t->o->be;
    const struct qkv_shape shape = { .q_heads = HEADS, .kv_heads = KV_HEADS, .dim = HEAD_DIM };
    const struct normed_product qkv = { t->norm, t->qkv, NULL, 1e-5f }, head = { t->norm, t->head, NULL, 1e-5f };

    if (!be->ops->step_begin(be, step)) {
        be->ops->step_embed(be, t->table, 1.0f, t->x);
        if (!be->ops->normed_qkv_to_tail || !be->ops->normed_qkv_to_tail(be, &qkv, &shape, &t->rope, 0, t->x, t->q)) {
            be->ops->rms_norm(be, t->x, t->norm, 1e-5f, step->rows, WIDTH, t->normed);
            be->ops->matmul(be, t->qkv, NULL, t->normed, step->rows, t->wide, false);
            be->ops->qkv_to_tail(be, &shape, &t->rope, 0, t->wide, t->q);
        }
        be->ops->attn_decode(be, 0, t->q, HEADS, 0.125f, 0, t->heads);
        be->ops->matmul(be, t->out, NULL, t->heads, step->rows, t->x, true);
        if (outputs > 0) {
            if (!be->ops->normed_outputs || !be->ops->normed_outputs(be, &head, t->x, t->logits)) {
                be->ops->step_outputs(be, t->x, WIDTH, t->last);
                be->ops->rms_norm(be, t->last, t->norm, 1e-5f, outputs, WIDTH, t->last_normed);
                be->ops->matmul(be, t->head, NULL, t->last_normed, outputs, t->logits, false);
            }
            be->ops->step_choose(be, t->logits, VOCAB);
        }
    }
    be->ops->step_end(be);
}

/* Rows of slot s in step n: some questions at first, then single rows, slots that pause. */
static int32_t rows_of(int32_t step, int32_t slot)
{
    if (step == 0)
        return slot % 3 + 1;
    return step % 4 == 3 && slot % 2 == 0 ? 0 : 1;
}

static void run(struct tiny *t, bool replay, int32_t ids[STEPS][SLOTS])
{
    struct backend *be = t->o->be;
    const struct cache_config config = { .slots = SLOTS,
                                         .pages = SLOTS,
                                         .pages_per_slot = 1,
                                         .rows_max = ROWS_MAX,
                                         .layers = 1,
                                         .q_heads = HEADS,
                                         .kv_heads = KV_HEADS,
                                         .dim = HEAD_DIM,
                                         .replay = replay };
    struct kv_block block = {
        .heads = KV_HEADS, .dim = HEAD_DIM, .k_dim = HEAD_DIM, .dtype = be->kv, .data = t->block
    };
    int32_t tail[SLOTS] = { 0 }, token[ROWS_MAX], position[ROWS_MAX], output[SLOTS];
    struct step_seq seq[SLOTS];
    struct err err = { 0 };

    block.v_offset = dtype_bytes(be->kv, KV_HEADS * BLOCK_ROWS * HEAD_DIM);
    ops_true(t->o, "cache opens", be->ops->cache_open(be, &config, &err) == ST_OK);
    for (int32_t s = 0; s < SLOTS; s++) {
        for (int g = 0; g < KV_HEADS; g++)
            block.first[g + 1] = block.first[g] + BLOCK_ROWS - s * (g + 1);
        be->ops->slot_blocks(be, s, &block);
        be->ops->slot_page(be, s, 0, s);
    }
    for (int32_t n = 0; n < STEPS; n++) {
        struct step step = { .seq = seq, .token = token, .position = position, .output = output };

        for (int32_t s = 0; s < SLOTS; s++) {
            const int32_t rows = rows_of(n, s);

            ids[n][s] = -1;
            if (rows == 0)
                continue;
            seq[step.seqs] = (struct step_seq){ s, step.rows, rows, tail[s], 0 };
            for (int32_t i = 0; i < rows; i++, step.rows++) {
                token[step.rows] = n == 0 ? (7 * s + i) % VOCAB : -1 - s;
                position[step.rows] = 40 + tail[s] + i;
            }
            output[step.seqs++] = step.rows - 1;
            tail[s] += rows;
        }
        tiny_step(t, &step, step.seqs);
        be->ops->step_result(be, 0, output);
        for (int32_t i = 0; i < step.seqs; i++)
            ids[n][seq[i].slot] = output[i];
    }
    be->ops->cache_close(be);
}

void check_replay(struct ops *o)
{
    struct tiny t;
    int32_t as_is[STEPS][SLOTS], replayed[STEPS][SLOTS];

    tiny_open(&t, o);
    run(&t, false, as_is);
    run(&t, true, replayed);
    ops_equal_bytes(o, "tokens of replayed steps", replayed, as_is, sizeof as_is);
    tiny_close(&t);
}
