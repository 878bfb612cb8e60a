/* SPDX-License-Identifier: Apache-2.0 */
/* old_plugin.c - a press plug-in that was built for another version of presses/press.h. */
#include "presses/press.h"

const struct press_plugin platen_press_plugin = {
    .abi = PRESS_ABI + 1,
    .press_bytes = sizeof(struct press),
    .ops_bytes = sizeof(struct backend_ops),
    .count = 0,
    .presses = NULL,
};
