/* SPDX-License-Identifier: Apache-2.0 */
/*
 * coded.c - rows of a block as attention takes them: some 64 rows of one head, read from their codes into the room.
 *
 *   plain       the block's own bytes                                          scores, weights as they are
 *   int8, fp8   codes ─▶ numbers in the room, rounding nothing                 scores times K scales, weights times V scales
 *   int4        codes and pairs ─▶ values in the room; whole rows are copied   scores, weights as they are
 *
 * Where channels were dropped, K rows are then spread over all channels, with zeros for the others. A block's rows are
 * never read as a whole: what stands in the room is at most one page, in the nearest cache.
 */
#include "kernels/cpu/coded.h"

#include <assert.h>
#include <string.h>

enum { CACHE_LINE_BYTES = 64 };

static int64_t row_bytes(const struct cpu *c, int32_t channels)
{
    return channels * cpu_kv_bytes(c);
}

/* K rows that hold some channels only, with zeros for the others. */
static const void *widen(const struct cpu *c, struct cpu_room *room, const struct slot_block *b, int32_t head,
                         const char *k, int32_t count)
{
    const int32_t dim = c->cache->config.dim;
    const uint8_t *mask = b->part[KV_PART_MASKS] + (int64_t)head * ((dim + 7) / 8);
    const int64_t bytes = cpu_kv_bytes(c);
    char *to = room->wide;

    memset(to, 0, (size_t)(count * row_bytes(c, dim)));
    for (int32_t r = 0; r < count; r++, to += row_bytes(c, dim))
        for (int32_t i = 0; i < dim; i++)
            if (mask[i / 8] >> i % 8 & 1) {
                memcpy(to + i * bytes, k, (size_t)bytes);
                k += bytes;
            }
    return room->wide;
}

/* Codes are asked for in one sweep before they are read: a loop that only loads keeps many cache misses going at once,
 * where reading waits for them a few at a time. */
static void bring(const void *rows, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += CACHE_LINE_BYTES)
        (void)*((const volatile char *)rows + i);
}

/* int8, fp8: rows from number `row` of all heads on. */
static void read_scaled(const struct cpu *c, struct cpu_room *room, const struct slot_block *b, int64_t row,
                        struct attend_rows *rows)
{
    const int32_t dim = c->cache->config.dim;
    const int64_t k_codes = (int64_t)rows->count * b->k_dim, v_codes = (int64_t)rows->count * dim;
    const uint8_t *k = b->part[KV_PART_K] + row * b->k_dim, *v = b->part[KV_PART_V] + row * dim;

    bring(k, k_codes);
    bring(v, v_codes);
    c->isa->codes->read_numbers(b->codec, k, k_codes, c->base.kv, room->k_read);
    c->isa->codes->read_numbers(b->codec, v, v_codes, c->base.kv, room->v_read);
    rows->k = room->k_read;
    rows->v = room->v_read;
    rows->k_scale = (const float *)(const void *)b->part[KV_PART_K_SCALE] + row;
    rows->v_scale = (const float *)(const void *)b->part[KV_PART_V_SCALE] + row;
}

/* int4: coded row number `row` of all heads. */
static void read_row(const struct cpu *c, const struct slot_block *b, int64_t row, void *k, void *v)
{
    const int32_t dim = c->cache->config.dim;
    const uint32_t *k_pair = (const uint32_t *)(const void *)b->part[KV_PART_K_SCALE] + row / KV_GROUP_ROWS * b->k_dim;
    const uint32_t *v_pair = (const uint32_t *)(const void *)b->part[KV_PART_V_SCALE] + row;

    c->isa->codes->read_int4(b->part[KV_PART_K] + row * ((b->k_dim + 1) / 2), b->k_dim, k_pair, true, c->base.kv, k);
    c->isa->codes->read_int4(b->part[KV_PART_V] + row * ((dim + 1) / 2), dim, v_pair, false, c->base.kv, v);
}

static void read_int4(const struct cpu *c, struct cpu_room *room, const struct slot_block *b, int32_t head, int64_t at,
                      struct attend_rows *rows)
{
    const int64_t k_bytes = row_bytes(c, b->k_dim), v_bytes = row_bytes(c, c->cache->config.dim);
    const int64_t coded = b->coded[head + 1] - b->coded[head], whole = b->first[head] - b->coded[head] - coded;
    char *k = room->k_read, *v = room->v_read;

    for (int64_t row = at; row < at + rows->count; row++, k += k_bytes, v += v_bytes) {
        if (row < coded) {
            read_row(c, b, b->coded[head] + row, k, v);
        } else {
            memcpy(k, b->part[KV_PART_K_WHOLE] + (whole + row) * k_bytes, (size_t)k_bytes);
            memcpy(v, b->part[KV_PART_V_WHOLE] + (whole + row) * v_bytes, (size_t)v_bytes);
        }
    }
    rows->k = room->k_read;
    rows->v = room->v_read;
}

static void take_plain(const struct cpu *c, const struct slot_block *b, int64_t row, struct attend_rows *rows)
{
    rows->k = b->part[KV_PART_K] + row * row_bytes(c, b->k_dim);
    rows->v = b->part[KV_PART_V] + row * row_bytes(c, c->cache->config.dim);
}

int32_t coded_rows_max(const struct slot_block *b)
{
    return b->codec == KV_PLAIN && !b->masked ? INT32_MAX : ATTEND_TOKENS;
}

/* hot */
void coded_rows(const struct cpu *c, struct cpu_room *room, const struct slot_block *b, int32_t head, int64_t at,
                struct attend_rows *rows)
{
    assert(rows->count <= coded_rows_max(b) && b->first[head] + at + rows->count <= b->first[head + 1]);
    if (b->codec == KV_PLAIN)
        take_plain(c, b, b->first[head] + at, rows);
    else if (b->codec == KV_INT4)
        read_int4(c, room, b, head, at, rows);
    else
        read_scaled(c, room, b, b->first[head] + at, rows);
    rows->near = b->codec != KV_PLAIN;
    if (b->masked)
        rows->k = widen(c, room, b, head, rows->k, rows->count);
}

/* [count][dim] numbers of the cache's dtype, each row times its scale. */
static void scale_rows(const struct cpu *c, struct cpu_room *room, const void *from, const float *scale, int32_t count,
                       int32_t dim, void *to)
{
    for (int32_t r = 0; r < count; r++) {
        const char *in = (const char *)from + r * row_bytes(c, dim);
        char *out = (char *)to + r * row_bytes(c, dim);

        if (c->base.kv == DT_BF16)
            c->loops->from_bf16((const uint16_t *)(const void *)in, dim, room->row);
        else
            memcpy(room->row, in, (size_t)dim * 4);
        c->loops->scale(room->row, scale[r], dim);
        if (c->base.kv == DT_BF16)
            c->loops->to_bf16(room->row, dim, (uint16_t *)(void *)out);
        else
            memcpy(out, room->row, (size_t)dim * 4);
    }
}

void coded_values(const struct cpu *c, struct cpu_room *room, const struct slot_block *b, int32_t head, int64_t at,
                  int32_t count, void *k, void *v)
{
    const int32_t dim = c->cache->config.dim;
    struct attend_rows rows = { .count = count };

    coded_rows(c, room, b, head, at, &rows);
    if (rows.k_scale) {
        scale_rows(c, room, rows.k, rows.k_scale, count, dim, k);
        scale_rows(c, room, rows.v, rows.v_scale, count, dim, v);
        return;
    }
    memcpy(k, rows.k, (size_t)(count * row_bytes(c, dim)));
    memcpy(v, rows.v, (size_t)(count * row_bytes(c, dim)));
}
