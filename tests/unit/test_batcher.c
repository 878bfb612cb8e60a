/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_batcher.c - the engine of the decode node on a small random model, without any network: contexts here hold no rows,
 * so everything a question sees is its own tail.
 *
 * malloc and its kin are counted in this program, to hold the engine to its promise that a step allocates nothing.
 */
#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/base/text.h"
#include "tests/support/allocations.h"
#include "tests/support/cmocka_main.h"
#include "tests/unit/small_decode.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { PROMPT_MAX = 200, WINDOW = 40, TAILS = 64 * 256 };

struct world {
    struct small_decode d;
    struct context *context;
};

static struct context *empty_context(const struct small_decode *d)
{
    const struct hparams *hp = &d->weights->hp;
    struct context *c = context_open(NULL, hp->layers);

    for (int32_t l = 0; l < hp->layers; l++) {
        struct kv_block *b = &c->block[l];

        b->layer = l;
        b->heads = hp->kv_heads;
        b->dim = b->k_dim = hp->head_dim;
        b->dtype = DT_F32;
        b->data = c; /* no rows, so never read */
    }
    return c;
}

static int open_with(void **state, int32_t window)
{
    struct world *w = mem_zero(1, sizeof *w);

    small_decode_open(&w->d, window);
    w->context = empty_context(&w->d);
    small_decode_start(&w->d, 512, TAILS);
    *state = w;
    return 0;
}

static int open_world(void **state)
{
    return open_with(state, 0);
}

static int open_windowed(void **state)
{
    return open_with(state, WINDOW);
}

static int close_world(void **state)
{
    struct world *w = *state;

    small_decode_close(&w->d);
    context_unref(w->context);
    free(w);
    return 0;
}

/* A device that fails in a step: from then on its results are void, and ids[0] of what was chosen is POISON. */
enum { STEPS_THAT_WORK = 5, POISON = SMALL_VOCAB };

static const struct backend_ops *works;
static int32_t results; /* atomic */

static void result_of_failing(struct backend *be, int32_t behind, int32_t *ids)
{
    works->step_result(be, behind, ids);
    if (__atomic_add_fetch(&results, 1, __ATOMIC_RELAXED) > STEPS_THAT_WORK)
        ids[0] = POISON;
}

static enum status health_of_failing(struct backend *be, struct err *err)
{
    (void)be;
    return __atomic_load_n(&results, __ATOMIC_RELAXED) > STEPS_THAT_WORK
               ? err_set(err, ST_EINTERNAL, "fake: a step: did not end in time")
               : ST_OK;
}

static int open_with_results(void **state, void (*result)(struct backend *be, int32_t behind, int32_t *ids),
                             enum status (*health)(struct backend *be, struct err *err))
{
    static struct backend_ops ops;
    struct world *w = mem_zero(1, sizeof *w);

    small_decode_open(&w->d, 0);
    works = w->d.be->ops;
    ops = *works;
    ops.step_result = result;
    if (health)
        ops.health = health;
    results = 0;
    w->d.be->ops = &ops;
    w->context = empty_context(&w->d);
    small_decode_start(&w->d, 512, TAILS);
    *state = w;
    return 0;
}

static int open_failing(void **state)
{
    return open_with_results(state, result_of_failing, health_of_failing);
}

static struct sequence *ask(struct world *w, int seed, int32_t tokens, int32_t max_new)
{
    assert_int_equal(batcher_reserve(w->d.batcher, sequence_tail_rows(tokens, max_new), NULL), ST_OK);
    return small_ask(&w->d, w->context, seed, tokens, max_new);
}

static enum finish await(struct world *w, struct sequence *s)
{
    enum finish how = small_await(s);

    batcher_release(w->d.batcher, sequence_tail_rows(s->prompt_tokens, s->max_new));
    return how;
}

