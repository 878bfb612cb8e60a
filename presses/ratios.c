/* SPDX-License-Identifier: Apache-2.0 */
/* ratios - `ratios=0.1/0.5/...`: a ratio of its own for every pressed layer, in order of layers. */
#include "common/base/bytes.h"
#include "presses/press.h"

struct ratios_options {
    struct press_numbers ratios;
};

static const struct opt ratios_table[] = {
    { .name = "ratios",
      .type = OPT_LIST,
      .offset = offsetof(struct ratios_options, ratios),
      .min = 0,
      .max = 0x1.fffffffffffffp-1,
      .value = "a list of numbers from 0 to below 1 with / between them",
      .help = "one ratio per pressed layer" },
};

static void ratios_keep(const struct press_stage *stage, int32_t place, struct press_keep *out)
{
    const struct press_numbers *list = &((const struct ratios_options *)stage->options)->ratios;

    out->ratio = (size_t)place < list->count ? list->value[place] : 0.0;
}

static enum status ratios_admit(const struct press_stage *stage, const struct press_door *door, struct err *err)
{
    const struct press_numbers *list = &((const struct ratios_options *)stage->options)->ratios;

    if (list->count == (size_t)door->places)
        return ST_OK;
    return err_set(err, ST_EINVAL, "ratios lists %zu number%s; this model has %d pressed layers", list->count,
                   list->count == 1 ? "" : "s", door->places);
}

const struct press press_ratios = {
    .name = "ratios",
    .kind = PRESS_KEEP,
    .summary = "keeps by a ratio of its own for every layer",
    .source = "",
    .reference = "PerLayerCompressionPress",
    .cost = "T G (the selection)",
    .differs = "A ratio of 1, which empties a layer, is refused.",
    .options = ratios_table,
    .option_count = ARRAY_LEN(ratios_table),
    .options_bytes = sizeof(struct ratios_options),
    .has_value = true,
    .admit = ratios_admit,
    .keep = ratios_keep,
};
