/* SPDX-License-Identifier: Apache-2.0 */
/*
 * own_choice.c - level 2: a choice of rows of one's own. `ends:first=1,last=8` keeps the first row and the last eight of every
 * head, whatever they hold; no score, no keep.
 *
 * A choice fills two things: first[g] .. first[g + 1] says which entries of `index` are head g's, and `index` the rows
 * themselves, ascending. Rows are numbered as the round sees them (round->view); the chain knows which tokens they were.
 */
#include "presses/press.h"

struct ends_options {
    int64_t first, last;
};

static const struct opt ends_table[] = {
    { .name = "first",
      .type = OPT_INT,
      .offset = offsetof(struct ends_options, first),
      .min = 0,
      .max = 65536,
      .fallback = "1",
      .help = "rows at the beginning that stay" },
    { .name = "last",
      .type = OPT_INT,
      .offset = offsetof(struct ends_options, last),
      .min = 1,
      .max = 65536,
      .fallback = "8",
      .help = "rows at the end that stay" },
};

static enum status ends_choose(const struct press_stage *stage, struct press_round *round, int32_t *index,
                               int64_t *first, struct err *err)
{
    const struct ends_options *o = stage->options;
    const struct kv_rows *view = &round->view;
    int32_t *host = press_work_host(round, (uint64_t)view->at[view->heads] * sizeof *host);
    int64_t count = 0;

    (void)err;
    for (int32_t g = 0; g < view->heads; g++) {
        first[g] = count;
        for (int64_t r = 0; r < view->rows[g]; r++)
            if (r < o->first || r >= view->rows[g] - o->last)
                host[count++] = (int32_t)r;
    }
    first[view->heads] = count;
    press_index_put(round, index, host, count); /* index is device memory */
    return ST_OK;
}

/* For admission on the decode node: no head ever keeps more. */
static int64_t ends_rows_max(const struct press_stage *stage, const struct press_keep *keep, int32_t place,
                             int32_t places, int64_t n)
{
    const struct ends_options *o = stage->options;

    (void)keep;
    (void)place;
    (void)places;
    return o->first + o->last < n ? o->first + o->last : n;
}

const struct press press_ends = {
    .name = "ends",
    .kind = PRESS_CHOOSE,
    .summary = "keeps the first rows and the last ones",
    .source = "",
    .reference = "",
    .cost = "T G",
    .differs = "",
    .options = ends_table,
    .option_count = sizeof ends_table / sizeof ends_table[0],
    .options_bytes = sizeof(struct ends_options),
    .choose = ends_choose,
    .rows_max = ends_rows_max,
};

static const struct press *const presses[] = { &press_ends };

const struct press_plugin platen_press_plugin = {
    .abi = PRESS_ABI,
    .press_bytes = sizeof(struct press),
    .ops_bytes = sizeof(struct backend_ops),
    .count = 1,
    .presses = presses,
};
