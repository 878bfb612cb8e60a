/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_families.c - both nodes' forward passes on a tiny checkpoint of every family, against transformers in f32.
 *
 * The context has 300 tokens: past the original length where rotation is scaled, past the window where there is one.
 * Contexts become blocks through the prefill node's own press and pack, questions are answered by the decode node's own
 * batcher. Where frequencies change with the length, a context computed at once and one fed token by token differ, in
 * transformers as here: `stepped` has the latter's logits.
 */
#include "common/base/clock.h"
#include "decode-node/batcher.h"
#include "decode-node/forward.h"
#include "decode-node/tails.h"
#include "tests/golden/family.h"
#include "tests/support/cmocka_main.h"

#include <stdlib.h>
#include <unistd.h>

enum { GREEDY = 16, LOGITS = 5, VOCAB_MAX = 256 };

/* Runs `check` on every family. */
static void each(void (*check)(struct family_model *m))
{
    for (int i = 0; i < FAMILY_COUNT; i++) {
        struct family_model m;

        family_model_open(&m, family_names[i]);
        check(&m);
        family_model_close(&m);
    }
}

static void check_prefill(struct family_model *m)
{
    float logits[VOCAB_MAX];
    int seen = 0;

    family_prefill(m, FAMILY_TOKENS, NULL);
    for (int64_t t = 0; t < FAMILY_TOKENS; t++) {
        family_logits(m, t, logits);
        seen += family_assert_logits(m, "logits", t, logits);
    }
    assert_int_equal(seen, LOGITS);
}

/* Runs `check` on every family in f32; near ties part in bf16. */
static void each_in_f32(void (*check)(struct family_model *m))
{
    if (family_is_bf16())
        skip();
    each(check);
}

static void prefill_equals_transformers(void **state)
{
    (void)state;
    each(check_prefill);
}

/* ---- greedy, through blocks and the batcher --------------------------------------------------------------------- */

static int32_t largest(const float *logits, int32_t vocab)
{
    int32_t best = 0;

    for (int32_t v = 1; v < vocab; v++)
        if (logits[v] > logits[best])
            best = v;
    return best;
}

static void await(struct sequence *s)
{
    const int64_t until = clock_in_ms(30000);

    while (__atomic_load_n(&s->finish, __ATOMIC_ACQUIRE) == FINISH_NONE) {
        assert_true(clock_now_ns() < until);
        usleep(500);
    }
    assert_int_equal(s->finish, FINISH_LENGTH);
}

/* The answer to `prompt` asked of a context. */
static void ask(struct family_model *m, struct context *c, const int32_t *prompt, int32_t tokens, int32_t *made,
                int32_t count)
{
    sem_t wake;
    bool never = false;
    struct metrics *metrics = metrics_open(64);
    struct batcher_config config = { .be = m->be,
                                     .weights = m->weights,
                                     .slots = 2,
                                     .sequences_max = 2,
                                     .tail_tokens = 2 * FAMILY_TOKENS_MAX,
                                     .tail_tokens_max = FAMILY_TOKENS_MAX,
                                     .rows_max = 64,
                                     .wake = &wake,
                                     .metrics = metrics };
    struct sequence s = { .context = c,
                          .prompt = prompt,
                          .prompt_tokens = tokens,
                          .max_new = count,
                          .cancelled = &never,
                          .deadline_ns = INT64_MAX,
                          .made = made };
    struct batcher *b;

    sem_init(&wake, 0, 0);
    assert_int_equal(batcher_open(&b, &config, NULL), ST_OK);
    assert_int_equal(batcher_reserve(b, sequence_tail_rows(tokens, count), NULL), ST_OK);
    batcher_submit(b, &s);
    await(&s);
    batcher_close(b);
    metrics_close(metrics);
    sem_destroy(&wake);
}

