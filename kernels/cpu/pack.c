/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack.c - the chosen rows of a layer become the bytes of a block; packing is the gather, in one pass.
 *
 *   rows  [ K of head g ] index ──▶ block  [ K rows of all heads | pad | V rows of all heads | pad ]
 *
 * With re-rotation (PRESSES 2.6) K rows are turned on the way, from token p to slot i; V rows are always copied as they
 * are. Padding is written, so that equal rows give equal bytes and one checksum.
 */
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

enum { ROWS_PER_TASK = 64 };

struct packing {
    const struct cpu *c;
    const struct pack_args *args;
    const struct kv_block *block;
    int64_t row_bytes, key_bytes; /* of a row of V, and of K with the channels that it keeps */
};

static void rotate_key(const struct packing *p, int32_t head, int64_t slot, int64_t row, const void *from, void *to,
                       float *room)
{
    const struct cpu_loops *loops = p->c->loops;
    const struct kv_rows *in = p->args->rows;
    const struct rope_table *rope = p->args->rerotate;
    float cos[KV_HEAD_DIM_MAX / 2], sin[KV_HEAD_DIM_MAX / 2];
    int64_t token = p->args->token ? p->args->token[in->at[head] + row] : row;

    if (in->dtype == DT_BF16)
        loops->from_bf16(from, in->dim, room);
    else
        memcpy(room, from, (size_t)in->dim * 4);
    loops->angles(slot - token, rope->inv_freq, rope->dims / 2, 1.0f, cos, sin);
    loops->rotate(room, cos, sin, rope->dims / 2);
    if (in->dtype == DT_BF16)
        loops->to_bf16(room, in->dim, to);
    else
        memcpy(to, room, (size_t)in->dim * 4);
}

static int32_t head_of(const struct packing *p, int64_t at)
{
    int32_t head = 0;

    while (p->args->first[head + 1] <= at)
        head++;
    return head;
}

/* The kept channels of a K row. */
static void copy_channels(const struct packing *p, int32_t head, const char *from, char *to)
{
    const int64_t bytes = cpu_kv_bytes(p->c);
    const int32_t *channel = p->args->channel + (int64_t)head * p->block->k_dim;

    for (int32_t i = 0; i < p->block->k_dim; i++)
        memcpy(to + i * bytes, from + channel[i] * bytes, (size_t)bytes);
}

static void write_masks(const struct packing *p)
{
    const int64_t mask_bytes = (p->block->dim + 7) / 8;
    struct kv_parts parts;
    uint8_t *mask;

    kv_block_parts(p->block, &parts);
    mask = (uint8_t *)p->block->data + parts.offset[KV_PART_MASKS];
    memset(mask, 0, (size_t)kv_align(parts.bytes[KV_PART_MASKS]));
    for (int32_t g = 0; g < p->block->heads; g++)
        for (int32_t i = 0; i < p->block->k_dim; i++) {
            int32_t c = p->args->channel[(int64_t)g * p->block->k_dim + i];

            mask[g * mask_bytes + c / 8] |= (uint8_t)(1u << c % 8);
        }
}

static void pack_task(void *arg, int64_t i, int worker)
{
    const struct packing *p = arg;
    const struct kv_rows *in = p->args->rows;
    int64_t from = i * ROWS_PER_TASK, total = p->args->first[in->heads];
    int64_t end = from + ROWS_PER_TASK < total ? from + ROWS_PER_TASK : total;
    char *k = (char *)p->block->data + p->block->k_offset, *v = (char *)p->block->data + p->block->v_offset;
    int32_t head = head_of(p, from);

    for (int64_t at = from; at < end; at++) {
        while (p->args->first[head + 1] <= at)
            head++;
        int64_t row = p->args->index[at], source = (in->first[head] + row) * p->row_bytes;

        if (p->block->k_dim < p->block->dim)
            copy_channels(p, head, (const char *)in->k + source, k + at * p->key_bytes);
        else if (p->args->rerotate && p->args->rerotate->inv_freq)
            rotate_key(p, head, at - p->args->first[head], row, (const char *)in->k + source, k + at * p->row_bytes,
                       p->c->room[worker].row);
        else
            memcpy(k + at * p->row_bytes, (const char *)in->k + source, (size_t)p->row_bytes);
        memcpy(v + at * p->row_bytes, (const char *)in->v + source, (size_t)p->row_bytes);
    }
}

void cpu_pack(struct backend *be, const struct pack_args *args, const struct kv_block *block)
{
    struct cpu *c = cpu_of(be);
    struct packing p = { .c = c,
                         .args = args,
                         .block = block,
                         .row_bytes = args->rows->dim * cpu_kv_bytes(c),
                         .key_bytes = block->k_dim * cpu_kv_bytes(c) };
    uint64_t total = (uint64_t)args->first[args->rows->heads];
    uint64_t k_end = block->k_offset + total * (uint64_t)p.key_bytes,
             v_end = block->v_offset + total * (uint64_t)p.row_bytes;
    uint64_t v_limit = block->k_dim < block->dim ? block->extra_offset : block->bytes;
    char *data = block->data;

    assert(args->rows->dtype == be->kv && block->dim == args->rows->dim && block->codec == KV_PLAIN);
    assert(block->k_dim == block->dim || (args->channel && !args->rerotate));
    assert(k_end <= block->v_offset && v_end <= v_limit);
    pool_run(c->pool, (int64_t)(total + ROWS_PER_TASK - 1) / ROWS_PER_TASK, pack_task, &p);
    memset(data + k_end, 0, (size_t)(block->v_offset - k_end));
    memset(data + v_end, 0, (size_t)(v_limit - v_end));
    if (block->k_dim < block->dim)
        write_masks(&p);
}

uint64_t cpu_checksum(struct backend *be, enum lane lane, const void *device, uint64_t bytes)
{
    (void)be;
    (void)lane;
    return XXH3_64bits(device, bytes);
}
