/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/small_decode.h"

#include "common/base/arena.h"
#include "common/base/clock.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROPE_PAIRS = 8 };

void small_decode_open(struct small_decode *d, int32_t window)
{
    const struct backend_config config = { .dtype = DT_F32, .threads = 2, .rows_max = 512 };
    float inv_freq[ROPE_PAIRS];
    const struct rope_tables tables = {
        .full = { .inv_freq = inv_freq, .dims = 2 * ROPE_PAIRS, .tables = 1, .scale = 1 },
        .local = { .inv_freq = inv_freq, .dims = 2 * ROPE_PAIRS, .tables = 1, .scale = 1 },
    };
    struct hparams hp;
    enum status st;

    memset(d, 0, sizeof *d);
    small_model(&hp, SMALL_LAYERS);
    hp.window[SMALL_WINDOWED] = window;
    for (int i = 0; i < ROPE_PAIRS; i++)
        inv_freq[i] = powf(10000.0f, -(float)i / ROPE_PAIRS);
    st = backend_open(&d->be, "cpu", &config, NULL);
    assert(st == ST_OK);
    st = weights_open(&d->weights, d->be, &hp, NULL, NULL, 42, NULL);
    assert(st == ST_OK);
    st = weights_rope(d->weights, d->be, &tables, NULL);
    assert(st == ST_OK);
    sem_init(&d->wake, 0, 0);
    d->metrics = metrics_open(64);
}

void small_decode_start(struct small_decode *d, int32_t rows_max, int32_t tail_tokens)
{
    const struct batcher_config config = { .be = d->be,
                                           .weights = d->weights,
                                           .slots = SMALL_SLOTS,
                                           .sequences_max = 32,
                                           .tail_tokens = tail_tokens,
                                           .tail_tokens_max = 1024,
                                           .rows_max = rows_max,
                                           .wake = &d->wake,
                                           .metrics = d->metrics };
    enum status st = batcher_open(&d->batcher, &config, NULL);

    assert(st == ST_OK);
}

void small_decode_close(struct small_decode *d)
{
    batcher_close(d->batcher);
    metrics_close(d->metrics);
    weights_close(d->weights, d->be);
    backend_close(d->be);
    sem_destroy(&d->wake);
}

struct sequence *small_ask(struct small_decode *d, struct context *c, int seed, int32_t tokens, int32_t max_new)
{
    struct sequence *s = mem_zero(1, sizeof *s);
    int32_t *prompt = mem_zero((size_t)tokens, sizeof *prompt);

    for (int32_t i = 0; i < tokens; i++)
        prompt[i] = (seed * 31 + i * 7 + i * i * seed) % SMALL_VOCAB;
    s->context = c;
    s->prompt = prompt;
    s->prompt_tokens = tokens;
    s->max_new = max_new;
    s->cancelled = &d->cancelled;
    s->deadline_ns = INT64_MAX;
    s->made = mem_zero((size_t)max_new, sizeof *s->made);
    return s;
}

enum finish small_await(struct sequence *s)
{
    const int64_t until = clock_in_ms(60000);

    while (__atomic_load_n(&s->finish, __ATOMIC_ACQUIRE) == FINISH_NONE) {
        assert(clock_now_ns() < until);
        usleep(500);
    }
    return (enum finish)s->finish;
}

void small_drop(struct sequence *s)
{
    free((void *)s->prompt);
    free(s->made);
    free(s);
}