static void assert_greedy(const struct family_model *m, const int32_t *made, size_t from)
{
    const json_t *greedy = json_object_get(m->expected, "greedy");

    assert_int_equal(json_array_size(greedy), GREEDY);
    for (size_t i = from; i < GREEDY; i++)
        if (made[i - from] != json_integer_value(json_array_get(greedy, i)))
            fail_msg("%s: token %zu is %d, expected %d", m->name, i, made[i - from],
                     (int)json_integer_value(json_array_get(greedy, i)));
}

static void check_greedy(struct family_model *m)
{
    struct context *c = family_context_open(m);
    int32_t made[GREEDY];
    float logits[VOCAB_MAX];

    family_prefill(m, FAMILY_TOKENS, c);
    family_logits(m, FAMILY_TOKENS - 1, logits);
    made[0] = largest(logits, m->weights->hp.vocab);
    ask(m, c, made, 1, made + 1, GREEDY - 1);
    assert_greedy(m, made, 0);
    family_context_close(m, c);
}

static void greedy_tokens_equal_transformers(void **state)
{
    (void)state;
    each_in_f32(check_greedy);
}

/* Most of the text is a question here, fed in pieces of 64 rows. Rows before a varying rotation's original length turn
 * otherwise then than in one prefill, so such families are left to the test of steps. */
static void check_question(struct family_model *m)
{
    struct context *c = family_context_open(m);
    int32_t made[GREEDY];

    family_prefill(m, 90, c);
    ask(m, c, m->token + 90, FAMILY_TOKENS - 90, made, GREEDY);
    if (!json_object_get(m->expected, "stepped"))
        assert_greedy(m, made, 0);
    family_context_close(m, c);
}

static void a_long_question_gets_the_same_tokens(void **state)
{
    (void)state;
    each_in_f32(check_question);
}

static void check_windows(struct family_model *m)
{
    const struct hparams *hp = &m->weights->hp;
    struct context *c = family_context_open(m);

    family_prefill(m, FAMILY_TOKENS, c);
    for (int32_t l = 0; l < hp->layers; l++)
        assert_int_equal(kv_block_rows(&c->block[l]), hp->kv_heads * (hp->window[l] ? hp->window[l] : FAMILY_TOKENS));
    family_context_close(m, c);
}

static void windowed_layers_hold_their_window_only(void **state)
{
    (void)state;
    each(check_windows);
}