static void run_alone(struct world *w, int seed, int32_t tokens, int32_t max_new, int32_t *made)
{
    struct sequence *s = ask(w, seed, tokens, max_new);

    batcher_submit(w->d.batcher, s);
    assert_int_equal(await(w, s), FINISH_LENGTH);
    assert_int_equal(s->made_count, max_new);
    memcpy(made, s->made, (size_t)max_new * sizeof *made);
    small_drop(s);
}

static void a_device_that_fails_ends_every_answer_and_gives_no_token_more(void **state)
{
    struct world *w = *state;
    struct sequence *s[3];
    struct err err = { 0 };

    for (int i = 0; i < 2; i++)
        batcher_submit(w->d.batcher, s[i] = ask(w, i + 1, 5, 100));
    for (int i = 0; i < 2; i++)
        assert_int_equal(await(w, s[i]), FINISH_FAILED);
    assert_in_range(s[0]->made_count, 1, STEPS_THAT_WORK);
    for (int i = 0; i < s[0]->made_count; i++)
        assert_int_not_equal(s[0]->made[i], POISON);
    assert_int_equal(batcher_health(w->d.batcher, &err), ST_EINTERNAL);
    assert_string_equal(err.text, "fake: a step: did not end in time");
    batcher_submit(w->d.batcher, s[2] = ask(w, 3, 5, 100));
    assert_int_equal(await(w, s[2]), FINISH_FAILED);
    assert_int_equal(s[2]->made_count, 0);
    for (int i = 0; i < 3; i++)
        small_drop(s[i]);
}

/* A step that does not end until it is told to. */
static void result_of_slow(struct backend *be, int32_t behind, int32_t *ids)
{
    const struct timespec nap = { 0, 1000000 };

    while (__atomic_load_n(&results, __ATOMIC_ACQUIRE) == 0)
        nanosleep(&nap, NULL);
    works->step_result(be, behind, ids);
}

static bool turn_becomes(const struct world *w, bool wanted)
{
    const int64_t deadline = clock_in_ms(5000);
    const struct timespec nap = { 0, 1000000 };

    while ((__atomic_load_n(batcher_turn(w->d.batcher), __ATOMIC_RELAXED) != 0) != wanted) {
        if (clock_now_ns() > deadline)
            return false;
        nanosleep(&nap, NULL);
    }
    return true;
}

static int open_slow(void **state)
{
    return open_with_results(state, result_of_slow, NULL);
}

static void an_engine_says_since_when_it_has_been_in_its_turn(void **state)
{
    struct world *w = *state;
    int64_t begin = clock_now_ns(), turn;
    struct sequence *s;

    assert_true(turn_becomes(w, false)); /* nothing to do */
    batcher_submit(w->d.batcher, s = ask(w, 1, 5, 3));
    usleep(50000);
    assert_true(turn_becomes(w, true));
    turn = __atomic_load_n(batcher_turn(w->d.batcher), __ATOMIC_RELAXED);
    assert_true(turn >= begin && turn <= clock_now_ns());
    usleep(20000);
    assert_true(turn == __atomic_load_n(batcher_turn(w->d.batcher), __ATOMIC_RELAXED)); /* still that one */
    __atomic_store_n(&results, 1, __ATOMIC_RELEASE);
    assert_int_equal(await(w, s), FINISH_LENGTH);
    assert_true(turn_becomes(w, false));
    small_drop(s);
}

static void an_answer_does_not_depend_on_the_rest_of_the_batch(void **state)
{
    struct world *w = *state;
    struct sequence *s[20];
    int32_t alone[20];

    for (int i = 0; i < 20; i++) {
        s[i] = ask(w, i + 1, 5 + i * 9, 20);
        batcher_submit(w->d.batcher, s[i]);
    }
    for (int i = 0; i < 20; i++)
        assert_int_equal(await(w, s[i]), FINISH_LENGTH);
    for (int i = 0; i < 20; i += 3) {
        run_alone(w, i + 1, 5 + i * 9, 20, alone);
        assert_memory_equal(alone, s[i]->made, 20 * sizeof *alone);
    }
    for (int i = 0; i < 20; i++)
        small_drop(s[i]);
    assert_int_equal(batcher_sequences(w->d.batcher), 0);
    assert_int_equal(batcher_tail_tokens(w->d.batcher), 0);
}

