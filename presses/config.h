/* SPDX-License-Identifier: Apache-2.0 */
/* config.h - what an operator says of presses, the same on every node: plug-ins, and the files of [press-files]. */
#ifndef PLATEN_PRESSES_CONFIG_H
#define PLATEN_PRESSES_CONFIG_H

#include "common/base/opt.h"
#include "common/base/status.h"
#include "presses/files.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a file's [press-files] section names, as "NAME=PATH" in order. Lives in the arena; zero-initialise the list. */
struct press_section {
    struct opt_list list;
    struct arena *arena;
};

/* on_section of opt_parse_file; ctx is a struct press_section. ST_EINVAL for any other section. */
enum status press_section_add(void *ctx, const char *section, const char *key, const char *value, struct err *err);

/* The section's items, then those of `line`, as one list. */
struct opt_list press_section_join(const struct press_section *section, const struct opt_list *line);

/* Opens and reads the files named by "NAME=PATH" items for this model; one that no press can use is an error. The caller closes
 * *out. */
enum status press_config_open(struct press_files **out, const struct opt_list *items, const struct hparams *hp,
                              struct err *err);

#ifdef __cplusplus
}
#endif
#endif
