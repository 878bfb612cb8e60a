/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack_coded.c - the chosen rows of a layer become the codes of a block (common/kv/codec.h).
 *
 *   int8, fp8   task: some rows               row ─▶ codes, scale
 *   int4        task: 32 rows of a head       K: codes, a pair per channel; V: codes, a pair per row
 *               ... and for each head one     the last rows, whole
 *
 * Keys are turned and lose their channels first, in f32; what is coded is what plain rows would hold, but for that
 * rounding.
 */
#include "kernels/cpu/pack.h"

#include <string.h>

enum { ROWS_PER_TASK = 64 };

struct coding {
    const struct packing *p;
    struct kv_parts parts;
    const struct cpu_codes *codes;
};

static uint8_t *part_at(const struct coding *c, enum kv_part part, int64_t byte)
{
    return (uint8_t *)c->p->block->data + c->parts.offset[part] + byte;
}

/* f32 out[k_dim]: the K row as it is coded. */
static void key_floats(const struct coding *c, int32_t head, int64_t at, float *out)
{
    const struct kv_block *b = c->p->block;
    float row[KV_HEAD_DIM_MAX];

    if (b->k_dim == b->dim) {
        pack_key_turned(c->p, head, at, out);
        return;
    }
    pack_key_turned(c->p, head, at, row);
    for (int32_t i = 0; i < b->k_dim; i++)
        out[i] = row[c->p->args->channel[(int64_t)head * b->k_dim + i]];
}

static void scaled_task(void *arg, int64_t i, int worker)
{
    const struct coding *c = arg;
    const struct kv_block *b = c->p->block;
    const int64_t from = i * ROWS_PER_TASK, total = c->p->args->first[b->heads];
    const int64_t end = from + ROWS_PER_TASK < total ? from + ROWS_PER_TASK : total;
    float *room = c->p->c->room[worker].row, scale;
    int32_t head = pack_head_of(c->p, from);

    for (int64_t at = from; at < end; at++) {
        while (c->p->args->first[head + 1] <= at)
            head++;
        key_floats(c, head, at, room);
        scale = c->codes->write_scaled(b->codec, room, b->k_dim, part_at(c, KV_PART_K, at * b->k_dim));
        memcpy(part_at(c, KV_PART_K_SCALE, at * 4), &scale, 4);
        pack_floats(c->p, pack_value(c->p, head, at), room);
        scale = c->codes->write_scaled(b->codec, room, b->dim, part_at(c, KV_PART_V, at * b->dim));
        memcpy(part_at(c, KV_PART_V_SCALE, at * 4), &scale, 4);
    }
}

/* Rows [at, at + 32) of the chosen ones, which are the coded rows from number `coded` on. */
static void code_group(const struct coding *c, int32_t head, int64_t at, int64_t coded, float *room)
{
    const struct kv_block *b = c->p->block;
    const int64_t k_bytes = (b->k_dim + 1) / 2, v_bytes = (b->dim + 1) / 2;
    uint32_t pair[KV_HEAD_DIM_MAX];

    for (int32_t r = 0; r < KV_GROUP_ROWS; r++)
        key_floats(c, head, at + r, room + r * b->k_dim);
    c->codes->write_group(room, b->k_dim, part_at(c, KV_PART_K, coded * k_bytes), pair);
    memcpy(part_at(c, KV_PART_K_SCALE, coded / KV_GROUP_ROWS * b->k_dim * 4), pair, (size_t)b->k_dim * 4);
    for (int32_t r = 0; r < KV_GROUP_ROWS; r++) {
        pack_floats(c->p, pack_value(c->p, head, at + r), room);
        pair[0] = c->codes->write_int4(room, b->dim, part_at(c, KV_PART_V, (coded + r) * v_bytes));
        memcpy(part_at(c, KV_PART_V_SCALE, (coded + r) * 4), pair, 4);
    }
}

static void floats_to_row(const struct coding *c, const float *in, int32_t count, uint8_t *out)
{
    if (c->p->block->dtype == DT_BF16)
        c->p->c->loops->to_bf16(in, count, (uint16_t *)(void *)out);
    else
        memcpy(out, in, (size_t)count * 4);
}

/* Rows from `at` to the head's end, which are the whole rows from number `whole` on. */
static void copy_whole(const struct coding *c, int32_t head, int64_t at, int64_t whole, float *room)
{
    const struct kv_block *b = c->p->block;
    const int64_t k_bytes = b->k_dim * cpu_kv_bytes(c->p->c), v_bytes = c->p->row_bytes;

    for (; at < c->p->args->first[head + 1]; at++, whole++) {
        key_floats(c, head, at, room);
        floats_to_row(c, room, b->k_dim, part_at(c, KV_PART_K_WHOLE, whole * k_bytes));
        memcpy(part_at(c, KV_PART_V_WHOLE, whole * v_bytes), pack_value(c->p, head, at), (size_t)v_bytes);
    }
}

/* Tasks of a head: its groups, then its whole rows. */
static void int4_task(void *arg, int64_t i, int worker)
{
    const struct coding *c = arg;
    const struct kv_block *b = c->p->block;
    float *room = c->p->c->room[worker].merged; /* [32][D] */
    int64_t before = 0, coded;
    int32_t head = 0;

    while (coded = kv_coded_rows(KV_INT4, b->first[head + 1] - b->first[head]), i > coded / KV_GROUP_ROWS) {
        i -= coded / KV_GROUP_ROWS + 1;
        before += coded;
        head++;
    }
    if (i < coded / KV_GROUP_ROWS)
        code_group(c, head, b->first[head] + i * KV_GROUP_ROWS, before + i * KV_GROUP_ROWS, room);
    else
        copy_whole(c, head, b->first[head] + coded, b->first[head] - before, room);
}

void pack_coded(const struct packing *p)
{
    struct coding c = { .p = p, .codes = p->c->isa->codes };
    const int64_t rows = p->args->first[p->block->heads];

    kv_block_parts(p->block, &c.parts);
    if (p->block->codec == KV_INT4)
        pool_run(p->c->pool, kv_coded_first(p->block, p->block->heads) / KV_GROUP_ROWS + p->block->heads, int4_task,
                 &c);
    else
        pool_run(p->c->pool, (rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK, scaled_task, &c);
}
