/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack.c - the chosen rows of a layer become the bytes of a block; packing is the gather, in one pass.
 *
 *   rows  [ K of head g ] index ──▶ block  [ K rows of all heads | pad | V rows of all heads | pad | ... ]
 *
 * With re-rotation (PRESSES 2.6) K rows are turned on the way, from token p to slot i; V rows are always copied as they
 * are. Padding is written, so that equal rows give equal bytes and one checksum.
 */
#include "kernels/cpu/pack.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

enum { ROWS_PER_TASK = 64 };

int32_t pack_head_of(const struct packing *p, int64_t at)
{
    int32_t head = 0;

    while (p->args->first[head + 1] <= at)
        head++;
    return head;
}

static int64_t source_of(const struct packing *p, int32_t head, int64_t at)
{
    return (p->args->rows->first[head] + p->args->index[at]) * p->row_bytes;
}

const char *pack_key(const struct packing *p, int32_t head, int64_t at)
{
    return (const char *)p->args->rows->k + source_of(p, head, at);
}

const char *pack_value(const struct packing *p, int32_t head, int64_t at)
{
    return (const char *)p->args->rows->v + source_of(p, head, at);
}

void pack_floats(const struct packing *p, const void *row, float *out)
{
    const struct kv_rows *in = p->args->rows;

    if (in->dtype == DT_BF16)
        p->c->loops->from_bf16(row, in->dim, out);
    else
        memcpy(out, row, (size_t)in->dim * 4);
}

static bool turns(const struct packing *p)
{
    return p->args->rerotate && p->args->rerotate->inv_freq;
}

void pack_key_turned(const struct packing *p, int32_t head, int64_t at, float *out)
{
    const struct cpu_loops *loops = p->c->loops;
    const struct rope_table *rope = p->args->rerotate;
    float cos[KV_HEAD_DIM_MAX / 2], sin[KV_HEAD_DIM_MAX / 2];
    int64_t row = p->args->index[at], slot = at - p->args->first[head];
    int64_t token = p->args->token ? p->args->token[p->args->rows->at[head] + row] : row;

    pack_floats(p, pack_key(p, head, at), out);
    if (!turns(p))
        return;
    loops->angles(slot - token, rope->inv_freq, rope->dims / 2, 1.0f, cos, sin);
    loops->rotate(out, cos, sin, rope->dims / 2);
}

static void copy_turned(const struct packing *p, int32_t head, int64_t at, float *room, void *to)
{
    const int32_t dim = p->args->rows->dim;

    pack_key_turned(p, head, at, room);
    if (p->args->rows->dtype == DT_BF16)
        p->c->loops->to_bf16(room, dim, to);
    else
        memcpy(to, room, (size_t)dim * 4);
}

/* The kept channels of a K row. */
static void copy_channels(const struct packing *p, int32_t head, const char *from, char *to)
{
    const int64_t bytes = cpu_kv_bytes(p->c);
    const int32_t *channel = p->args->channel + (int64_t)head * p->block->k_dim;

    for (int32_t i = 0; i < p->block->k_dim; i++)
        memcpy(to + i * bytes, from + channel[i] * bytes, (size_t)bytes);
}

void pack_masks(const struct packing *p, uint8_t *mask)
{
    const int64_t mask_bytes = (p->block->dim + 7) / 8;

    memset(mask, 0, (size_t)(p->block->heads * mask_bytes));
    for (int32_t g = 0; g < p->block->heads; g++)
        for (int32_t i = 0; i < p->block->k_dim; i++) {
            int32_t c = p->args->channel[(int64_t)g * p->block->k_dim + i];

            mask[g * mask_bytes + c / 8] |= (uint8_t)(1u << c % 8);
        }
}

void pack_padding(const struct kv_block *block)
{
    struct kv_parts parts;

    kv_block_parts(block, &parts);
    for (int i = 0; i < KV_PARTS; i++)
        memset((char *)block->data + parts.offset[i] + parts.bytes[i], 0,
               (size_t)(kv_align(parts.bytes[i]) - parts.bytes[i]));
}

static void pack_task(void *arg, int64_t i, int worker)
{
    const struct packing *p = arg;
    int64_t from = i * ROWS_PER_TASK, total = p->args->first[p->block->heads];
    int64_t end = from + ROWS_PER_TASK < total ? from + ROWS_PER_TASK : total;
    const int64_t key_bytes = p->block->k_dim * cpu_kv_bytes(p->c);
    char *k = (char *)p->block->data + p->block->k_offset, *v = (char *)p->block->data + p->block->v_offset;
    int32_t head = pack_head_of(p, from);

    for (int64_t at = from; at < end; at++) {
        while (p->args->first[head + 1] <= at)
            head++;
        if (p->block->k_dim < p->block->dim)
            copy_channels(p, head, pack_key(p, head, at), k + at * key_bytes);
        else if (turns(p))
            copy_turned(p, head, at, p->c->room[worker].row, k + at * p->row_bytes);
        else
            memcpy(k + at * p->row_bytes, pack_key(p, head, at), (size_t)p->row_bytes);
        memcpy(v + at * p->row_bytes, pack_value(p, head, at), (size_t)p->row_bytes);
    }
}

void cpu_pack(struct backend *be, const struct pack_args *args, const struct kv_block *block)
{
    struct cpu *c = cpu_of(be);
    struct packing p = { .c = c, .args = args, .block = block, .row_bytes = args->rows->dim * cpu_kv_bytes(c) };
    struct kv_parts parts;

    kv_block_parts(block, &parts);
    assert(args->rows->dtype == be->kv && block->dtype == be->kv && block->dim == args->rows->dim);
    assert(block->k_dim == block->dim || (args->channel && !args->rerotate));
    assert(parts.offset[KV_PART_V] == block->v_offset && parts.offset[KV_PART_MASKS] <= block->bytes);
    pack_padding(block);
    if (block->k_dim < block->dim)
        pack_masks(&p, (uint8_t *)block->data + parts.offset[KV_PART_MASKS]);
    if (block->codec == KV_PLAIN)
        pool_run(c->pool, (args->first[block->heads] + ROWS_PER_TASK - 1) / ROWS_PER_TASK, pack_task, &p);
    else
        pack_coded(&p);
}

uint64_t cpu_checksum(struct backend *be, enum lane lane, const void *device, uint64_t bytes)
{
    (void)be;
    (void)lane;
    return XXH3_64bits(device, bytes);
}
