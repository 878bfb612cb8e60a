/* SPDX-License-Identifier: Apache-2.0 */
/* none - keeps every row; the same as an empty text. It stands alone: plan.c takes it out of the chain. */
#include "presses/press.h"

const struct press press_none = {
    .name = "none",
    .kind = PRESS_CHOOSE,
    .summary = "keeps every row",
    .source = "",
    .reference = "no press",
    .cost = "nothing",
    .differs = "",
};
