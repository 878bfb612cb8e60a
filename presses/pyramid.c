/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pyramid - snapkv with more rows in the first layers and fewer in the last.
 *
 *      rows of layer l = round(hi - l (hi - lo) / (L - 1)), lo = n (1 - ratio) / beta, hi = 2 n (1 - ratio) - lo
 *
 * hi is cut to n - window (and lo raised by as much); where the steps do not lie within [window, n] every layer keeps
 * round(n (1 - ratio)). Rounding is half to even.
 *
 * Cai et al. 2024, arXiv:2406.02069, section 4.
 */
#include "common/base/bytes.h"
#include "presses/press.h"
#include "presses/window.h"

#include <math.h>
#include <string.h>

struct pyramid_options {
    double beta;
};

static const struct opt pyramid_table[] = {
    { .name = "beta",
      .type = OPT_FLOAT,
      .offset = offsetof(struct pyramid_options, beta),
      .min = 1,
      .max = 1e6,
      .fallback = "20",
      .help = "how much less than the mean the last layer has" },
};

static int64_t layer_rows(const struct press_keep *keep, double beta, double window, int32_t place, int32_t places,
                          int64_t rows)
{
    double n = (double)rows, mean = n * (1.0 - press_keep_ratio(keep, rows)), c = (window + mean) - window;
    double lo = c / beta, hi = c * 2 - lo, kept;

    if (hi >= n - window) {
        hi = n - window;
        lo = c * 2 - hi;
    }
    if (!(n >= hi && hi >= lo && lo >= window))
        kept = rint(mean);
    else
        kept = rint(hi - place * (places > 1 ? (hi - lo) / (places - 1) : 0.0));
    return kept < 1 ? 1 : kept > n ? rows : (int64_t)kept;
}

static enum status pyramid_follows(const struct press_stage *stage, const struct press_stage *score, struct err *err)
{
    (void)stage;
    if (strcmp(score->press->name, "snapkv") == 0)
        return ST_OK;
    return err_set(err, ST_EINVAL, "pyramid shares out the rows of snapkv; it cannot follow %s", score->press->name);
}

static enum status pyramid_budget(const struct press_stage *stage, struct press_round *round, struct err *err)
{
    const struct pyramid_options *o = stage->options;

    (void)err;
    for (int32_t g = 0; g < round->view.heads; g++)
        round->budget.keep[g] =
            layer_rows(&round->keep, o->beta, (double)round->tail, round->place, round->places, round->view.rows[g]);
    return ST_OK;
}

/* The window is not known here: the first layer never has more than 2 n (1 - ratio) rows. */
static int64_t pyramid_rows_max(const struct press_stage *stage, const struct press_keep *keep, int32_t place,
                                int32_t places, int64_t n)
{
    double most = 2.0 * (double)n * (1.0 - press_keep_ratio(keep, n)) + 1;

    (void)stage;
    (void)place;
    (void)places;
    return most < (double)n ? (int64_t)most : n;
}

const struct press press_pyramid = {
    .name = "pyramid",
    .kind = PRESS_REFINE,
    .summary = "gives the first layers more rows than the last",
    .source = "arXiv:2406.02069",
    .reference = "PyramidKVPress",
    .cost = "nothing",
    .differs = "Budgets per layer hold before rerotate and merge too; the reference forgets them there.",
    .options = pyramid_table,
    .option_count = ARRAY_LEN(pyramid_table),
    .options_bytes = sizeof(struct pyramid_options),
    .follows = pyramid_follows,
    .budget = pyramid_budget,
    .rows_max = pyramid_rows_max,
};
