/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wire_block.c - a planned block to its announcement, and an announcement back to a plan that was proven.
 */
#include "common/transport/wire_block.h"

#include "common/kv/codec.h"
#include "proto/platen/internal/v1/prefill.pb-c.h"

const struct rpc_chunk wire_chunk = {
    .head = &platen__internal__v1__chunk__descriptor,
    .bulk = 15,
    .outer = 15,
};

void wire_block_write(Platen__Internal__V1__Block *msg, uint32_t *rows, const struct kv_block *b, uint64_t checksum)
{
    for (int32_t g = 0; g < b->heads; g++)
        rows[g] = (uint32_t)(b->first[g + 1] - b->first[g]);
    platen__internal__v1__block__init(msg);
    msg->layer = b->layer;
    msg->codec = (uint32_t)b->codec;
    msg->dtype = (uint32_t)b->dtype;
    msg->dim = b->dim;
    msg->k_dim = b->k_dim;
    msg->rows = rows;
    msg->n_rows = (size_t)b->heads;
    msg->bytes = b->bytes;
    msg->checksum = checksum;
    msg->extra_bytes = b->extra_bytes;
    msg->scored = (uint32_t)b->scored;
}

enum status wire_block_read(struct kv_block *out, uint64_t *checksum, const Platen__Internal__V1__Block *msg,
                            const struct kv_shape *shape, enum kv_codec codec, int64_t rows_max, struct err *err)
{
    struct kv_block b = {
        .layer = msg->layer, .dim = msg->dim, .k_dim = msg->k_dim, .codec = codec, .scored = msg->scored
    };
    struct err why = { 0 };
    enum status st;

    if (msg->codec != (uint32_t)codec)
        return err_set(err, ST_EDATALOSS, "layer %d comes in codec %u, ordered was %s", msg->layer, msg->codec,
                       codec_word(codec));
    if (msg->dtype != (uint32_t)shape->dtype)
        return err_set(err, ST_EDATALOSS, "layer %d comes in dtype %u, the cache is %s", msg->layer, msg->dtype,
                       dtype_word(shape->dtype));
    if (msg->n_rows != (size_t)shape->heads)
        return err_set(err, ST_EDATALOSS, "layer %d comes with rows of %zu heads, the model has %d", msg->layer,
                       msg->n_rows, shape->heads);
    b.dtype = shape->dtype;
    st = kv_block_set_rows(&b, msg->rows, shape->heads, &why);
    if (st == ST_OK)
        st = kv_block_check(&b, shape, rows_max, &why);
    if (st == ST_OK)
        st = kv_block_plan(&b, &why);
    if (st != ST_OK)
        return err_set(err, ST_EDATALOSS, "%s", why.text);
    if (b.bytes != msg->bytes || b.extra_bytes != msg->extra_bytes)
        return err_set(err, ST_EDATALOSS,
                       "layer %d is announced with %llu bytes (%llu extra), its rows take %llu (%llu)", msg->layer,
                       (unsigned long long)msg->bytes, (unsigned long long)msg->extra_bytes,
                       (unsigned long long)b.bytes, (unsigned long long)b.extra_bytes);
    *checksum = msg->checksum;
    *out = b;
    return ST_OK;
}
