/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/small_prefill.h"

#include "common/base/clock.h"
#include "common/base/log.h"
#include "prefill-node/room.h"

#include <assert.h>
#include <string.h>
#include <time.h>

void small_prefill_open(struct prefill_node *n, int32_t window, int64_t queue_tokens)
{
    struct backend_config config = { .dtype = DT_F32, .threads = 2, .memory_fraction = 0.5 };
    struct scheduler_config queue = { .queue_tokens = queue_tokens, .queue_orders = 100 };
    const struct station_config place = { .device = -1 };
    struct engine_config engine = { .tokens_max = SMALL_TOKENS_MAX };
    struct hparams hp;
    enum status st;

    log_set_level(LOG_ERROR);
    memset(n, 0, sizeof *n);
    n->parts.name = "prefill:1";
    n->tokens_max = SMALL_TOKENS_MAX;
    n->parts.metrics = metrics_open(64);
    stats_open(&n->stats, n->parts.metrics);
    small_model(&hp, SMALL_LAYERS);
    hp.window[1] = hp.window[3] = window;
    config.rows_max = prefill_rows("cpu", SMALL_TOKENS_MAX);
    st = backend_open(&n->parts.be, "cpu", &config, NULL);
    assert(st == ST_OK);
    st = weights_open(&n->parts.weights, n->parts.be, &hp, NULL, NULL, 42, NULL);
    assert(st == ST_OK);
    n->parts.shape = (struct kv_shape){ hp.layers, hp.kv_heads, hp.head_dim, n->parts.be->kv, 0 };
    st = press_files_open(&n->parts.files, &n->parts.weights->hp, false, NULL);
    assert(st == ST_OK);
    st = stations_open(&n->parts.stations, "grpc,loopback", &place, NULL, NULL, NULL);
    assert(st == ST_OK);
    n->scheduler = scheduler_open(&queue);
    st = mover_open(&n->mover, n->scheduler, &n->stats, n->parts.be, NULL);
    assert(st == ST_OK);
    engine.be = n->parts.be;
    engine.weights = n->parts.weights;
    engine.scheduler = n->scheduler;
    engine.mover = n->mover;
    st = engine_open(&n->engine, &engine, NULL);
    assert(st == ST_OK);
    n->room = room_left(n->parts.be);
}

bool small_prefill_quiet(struct prefill_node *n, int64_t ms)
{
    const int64_t deadline = clock_in_ms(ms);
    const struct timespec nap = { 0, 500000 };
    struct scheduler_load load;

    do {
        scheduler_look(n->scheduler, &load);
        if (mover_jobs(n->mover) == 0 && load.queued == 0 && load.running == 0 && load.buffers == 0 &&
            __atomic_load_n(&n->transfers, __ATOMIC_RELAXED) == 0)
            return true;
        nanosleep(&nap, NULL);
    } while (clock_now_ns() < deadline);
    return false;
}

void small_prefill_close(struct prefill_node *n)
{
    const bool quiet = small_prefill_quiet(n, 5000);

    assert(quiet);
    scheduler_stop(n->scheduler);
    engine_close(n->engine);
    mover_close(n->mover);
    scheduler_close(n->scheduler);
    stations_close(n->parts.stations);
    press_files_close(n->parts.files);
    weights_close(n->parts.weights, n->parts.be);
    backend_close(n->parts.be);
    metrics_close(n->parts.metrics);
}

int32_t small_token(int64_t i)
{
    return (int32_t)((7 + i * 131 + i / 17) % SMALL_VOCAB);
}

bool small_reaches(const int *value, int want, int64_t ms)
{
    const int64_t deadline = clock_in_ms(ms);
    const struct timespec nap = { 0, 200000 };

    while (__atomic_load_n(value, __ATOMIC_ACQUIRE) < want && clock_now_ns() < deadline)
        nanosleep(&nap, NULL);
    return __atomic_load_n(value, __ATOMIC_ACQUIRE) >= want;
}
