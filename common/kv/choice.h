/* SPDX-License-Identifier: Apache-2.0 */
/*
 * choice.h - which rows of a layer stay, as host lists. Ascending per head; no two heads need keep the same number.
 *
 * Zero-initialise a kv_choice; choice_fini gives its memory back and leaves it ready for use.
 */
#ifndef PLATEN_KV_CHOICE_H
#define PLATEN_KV_CHOICE_H

#include "common/base/status.h"
#include "common/kv/layout.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Room for `rows` rows over all heads; keeps what is there. */
void choice_reserve(struct kv_choice *c, int64_t rows);

/* Every head keeps tokens [begin, end): everything, or the window of a windowed layer. */
void choice_range(struct kv_choice *c, int32_t heads, int64_t begin, int64_t end);

/* ST_EINTERNAL, with head and row, unless every head's rows are ascending and in [0, tokens). A press that breaks this is
 * stopped here, before packing. */
enum status choice_check(const struct kv_choice *c, int32_t heads, int64_t tokens, struct err *err);

void choice_fini(struct kv_choice *c);

#ifdef __cplusplus
}
#endif
#endif
