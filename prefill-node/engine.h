/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine.h - the one thread that owns the back end: it asks whose turn it is, computes one layer, presses it, packs it.
 */
#ifndef PLATEN_PREFILL_ENGINE_H
#define PLATEN_PREFILL_ENGINE_H

#include "common/base/status.h"
#include "kernels/backend.h"
#include "kernels/weights.h"
#include "prefill-node/mover.h"
#include "prefill-node/scheduler.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct engine;
struct prefill;

/* What an engine works with; all borrowed until close. `broken` is told once, on the engine thread, when the back end has
 * failed for good. */
struct engine_config {
    struct backend *be;
    struct weights *weights;
    struct scheduler *scheduler;
    struct mover *mover;
    int64_t tokens_max;
    void (*broken)(void *ctx, const struct err *why);
    void *ctx;
};

/* Buffers, then the thread. From here on only the engine's thread touches the back end. ST_EEXHAUSTED. */
enum status engine_open(struct engine **out, const struct engine_config *config, struct err *err);

/* For what never changes of it: sizes (room.h). Any thread; lives with the engine. */
const struct prefill *engine_prefill(const struct engine *e);

/* Since when (clock_now_ns) the engine has been in its turn; 0: it waits for one. Atomic; lives as long as the engine. */
const int64_t *engine_turn(const struct engine *e);

/* The scheduler must be stopped; ends the thread and gives everything back. NULL is fine. */
void engine_close(struct engine *e);

#ifdef __cplusplus
}
#endif
#endif
