/* SPDX-License-Identifier: Apache-2.0 */
/*
 * block.c - where the parts of a packed layer stand, and whether a header from outside may be believed.
 *
 *      k_offset = 0                     v_offset                    extra_offset                        bytes
 *      | K rows of head 0, 1, ... |pad| V rows of head 0, ... |pad| scales |pad| whole rows |pad| masks |pad| verdicts |pad|
 *
 * Every part (layout.h) begins on a 64-byte boundary and the whole is a multiple of 64 bytes. All sums are checked for overflow: a
 * header is arithmetic on numbers that a stranger chose.
 */
#include "common/kv/block.h"

#include "common/base/bytes.h"

enum status kv_block_set_rows(struct kv_block *b, const uint32_t *rows, int32_t heads, struct err *err)
{
    if (heads < 1 || heads > KV_HEADS_MAX)
        return err_set(err, ST_EINVAL, "rows for %d heads; 1 to %d are possible", heads, KV_HEADS_MAX);
    b->heads = heads;
    b->first[0] = 0;
    for (int32_t g = 0; g < heads; g++)
        b->first[g + 1] = b->first[g] + (int64_t)rows[g]; /* at most 256 * 2^32: fits */
    return ST_OK;
}

static enum status kv_block_sane(const struct kv_block *b, struct err *err)
{
    if (b->dim < 1 || b->dim > KV_HEAD_DIM_MAX)
        return err_set(err, ST_EINVAL, "head size %d; 1 to %d are possible", b->dim, KV_HEAD_DIM_MAX);
    if (b->k_dim < 1 || b->k_dim > b->dim)
        return err_set(err, ST_EINVAL, "%d channels in K rows of head size %d", b->k_dim, b->dim);
    if (b->dtype != DT_F32 && b->dtype != DT_BF16)
        return err_set(err, ST_EINVAL, "dtype number %d; rows are f32 or bf16", (int)b->dtype);
    if (b->heads < 1 || b->heads > KV_HEADS_MAX)
        return err_set(err, ST_EINVAL, "%d heads; 1 to %d are possible", b->heads, KV_HEADS_MAX);
    if ((uint32_t)b->codec >= KV_CODECS)
        return err_set(err, ST_EINVAL, "codec number %d; 0 to %d are known", (int)b->codec, KV_CODECS - 1);
    if (b->scored < 0)
        return err_set(err, ST_EINVAL, "verdicts on %lld rows", (long long)b->scored);
    return ST_OK;
}

/* Adds a part of rows * row_bytes bytes at *at, rounded up. */
static bool part_add(uint64_t *at, uint64_t rows, uint64_t row_bytes)
{
    uint64_t part, end;

    if (!size_mul(rows, row_bytes, &part) || !size_add(*at, part, &end) || end > INT64_MAX)
        return false;
    *at = kv_align(end);
    return true;
}

enum status kv_block_plan(struct kv_block *b, struct err *err)
{
    uint64_t at = 0, offset[KV_PARTS];
    const int last = b->scored > 0 ? KV_PART_VERDICTS : KV_PART_MASKS;
    int64_t coded;
    enum status st = kv_block_sane(b, err);

    if (st != ST_OK)
        return st;
    coded = kv_coded_first(b, b->heads);
    for (int p = 0; p < KV_PARTS; p++) {
        offset[p] = at;
        if (!part_add(&at, kv_part_items(b, p, coded), kv_part_item_bytes(b, p)))
            return err_set(err, ST_ERANGE, "%lld rows do not fit", (long long)kv_block_rows(b));
    }
    b->k_offset = offset[KV_PART_K];
    b->v_offset = offset[KV_PART_V];
    b->extra_offset = offset[KV_PART_K_SCALE];
    b->extra_bytes = offset[last] - b->extra_offset + kv_part_items(b, last, coded) * kv_part_item_bytes(b, last);
    b->bytes = at;
    return ST_OK;
}

enum status kv_block_check(const struct kv_block *b, const struct kv_shape *shape, int64_t rows_max, struct err *err)
{
    if (b->layer < 0 || b->layer >= shape->layers)
        return err_set(err, ST_EDATALOSS, "layer %d of a model with %d", b->layer, shape->layers);
    if (b->heads != shape->heads)
        return err_set(err, ST_EDATALOSS, "layer %d has %d heads, the model %d", b->layer, b->heads, shape->heads);
    if (b->dim != shape->dim)
        return err_set(err, ST_EDATALOSS, "layer %d has head size %d, the model %d", b->layer, b->dim, shape->dim);
    if (b->dtype != shape->dtype)
        return err_set(err, ST_EDATALOSS, "layer %d has rows of %s, the model %s", b->layer, dtype_word(b->dtype),
                       dtype_word(shape->dtype));
    if (b->scored != 0 && b->scored != shape->scored)
        return err_set(err, ST_EDATALOSS, "layer %d has verdicts on %lld rows, the press wants those on %lld", b->layer,
                       (long long)b->scored, (long long)shape->scored);
    for (int32_t g = 0; g < b->heads; g++) {
        if (b->first[g + 1] - b->first[g] > rows_max)
            return err_set(err, ST_EDATALOSS, "layer %d, head %d has %lld rows of %lld tokens", b->layer, g,
                           (long long)(b->first[g + 1] - b->first[g]), (long long)rows_max);
    }
    return ST_OK;
}

uint64_t kv_block_row_bytes(const struct kv_block *b)
{
    struct kv_parts parts;
    uint64_t bytes = 0;

    kv_block_parts(b, &parts);
    for (int p = 0; p < KV_PART_MASKS; p++)
        bytes += parts.bytes[p];
    return bytes;
}

/* Planned as one head that has all rows; then what other spreads and dropped channels can add to that. */
uint64_t kv_block_bytes_most(const struct kv_shape *shape, enum kv_codec codec, int64_t rows)
{
    struct kv_block b = { .heads = 1, .dim = shape->dim, .k_dim = shape->dim, .dtype = shape->dtype };
    uint64_t more = (uint64_t)shape->heads * (((uint64_t)shape->dim + 7) / 8) + 64 * KV_PARTS;
    const int64_t scored = shape->scored < rows ? shape->scored : rows; /* of each head */

    b.codec = codec;
    b.first[1] = rows;
    if (rows < 0 || rows > (int64_t)UINT32_MAX * KV_HEADS_MAX || shape->heads < 1 || shape->heads > KV_HEADS_MAX ||
        kv_block_plan(&b, NULL) != ST_OK)
        return 0;
    if (codec == KV_INT4) {
        int64_t whole = shape->heads * (int64_t)(2 * KV_GROUP_ROWS - 1); /* at most so many rows are not coded */

        more += (uint64_t)(whole < rows ? whole : rows) * 2 * kv_row_bytes(KV_PLAIN, shape->dtype, shape->dim);
    }
    return b.bytes + more +
           (uint64_t)((scored <= rows / shape->heads ? scored * shape->heads : rows) / 8 + shape->heads);
}

uint64_t kv_block_bytes_max(const struct kv_shape *shape, enum kv_codec codec, int64_t rows)
{
    if (rows < 0 || rows > UINT32_MAX || shape->heads < 1 || shape->heads > KV_HEADS_MAX)
        return 0;
    return kv_block_bytes_most(shape, codec, rows * shape->heads);
}