static void a_question_fed_in_pieces_gets_the_same_answer(void **state)
{
    struct world *w = *state;
    int32_t whole[24], pieces[24];

    run_alone(w, 3, PROMPT_MAX, 24, whole);
    batcher_close(w->d.batcher);
    metrics_close(w->d.metrics);
    w->d.metrics = metrics_open(64);
    small_decode_start(&w->d, 13, TAILS);
    run_alone(w, 3, PROMPT_MAX, 24, pieces);
    assert_memory_equal(whole, pieces, sizeof whole);
}

static void a_cancelled_question_ends_and_gives_its_room_back(void **state)
{
    struct world *w = *state;
    bool cancelled = false;
    struct sequence *s = ask(w, 1, 10, 1000);

    s->cancelled = &cancelled;
    batcher_submit(w->d.batcher, s);
    while (__atomic_load_n(&s->made_count, __ATOMIC_ACQUIRE) == 0)
        usleep(200);
    __atomic_store_n(&cancelled, true, __ATOMIC_RELAXED);
    assert_int_equal(await(w, s), FINISH_CANCELLED);
    assert_int_equal(batcher_tail_tokens(w->d.batcher), 0);
    small_drop(s);
}

static void a_deadline_ends_an_answer(void **state)
{
    struct world *w = *state;
    struct sequence *s = ask(w, 1, 10, 1000);

    s->deadline_ns = clock_now_ns();
    batcher_submit(w->d.batcher, s);
    assert_int_equal(await(w, s), FINISH_DEADLINE);
    small_drop(s);
}

static void an_end_token_stops_also_when_it_comes_first(void **state)
{
    struct world *w = *state;
    int32_t first;
    struct sequence *s;

    run_alone(w, 5, 12, 1, &first);
    w->d.weights->hp.eos_count = 1;
    w->d.weights->hp.eos_id[0] = first;
    s = ask(w, 5, 12, 30);
    batcher_submit(w->d.batcher, s);
    assert_int_equal(await(w, s), FINISH_STOP);
    assert_int_equal(s->made_count, 1);
    assert_int_equal(s->made[0], first);
    small_drop(s);
}

static void more_than_promised_is_refused_at_the_door(void **state)
{
    struct world *w = *state;
    struct err err = { 0 };

    assert_int_equal(batcher_reserve(w->d.batcher, 1025, &err), ST_ERANGE);
    err_clear(&err);
    for (int i = 0; i < 16; i++)
        assert_int_equal(batcher_reserve(w->d.batcher, 1024, NULL), ST_OK);
    assert_int_equal(batcher_reserve(w->d.batcher, 1, &err), ST_EEXHAUSTED);
    assert_non_null(strstr(err.text, "tails"));
    for (int i = 0; i < 16; i++)
        batcher_release(w->d.batcher, 1024);
    assert_int_equal(batcher_sequences(w->d.batcher), 0);
}

static void a_hundred_steps_allocate_nothing(void **state)
{
    struct world *w = *state;
    struct sequence *s;
    int32_t before, after;

    if (!ALLOCATIONS_ARE_COUNTED)
        skip();
    s = ask(w, 2, 10, 400);
    batcher_submit(w->d.batcher, s);
    while (__atomic_load_n(&s->made_count, __ATOMIC_ACQUIRE) < 50)
        ;
    before = allocations_so_far();
    while (__atomic_load_n(&s->made_count, __ATOMIC_ACQUIRE) < 150)
        ;
    after = allocations_so_far();
    assert_true(before > 0); /* the counter counts */
    assert_int_equal(after, before);
    await(w, s);
    small_drop(s);
}

