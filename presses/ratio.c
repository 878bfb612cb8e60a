/* SPDX-License-Identifier: Apache-2.0 */
/* ratio - `ratio=0.5`: the fraction of rows that goes, in [0, 1). The same for every layer and head; where heads compete
 * (adakv and others) it counts over all heads together. */
#include "common/base/bytes.h"
#include "presses/press.h"

struct ratio_options {
    double ratio;
};

static const struct opt ratio_table[] = {
    { .name = "ratio",
      .type = OPT_FLOAT,
      .offset = offsetof(struct ratio_options, ratio),
      .min = 0,
      .max = 0x1.fffffffffffffp-1,
      .value = "a number from 0 to below 1",
      .help = "fraction of the rows that goes" },
};

static void ratio_keep(const struct press_stage *stage, int32_t place, struct press_keep *out)
{
    (void)place;
    out->ratio = ((const struct ratio_options *)stage->options)->ratio;
}

const struct press press_ratio = {
    .name = "ratio",
    .kind = PRESS_KEEP,
    .summary = "keeps trunc(T * (1 - ratio)) rows per head, at least one",
    .source = "",
    .reference = "compression_ratio",
    .cost = "T G (the selection)",
    .differs = "Equal scores: the smaller position wins; the reference leaves them to chance.",
    .options = ratio_table,
    .option_count = ARRAY_LEN(ratio_table),
    .options_bytes = sizeof(struct ratio_options),
    .has_value = true,
    .keep = ratio_keep,
};
