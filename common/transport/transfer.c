/* SPDX-License-Identifier: Apache-2.0 */
/* transfer.c - one block of noise, sent again and again under ascending layer numbers. */
#include "common/transport/transfer.h"

#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "common/kv/wire.h"

#include <stdlib.h>

struct transfer {
    struct kv_block block;
    uint64_t checksum;
    int32_t blocks;
};

/* xorshift64*: fast, and nothing a wire could compress. */
static void fill(uint8_t *to, uint64_t bytes)
{
    uint64_t x = 0x9e3779b97f4a7c15u;

    for (uint64_t i = 0; i + 8 <= bytes; i += 8) {
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        store_u64(to + i, x * 0x2545f4914f6cdd1du);
    }
}

enum status transfer_open(struct transfer **out, const struct kv_shape *shape, uint64_t bytes, struct err *err)
{
    const uint64_t per_row = 2 * kv_row_bytes(KV_PLAIN, shape->dtype, shape->dim) * (uint64_t)shape->heads;
    uint64_t wanted = bytes < TRANSFER_BLOCK_BYTES ? bytes : TRANSFER_BLOCK_BYTES;
    uint32_t rows[KV_HEADS_MAX];
    struct transfer *t;
    enum status st;

    if (bytes < 1 || bytes > TRANSFER_BYTES_MAX)
        return err_set(err, ST_ERANGE, "a transfer of %llu bytes; 1 to %llu are possible", (unsigned long long)bytes,
                       (unsigned long long)TRANSFER_BYTES_MAX);
    t = mem_zero(1, sizeof *t);
    t->block = (struct kv_block){ .dim = shape->dim, .k_dim = shape->dim, .dtype = shape->dtype };
    for (int32_t g = 0; g < shape->heads && g < KV_HEADS_MAX; g++)
        rows[g] = (uint32_t)((wanted + per_row - 1) / per_row);
    st = kv_block_set_rows(&t->block, rows, shape->heads, err);
    if (st == ST_OK)
        st = kv_block_plan(&t->block, err);
    if (st != ST_OK) {
        transfer_close(t);
        return st;
    }
    t->block.data = mem_aligned(t->block.bytes);
    fill(t->block.data, t->block.bytes);
    t->checksum = wire_checksum(t->block.data, t->block.bytes);
    t->blocks = (int32_t)((bytes + t->block.bytes - 1) / t->block.bytes);
    *out = t;
    return ST_OK;
}

void transfer_close(struct transfer *t)
{
    if (!t)
        return;
    free(t->block.data);
    free(t);
}

int32_t transfer_blocks(const struct transfer *t)
{
    return t->blocks;
}

int64_t transfer_rows(const struct transfer *t)
{
    return t->block.first[1];
}

const struct kv_block *transfer_block(struct transfer *t, int32_t layer, uint64_t *checksum)
{
    t->block.layer = layer;
    *checksum = t->checksum;
    return &t->block;
}
