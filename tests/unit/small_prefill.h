/* SPDX-License-Identifier: Apache-2.0 */
/* small_prefill.h - a prefill node without its door: a small random model, scheduler, mover, engine. */
#ifndef PLATEN_TESTS_SMALL_PREFILL_H
#define PLATEN_TESTS_SMALL_PREFILL_H

#include "prefill-node/node.h"
#include "tests/unit/small_model.h"

enum { SMALL_LAYERS = 6, SMALL_TOKENS_MAX = SMALL_POSITIONS };

/* Windows: layers 1 and 3 see only so many rows; 0: none do. queue_tokens: as the option. */
void small_prefill_open(struct prefill_node *n, int32_t window, int64_t queue_tokens);

/* Everything must be idle within five seconds. */
void small_prefill_close(struct prefill_node *n);

/* Waits at most ms until no job is left and nothing is held; true when so. */
bool small_prefill_quiet(struct prefill_node *n, int64_t ms);

/* Waits at most ms until *value (atomic) is `want` or more; true when so. */
bool small_reaches(const int *value, int want, int64_t ms);

/* Token i of a context: any pattern will do. */
int32_t small_token(int64_t i);

#endif
