/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chunk - every chunk of the context is scored alone and keeps its own best rows.
 *
 *      | chunk 0 | chunk 1 | ... |      each: score, then max(1, trunc(len (1 - ratio))) rows
 *
 * A chunk's queries are its own last tokens, rotated as if they were the context's last (as the reference does it). After a
 * keep they are those of as many tokens of the whole context, also where the last chunk has fewer survivors.
 * From FINCH, Corallo and Papotti 2024, TACL 10.1162/tacl_a_00716.
 */
#include "common/base/bytes.h"
#include "presses/parts.h"

#include <string.h>

struct chunk_options {
    int64_t length;
};

static const struct opt chunk_table[] = {
    { .name = "length",
      .type = OPT_INT,
      .offset = offsetof(struct chunk_options, length),
      .min = 1,
      .max = INT32_MAX,
      .fallback = "1024",
      .help = "rows of a chunk" },
};

static void chunk_needs(const struct press_stage *stage, int64_t query_tokens, struct chain_needs *needs)
{
    (void)stage;
    (void)query_tokens;
    needs->q_plain = needs->q_plain || needs->q_rotated || needs->q_tail > 0; /* each chunk turns its own */
}

static enum status chunk_follows(const struct press_stage *stage, const struct press_stage *score, struct err *err)
{
    (void)stage;
    if (strcmp(score->press->name, "finch") != 0)
        return ST_OK;
    return err_set(err, ST_EINVAL, "chunk cannot follow finch, which has chunks of its own: finch:chunk=");
}

static enum status chunk_choose(const struct press_stage *stage, struct press_round *round, int32_t *index,
                                int64_t *first, struct err *err)
{
    int64_t length = ((const struct chunk_options *)stage->options)->length, n = round->view.rows[0];
    struct press_keep keep = round->keep;
    enum status st = ST_OK;

    round->keep.ratio = press_keep_ratio(&keep, n);
    round->keep.rows = 0;
    for (int64_t from = 0; from < n && st == ST_OK; from += length) {
        struct kv_rows part = parts_view(&round->view, from, length);

        round->part_begin = from;
        round->part_end = from + length < round->in->tokens ? from + length : round->in->tokens;
        st = press_rescore(round, stage, &part, round->score, err);
    }
    round->part_begin = 0;
    round->part_end = -1;
    return st == ST_OK ? parts_select(round, length, index, first, err) : st;
}

static int64_t chunk_rows_max(const struct press_stage *stage, const struct press_keep *keep, int32_t place,
                              int32_t places, int64_t n)
{
    (void)place;
    (void)places;
    return parts_rows(keep, ((const struct chunk_options *)stage->options)->length, n);
}

static enum status chunk_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    return press_admit_op(stage, door, door->ops->rotate_rows != NULL, "rotate_rows", err);
}

const struct press press_chunk = {
    .name = "chunk",
    .kind = PRESS_REFINE,
    .summary = "scores and keeps chunk by chunk",
    .source = "doi:10.1162/tacl_a_00716",
    .reference = "ChunkPress",
    .cost = "the score's, chunk by chunk",
    .differs = "",
    .options = chunk_table,
    .option_count = ARRAY_LEN(chunk_table),
    .options_bytes = sizeof(struct chunk_options),
    .even_only = true,
    .in_parts = true,
    .prefill_only = true,
    .follows = chunk_follows,
    .needs = chunk_needs,
    .admit = chunk_admit,
    .choose = chunk_choose,
    .rows_max = chunk_rows_max,
};