/* A gauge of the metrics page. */
static int gauge(struct world *w, const char *name)
{
    struct text page = { 0 };
    const char *at;
    int value = -1;

    metrics_print(w->d.metrics, &page);
    for (at = strstr(text_str(&page), name); at; at = strstr(at + 1, name))
        if (at > text_str(&page) && at[-1] == '\n')
            value = atoi(at + strlen(name) + 1);
    text_fini(&page);
    return value;
}

/* Runs an answer of 700 tokens; returns the most pages that its windowed layer held. */
static int ring_of_long_answer(struct world *w, int32_t *made)
{
    struct sequence *s = ask(w, 7, 150, 700);
    int most = 0, full = 0;

    batcher_submit(w->d.batcher, s);
    while (__atomic_load_n(&s->finish, __ATOMIC_ACQUIRE) == FINISH_NONE) {
        bool late = __atomic_load_n(&s->made_count, __ATOMIC_ACQUIRE) > 660;
        int ring = gauge(w, "platen_decode_ring_pages"), all = gauge(w, "platen_decode_tail_pages");
        most = ring > most ? ring : most;
        full = late ? all : full;
        usleep(1000);
    }
    assert_int_equal(await(w, s), FINISH_LENGTH);
    assert_true(full == 0 || full > most); /* 0: looked at too seldom, or after the end */
    memcpy(made, s->made, 700 * sizeof *made);
    small_drop(s);
    return most;
}

static void a_long_answer_holds_the_window_and_says_the_same(void **state)
{
    struct world *w = *state;
    static int32_t wide[700], narrow[700];

    assert_true(ring_of_long_answer(w, wide) <= (WINDOW + 512 + 61) / 64 + 1); /* steps of 512 rows */
    batcher_close(w->d.batcher);
    metrics_close(w->d.metrics);
    w->d.metrics = metrics_open(64);
    small_decode_start(&w->d, 8, TAILS);
    assert_true(ring_of_long_answer(w, narrow) <= (WINDOW + 8 + 61) / 64 + 1); /* two pages of 64 for 849 rows */
    assert_memory_equal(wide, narrow, sizeof wide);
    assert_int_equal(gauge(w, "platen_decode_ring_pages"), 0);
}

static void closing_ends_what_runs(void **state)
{
    struct world *w = *state;
    struct sequence *s = ask(w, 2, 10, 1000);

    batcher_submit(w->d.batcher, s);
    batcher_close(w->d.batcher);
    w->d.batcher = NULL;
    assert_int_equal(s->finish, FINISH_CANCELLED);
    small_drop(s);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown(an_answer_does_not_depend_on_the_rest_of_the_batch, open_world, close_world),
    cmocka_unit_test_setup_teardown(a_question_fed_in_pieces_gets_the_same_answer, open_world, close_world),
    cmocka_unit_test_setup_teardown(a_cancelled_question_ends_and_gives_its_room_back, open_world, close_world),
    cmocka_unit_test_setup_teardown(a_deadline_ends_an_answer, open_world, close_world),
    cmocka_unit_test_setup_teardown(an_end_token_stops_also_when_it_comes_first, open_world, close_world),
    cmocka_unit_test_setup_teardown(more_than_promised_is_refused_at_the_door, open_world, close_world),
    cmocka_unit_test_setup_teardown(a_hundred_steps_allocate_nothing, open_world, close_world),
    cmocka_unit_test_setup_teardown(a_long_answer_holds_the_window_and_says_the_same, open_windowed, close_world),
    cmocka_unit_test_setup_teardown(a_device_that_fails_ends_every_answer_and_gives_no_token_more, open_failing,
                                    close_world),
    cmocka_unit_test_setup_teardown(an_engine_says_since_when_it_has_been_in_its_turn, open_slow, close_world),
    cmocka_unit_test_setup_teardown(closing_ends_what_runs, open_world, close_world),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