static int32_t largest_window(const struct hparams *hp)
{
    int32_t most = 0;

    for (int32_t l = 0; l < hp->layers; l++)
        most = hp->window[l] > most ? hp->window[l] : most;
    return most;
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

/* Feeds tokens [c's, 300) in steps of `rows` rows; compares the logits of each step's last row. Layers with a window write
 * over the pages of rows that are no longer seen: few pages are ever held, and the logits do not notice. */
static int feed(struct family_model *m, const struct context *c, int32_t from, int32_t rows)
{
    const struct hparams *hp = &m->weights->hp;
    struct cache_config cache = { .slots = 1,
                                  .rows_max = rows,
                                  .layers = hp->layers,
                                  .q_heads = hp->q_heads,
                                  .kv_heads = hp->kv_heads,
                                  .dim = hp->head_dim };
    const char *key = json_object_get(m->expected, "stepped") ? "stepped" : "logits";
    int32_t position[FAMILY_TOKENS];
    float logits[VOCAB_MAX];
    struct metrics *metrics = metrics_open(2);
    struct tails tails;
    struct forward f;
    int32_t held = 0;
    int seen = 0;

    for (int32_t i = 0; i < FAMILY_TOKENS; i++)
        position[i] = i;
    tails_open(&tails, m->be, hp, 1, FAMILY_TOKENS_MAX, FAMILY_TOKENS_MAX, rows, metrics);
    tails_describe(&tails, &cache);
    assert_int_equal(m->be->ops->cache_open(m->be, &cache, NULL), ST_OK);
    assert_int_equal(forward_open(&f, m->be, m->weights, rows, 1, NULL), ST_OK);
    m->be->ops->slot_blocks(m->be, 0, c->block);
    for (int32_t at = from; at < FAMILY_TOKENS; at += rows) {
        const int32_t count = FAMILY_TOKENS - at < rows ? FAMILY_TOKENS - at : rows, output = count - 1;
        const struct step_seq seq = { .rows = count, .tail = at - from };
        const struct step step = {
            .rows = count, .seqs = 1, .seq = &seq, .token = m->token + at, .position = position + at, .output = &output
        };
        int32_t chosen;

        tails_grow(&tails, 0, &held, tail_pages_of(seq.tail + count));
        forward_step(&f, &step);
        m->be->ops->step_result(m->be, 0, &chosen);
        family_numbers(m, f.logits, (uint64_t)hp->vocab, logits);
        assert_int_equal(chosen, largest(logits, hp->vocab));
        seen += family_assert_logits(m, key, at + output, logits);
    }
    assert_true(metric_value(tails.ring.gauge) <= (largest_window(hp) + rows + 61) / 64 + 1);
    forward_close(&f);
    m->be->ops->cache_close(m->be);
    tails_close(&tails);
    metrics_close(metrics);
    return seen;
}

static void check_steps(struct family_model *m)
{
    struct context *c = family_context_open(m);

    assert_int_equal(feed(m, c, 0, 1), LOGITS);
    assert_int_equal(feed(m, c, 0, 64), 3); /* positions 127, 255, 299 */
    family_context_close(m, c);
}

static void tokens_fed_in_steps_equal_transformers(void **state)
{
    (void)state;
    each(check_steps);
}

/* A context of 100 tokens, then steps: windows reach from the tail into the block, and leave it behind. */
static void check_block_then_steps(struct family_model *m)
{
    struct context *c = family_context_open(m);

    family_prefill(m, 100, c);
    assert_int_equal(feed(m, c, 100, 1), 3);
    assert_int_equal(feed(m, c, 100, 28), 2); /* positions 127, 299 */
    family_context_close(m, c);
}

static void tokens_after_a_context_equal_transformers(void **state)
{
    (void)state;
    each(check_block_then_steps);
}

/* Questions and answers that cross the length at which frequencies change: a question turns as a whole, by the length at
 * its end, also where it is fed in several steps; an answer's tokens each by their own. */
static void check_asked(struct family_model *m)
{
    const json_t *asked = json_object_get(m->expected, "asked"), *item;
    size_t i;

    json_array_foreach((json_t *)asked, i, item)
    {
        const int32_t context = (int32_t)json_integer_value(json_object_get(item, "context"));
        const int32_t question = (int32_t)json_integer_value(json_object_get(item, "question"));
        const json_t *want = json_object_get(item, "made");
        struct context *c = family_context_open(m);
        int32_t made[64], count = (int32_t)json_array_size(want);

        family_prefill(m, context, c);
        c->next_position = context;
        ask(m, c, m->token + context, question, made, count);
        for (int32_t k = 0; k < count; k++)
            if (made[k] != json_integer_value(json_array_get(want, (size_t)k)))
                fail_msg("%s, context %d, question %d: token %d is %d", m->name, context, question, k, made[k]);
        family_context_close(m, c);
    }
    assert_int_equal(json_array_size(asked), json_object_get(m->expected, "stepped") ? 3 : 0);
}

static void answers_cross_the_length_where_frequencies_change(void **state)
{
    (void)state;
    each_in_f32(check_asked);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(prefill_equals_transformers),
    cmocka_unit_test(greedy_tokens_equal_transformers),
    cmocka_unit_test(a_long_question_gets_the_same_tokens),
    cmocka_unit_test(windowed_layers_hold_their_window_only),
    cmocka_unit_test(tokens_fed_in_steps_equal_transformers),
    cmocka_unit_test(tokens_after_a_context_equal_transformers),
    cmocka_unit_test(answers_cross_the_length_where_frequencies_change),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
