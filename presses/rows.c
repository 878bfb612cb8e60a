/* SPDX-License-Identifier: Apache-2.0 */
/* rows - `rows=512`: min(512, T) rows per head stay, or that many times G in sum where heads compete. */
#include "common/base/bytes.h"
#include "presses/press.h"

struct rows_options {
    int64_t rows;
};

static const struct opt rows_table[] = {
    { .name = "rows",
      .type = OPT_INT,
      .offset = offsetof(struct rows_options, rows),
      .min = 1,
      .max = INT32_MAX,
      .help = "rows per head that stay" },
};

static void rows_keep(const struct press_stage *stage, int32_t place, struct press_keep *out)
{
    (void)place;
    out->rows = ((const struct rows_options *)stage->options)->rows;
}

const struct press press_rows = {
    .name = "rows",
    .kind = PRESS_KEEP,
    .summary = "keeps this many rows per head, all of them where there are fewer",
    .source = "",
    .reference = "compression_ratio, chosen so that it gives this many",
    .cost = "T G (the selection)",
    .differs = "",
    .options = rows_table,
    .option_count = ARRAY_LEN(rows_table),
    .options_bytes = sizeof(struct rows_options),
    .has_value = true,
    .keep = rows_keep,
};
