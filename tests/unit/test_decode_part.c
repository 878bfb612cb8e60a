/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_decode_part.c - answers whose press goes on while they are generated, on a small random model with a window in one
 * layer and a context of random rows, without any network.
 *
 * malloc and its kin are counted in this program: a compression in the middle of an answer allocates nothing.
 */
#include "common/base/arena.h"
#include "common/base/clock.h"
#include "common/kv/block.h"
#include "decode-node/repress.h"
#include "presses/chain.h"
#include "tests/support/allocations.h"
#include "tests/support/cmocka_main.h"
#include "tests/unit/small_decode.h"
#include "tests/unit/small_gate.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

enum { CONTEXT = 90, WINDOW = 33, WINDOWED = SMALL_WINDOWED, ARENA = 8 << 20, TAILS = 64 * 64 };

struct world {
    struct small_decode d;
    struct blocks *blocks;
    struct press_files *files;
};

/* Steps that take 10 ms while `slow` is set, so that something can be done in the middle of an answer. */
static const struct backend_ops *works;
static struct backend_ops slowed;
static int32_t slow; /* atomic */

static void result_of_slow(struct backend *be, int32_t behind, int32_t *ids)
{
    works->step_result(be, behind, ids);
    if (__atomic_load_n(&slow, __ATOMIC_ACQUIRE))
        usleep(10000);
}

static int open_world(void **state)
{
    struct world *w = mem_zero(1, sizeof *w);

    small_decode_open(&w->d, WINDOW);
    works = w->d.be->ops;
    slowed = *works;
    slowed.step_result = result_of_slow;
    w->d.be->ops = &slowed;
    assert_int_equal(blocks_open(&w->blocks, w->d.be, ARENA, NULL), ST_OK);
    small_decode_start(&w->d, 48, TAILS);
    w->files = small_gate_open(&w->d.weights->hp);
    *state = w;
    return 0;
}

static int close_world(void **state)
{
    struct world *w = *state;

    assert_int_equal(blocks_used(w->blocks), 0);
    assert_int_equal(batcher_sequences(w->d.batcher), 0);
    assert_int_equal(batcher_tail_tokens(w->d.batcher), 0);
    batcher_close(w->d.batcher);
    w->d.batcher = NULL;
    blocks_close(w->blocks);
    press_files_close(w->files);
    small_decode_close(&w->d);
    free(w);
    return 0;
}

/* A context of CONTEXT random rows per head (fewer in odd heads where `uneven`), pressed as `text` says. */
static struct context *make_context(struct world *w, const char *text, bool uneven)
{
    const struct hparams *hp = &w->d.weights->hp;
    struct context *c = context_open(w->blocks, hp->layers);
    uint64_t at = 0, room = 3 * kv_align((uint64_t)2 * 2 * CONTEXT * 17 * sizeof(float));
    struct chain_decode part = { 0 };
    struct err err = { 0 };

    if (text && chain_parse(&c->chain, text, strlen(text), w->files, &err) != ST_OK)
        fail_msg("%s", err.text);
    if (text)
        (void)chain_decode_part(c->chain, &part);
    assert_int_equal(blocks_reserve(w->blocks, room, c, &c->extent, &err), ST_OK);
    for (int32_t l = 0; l < hp->layers; l++) {
        struct kv_block *b = &c->block[l];
        float *x;

        *b = (struct kv_block){ .layer = l, .heads = 2, .dim = 16, .k_dim = 16, .dtype = DT_F32 };
        b->scored = l == WINDOWED ? 0 : part.scored;
        b->first[1] = l == WINDOWED ? WINDOW : CONTEXT;
        b->first[2] = b->first[1] + (l == WINDOWED ? WINDOW : uneven ? CONTEXT / 3 : CONTEXT);
        assert_int_equal(kv_block_plan(b, &err), ST_OK);
        b->data = (char *)blocks_at(w->blocks, c->extent) + at;
        x = b->data;
        for (uint64_t i = 0; i < b->bytes / sizeof *x; i++)
            x[i] = (float)((i * 2654435761u + (uint64_t)l * 40503u) % 2001) / 1000.0f - 1.0f;
        at += b->bytes;
    }
    blocks_commit(w->blocks, c->extent, at);
    c->next_position = CONTEXT;
    c->figures.context_tokens = CONTEXT;
    return c;
}

static struct repress_ask ask_of(struct context *c, int32_t tokens, int32_t max_new)
{
    return (struct repress_ask){ .context = c,
                                 .context_tokens = CONTEXT,
                                 .context_rows = 2 * CONTEXT,
                                 .next_position = CONTEXT,
                                 .prompt_tokens = tokens,
                                 .max_new = max_new };
}

static int32_t tail_rows(const struct context *c, int32_t tokens, int32_t max_new)
{
    struct chain_decode part;

    if (!c->chain || !chain_decode_part(c->chain, &part))
        return sequence_tail_rows(tokens, max_new);
    return repress_tail_rows(&part, tokens, max_new);
}

static struct sequence *ask(struct world *w, struct context *c, int seed, int32_t tokens, int32_t max_new)
{
    struct sequence *s = small_ask(&w->d, c, seed, tokens, max_new);
    struct repress_ask room = ask_of(c, tokens, max_new);
    struct err err = { 0 };

    assert_int_equal(batcher_reserve(w->d.batcher, tail_rows(c, tokens, max_new), NULL), ST_OK);
    if (c->chain && batcher_repress(w->d.batcher, &room, &s->own, &err) != ST_OK)
        fail_msg("%s", err.text);
    return s;
}

static enum finish await(struct world *w, struct sequence *s)
{
    enum finish how = small_await(s);

    batcher_release(w->d.batcher, tail_rows(s->context, s->prompt_tokens, s->max_new));
    return how;
}

static void drop(struct world *w, struct sequence *s)
{
    batcher_repressed_close(w->d.batcher, s->own);
    small_drop(s);
}

static struct sequence *answer(struct world *w, struct context *c, int seed, int32_t tokens, int32_t max_new)
{
    struct sequence *s = ask(w, c, seed, tokens, max_new);

    batcher_submit(w->d.batcher, s);
    if (await(w, s) != FINISH_LENGTH)
        fail_msg("ended as %d: %s", s->finish, s->own ? s->own->failure.text : "");
    assert_int_equal(s->made_count, max_new);
    return s;
}

static void rows_stay_between_rows_and_every_more(void **state)
{
    struct world *w = *state;
    static const char *const texts[] = { "; decode:every=16 | knorm | rows=40", "; decode:every=16 | keydiff | rows=40",
                                         "; decode:every=16,buffer=3 | tova | rows=40",
                                         "; decode:every=16,buffer=5 | expected:sink=2 | rows=40",
                                         "; decode:every=16 | knorm | cam:merge=4 | rows=40" };

    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct context *c = make_context(w, texts[i], false);
        struct sequence *s = answer(w, c, (int)i, 20, 200);

        assert_int_equal(s->own->compressions, 12);
        assert_int_equal(s->own->held_min, 40);
        assert_int_equal(s->own->held_max, 40 + 15);
        assert_true(s->own->held_sum / (double)s->own->steps > 40);
        drop(w, s);
        context_unref(c);
    }
}

static void heads_that_compete_hold_the_rows_in_sum(void **state)
{
    struct world *w = *state;
    struct context *c = make_context(w, "; decode:every=16 | keydiff | adakv:alpha=0.1 | rows=40", true);
    struct sequence *s = answer(w, c, 1, 20, 200);

    for (int l = 0; l < 3; l++)
        assert_int_equal(kv_block_rows(&s->own->own->block[l]), l == WINDOWED ? 2 * WINDOW : 2 * 40);
    assert_int_not_equal(s->own->own->block[2].first[1], 40);
    drop(w, s);
    context_unref(c);
}

static void a_fraction_follows_the_tokens_seen(void **state)
{
    struct world *w = *state;
    struct context *c = make_context(w, "; decode:every=32 | knorm | ratio=0.5", false);
    struct sequence *s = answer(w, c, 1, 20, 300);
    int64_t seen = CONTEXT + 20 + 9 * 32 - 1;

    assert_int_equal(s->own->compressions, 9);
    assert_int_equal(s->own->own->block[0].first[1], seen / 2);
    assert_int_equal(s->own->held_min, (CONTEXT + 20 + 31) / 2);
    drop(w, s);
    context_unref(c);
}

static void a_compression_that_leaves_every_row_changes_no_token(void **state)
{
    struct world *w = *state;
    struct context *plain = make_context(w, NULL, true);
    struct context *pressed = make_context(w, "; decode:every=7 | keydiff | rows=100000", true);
    struct sequence *a = answer(w, plain, 3, 21, 150), *b = answer(w, pressed, 3, 21, 150);

    assert_int_equal(b->own->compressions, 21);
    assert_memory_equal(a->made, b->made, 150 * sizeof *a->made);
    drop(w, a);
    drop(w, b);
    context_unref(plain);
    context_unref(pressed);
}

static void a_context_stays_as_it_is(struct world *w, const char *text)
{
    struct context *c = make_context(w, text, false);
    uint64_t bytes = c->extent->bytes;
    void *before = mem_alloc(bytes);
    struct sequence *first, *again;

    memcpy(before, blocks_at(w->blocks, c->extent), bytes);
    first = answer(w, c, 5, 10, 120);
    again = answer(w, c, 5, 10, 120);
    assert_memory_equal(before, blocks_at(w->blocks, c->extent), bytes);
    assert_memory_equal(first->made, again->made, 120 * sizeof *first->made);
    free(before);
    drop(w, first);
    drop(w, again);
    context_unref(c);
}

static void the_context_is_not_touched_by_its_answers(void **state)
{
    a_context_stays_as_it_is(*state, "; decode:every=8 | knorm | rows=30");
    a_context_stays_as_it_is(*state, "kvzap:file=gate-mlp | dms:threshold=0,window=20,decoding=on");
}

/* The first rows of a head that went through `window` and more tokens: those of the context before the window, and those in it
 * that may stay by the verdicts which came with the block. Returns how many. */
static int64_t old_rows_are(const struct kv_block *from, const struct kv_block *now, int32_t head)
{
    const int64_t rows = from->first[head + 1] - from->first[head], scored = kv_scored_rows(from, rows);
    const size_t bytes = (size_t)from->dim * sizeof(float);
    const char *k = (const char *)now->data + (size_t)now->first[head] * bytes;
    const uint8_t *gone;
    struct kv_parts parts;
    int64_t at = 0;

    kv_block_parts(from, &parts);
    gone = (const uint8_t *)from->data + parts.offset[KV_PART_VERDICTS] + kv_verdict_first(from, head);
    for (int64_t r = 0; r < rows; r++)
        if (r < rows - scored || !(gone[(r - rows + scored) / 8] >> (r - rows + scored) % 8 & 1))
            assert_memory_equal(k + (size_t)at++ * bytes,
                                (const char *)from->data + (size_t)(from->first[head] + r) * bytes, bytes);
    return at;
}

static void rows_leave_by_the_verdicts_they_came_with(void **state)
{
    struct world *w = *state;
    static const char *const texts[] = { "kvzap:file=gate-linear | dms:threshold=0.1,window=20,decoding=on",
                                         "kvzap:file=gate-mlp | dms:threshold=0.1,window=60,decoding=on" };

    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct context *c = make_context(w, texts[i], true);
        struct sequence *s = answer(w, c, (int)i, 70, 150);
        const int64_t window = s->own->part.scored, fed = 70 + 149;

        assert_int_equal(s->own->compressions, 150 - 1);
        for (int l = 0; l < 3; l++)
            for (int32_t g = 0; g < 2 && l != WINDOWED; g++) {
                const struct kv_block *now = &s->own->own->block[l];
                int64_t rows = now->first[g + 1] - now->first[g];
                int64_t old = old_rows_are(&c->block[l], now, g);

                assert_in_range(rows - old, window, fed - 1); /* of the new ones some have left, none in the window */
            }
        drop(w, s);
        context_unref(c);
    }
}

static void answers_with_and_without_a_decode_part_share_a_batch(void **state)
{
    struct world *w = *state;
    struct context *c[] = { make_context(w, NULL, false), make_context(w, "; decode:every=8 | knorm | rows=30", false),
                            make_context(w, "; decode:every=13,buffer=6 | tova | rows=25", false),
                            make_context(w, "; decode:every=9 | knorm | cam:merge=3 | rows=28", false),
                            make_context(w, "kvzap:file=gate-mlp | dms:threshold=0,window=9,decoding=on", true) };
    struct sequence *s[24];

    for (int i = 0; i < 24; i++) {
        s[i] = ask(w, c[i % 5], i, 5 + i * 4, 60);
        batcher_submit(w->d.batcher, s[i]);
    }
    for (int i = 0; i < 24; i++)
        assert_int_equal(await(w, s[i]), FINISH_LENGTH);
    for (int i = 0; i < 24; i += 3) {
        struct sequence *alone = answer(w, c[i % 5], i, 5 + i * 4, 60);

        assert_memory_equal(alone->made, s[i]->made, 60 * sizeof *alone->made);
        drop(w, alone);
    }
    for (int i = 0; i < 24; i++)
        drop(w, s[i]);
    for (int i = 0; i < 5; i++)
        context_unref(c[i]);
}

static void pages_of_a_long_answer_are_few(void **state)
{
    struct world *w = *state;
    struct context *c = make_context(w, "; decode:every=64 | knorm | rows=64", false);
    struct sequence *s = ask(w, c, 2, 10, 1900); /* a tail of one sequence has room for 1024 rows */

    assert_int_equal(batcher_tail_tokens(w->d.batcher), 128);
    batcher_submit(w->d.batcher, s);
    assert_int_equal(await(w, s), FINISH_LENGTH);
    assert_int_equal(s->own->held_max, 64 + 63);
    drop(w, s);
    context_unref(c);
}

static void a_cancelled_answer_gives_everything_back(void **state)
{
    struct world *w = *state;
    struct context *c = make_context(w, "; decode:every=8,buffer=4 | tova | rows=30", false);
    uint64_t used = blocks_used(w->blocks);
    bool cancelled = false;
    struct sequence *s = ask(w, c, 1, 10, 3000);

    assert_true(blocks_used(w->blocks) > used);
    s->cancelled = &cancelled;
    batcher_submit(w->d.batcher, s);
    while (__atomic_load_n(&s->made_count, __ATOMIC_ACQUIRE) < 30)
        usleep(200);
    __atomic_store_n(&cancelled, true, __ATOMIC_RELAXED);
    assert_int_equal(await(w, s), FINISH_CANCELLED);
    assert_true(s->own->compressions > 0);
    drop(w, s);
    assert_int_equal(blocks_used(w->blocks), used);
    assert_int_equal(batcher_tail_tokens(w->d.batcher), 0);
    context_unref(c);
}

static void room_that_is_not_there_is_refused_at_the_door(void **state)
{
    struct world *w = *state;
    struct context *c = make_context(w, "; decode:every=8 | knorm | rows=1000000", false);
    struct repress_ask room = ask_of(c, 100, 3000);
    struct repressed *a[64] = { NULL };
    struct err err = { 0 };
    int made = 0;

    room.next_position = 900;
    room.context_tokens = 900;
    while (made < 64 && batcher_repress(w->d.batcher, &room, &a[made], &err) == ST_OK)
        made++;
    assert_in_range(made, 1, 63);
    assert_int_equal(err.code, ST_EEXHAUSTED);
    assert_non_null(strstr(err.text, "decode part"));
    while (made-- > 0)
        batcher_repressed_close(w->d.batcher, a[made]);
    context_unref(c);
}

static void move_blocks(struct batcher *b, void *arg)
{
    struct world *w = arg;

    batcher_compact(b, w->blocks);
    __atomic_store_n(&slow, 0, __ATOMIC_RELEASE);
}

static void own_blocks_may_be_moved_in_the_middle(void **state)
{
    struct world *w = *state;
    struct context *hole = make_context(w, NULL, false);
    struct context *c = make_context(w, "; decode:every=8,buffer=4 | tova | rows=30", false);
    struct sequence *still = answer(w, c, 4, 10, 200), *s = ask(w, c, 4, 10, 200);
    uint64_t place = s->own->own->extent->offset;

    __atomic_store_n(&slow, 1, __ATOMIC_RELEASE); /* until they are moved */
    batcher_submit(w->d.batcher, s);
    while (__atomic_load_n(&s->made_count, __ATOMIC_ACQUIRE) < 20)
        usleep(200);
    context_unref(hole);
    assert_int_equal(batcher_call(w->d.batcher, move_blocks, w), ST_OK);
    assert_int_equal(await(w, s), FINISH_LENGTH);
    assert_true(s->own->own->extent->offset < place);
    assert_memory_equal(s->made, still->made, 200 * sizeof *s->made);
    drop(w, still);
    drop(w, s);
    context_unref(c);
}

static void compressions_allocate_nothing(void **state)
{
    struct world *w = *state;
    static const char *const texts[] = { "; decode:every=8 | knorm | rows=30",
                                         "; decode:every=8 | expected:sink=1 | rows=30",
                                         "; decode:every=8 | snapkv:window=4 | adakv | rows=30",
                                         "; decode:every=8 | lagkv:lag=4 | rows=30",
                                         "; decode:every=8 | cur | rows=30",
                                         "; decode:every=8 | keydiff | chunkkv:length=3 | rows=30",
                                         "; decode:every=8 | knorm | critical | rows=30",
                                         "; decode:every=8 | keydiff | criticaladakv | rows=30",
                                         "; decode:every=8 | cap:sink=1 | rows=30",
                                         "; decode:every=8 | streaming | rows=30",
                                         "; decode:every=8 | random | rows=30",
                                         "; decode:every=8 | knorm | egchunkkv:length=4,low=2 | rows=30",
                                         "; decode:every=8 | snapkv:window=4 | pyramid:beta=2 | rows=30",
                                         "; decode:every=8 | tova | cam:merge=3 | rows=30",
                                         "; decode:every=8 | knorm | ratio=0.4",
                                         "knorm | dms:threshold=-2,window=9,decoding=on",
                                         "kvzap:file=gate-mlp | dms:threshold=0,window=9,decoding=on" };

    if (!ALLOCATIONS_ARE_COUNTED)
        skip();
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct context *c = make_context(w, texts[i], false);
        struct sequence *s = ask(w, c, 2, 30, 400);
        int32_t before, after;

        batcher_submit(w->d.batcher, s);
        while (__atomic_load_n(&s->made_count, __ATOMIC_ACQUIRE) < 3)
            ;
        before = allocations_so_far();
        while (__atomic_load_n(&s->made_count, __ATOMIC_ACQUIRE) < 390)
            ;
        after = allocations_so_far();
        assert_true(before > 0); /* the counter counts */
        if (after != before)
            fail_msg("%s: %d allocations", texts[i], after - before);
        assert_int_equal(await(w, s), FINISH_LENGTH);
        assert_in_range(s->own->compressions, 45, strstr(texts[i], "dms") ? 400 : 50);
        drop(w, s);
        context_unref(c);
    }
}

static void metrics_tell_and_go_back(void **state)
{
    struct world *w = *state;
    struct context *c = make_context(w, "; decode:every=8 | knorm | rows=30", false);
    struct sequence *s = ask(w, c, 2, 10, 80);
    struct text page = { 0 };

    metrics_print(w->d.metrics, &page);
    assert_non_null(strstr(text_str(&page), "platen_decode_own_blocks 1"));
    batcher_submit(w->d.batcher, s);
    assert_int_equal(await(w, s), FINISH_LENGTH);
    drop(w, s);
    for (int64_t until = clock_in_ms(5000); clock_now_ns() < until; usleep(1000)) {
        text_clear(&page);
        metrics_print(w->d.metrics, &page);
        if (strstr(text_str(&page), "platen_decode_part_head_rows_max 0"))
            break;
    }
    assert_non_null(strstr(text_str(&page), "platen_decode_part_head_rows_max 0"));
    assert_non_null(strstr(text_str(&page), "platen_decode_own_blocks 0"));
    assert_non_null(strstr(text_str(&page), "platen_decode_own_blocks_bytes 0"));
    assert_non_null(strstr(text_str(&page), "platen_decode_tail_pages 0"));
    assert_non_null(strstr(text_str(&page), "platen_decode_compressions_total 9"));
    text_fini(&page);
    context_unref(c);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown(rows_stay_between_rows_and_every_more, open_world, close_world),
    cmocka_unit_test_setup_teardown(heads_that_compete_hold_the_rows_in_sum, open_world, close_world),
    cmocka_unit_test_setup_teardown(a_fraction_follows_the_tokens_seen, open_world, close_world),
    cmocka_unit_test_setup_teardown(a_compression_that_leaves_every_row_changes_no_token, open_world, close_world),
    cmocka_unit_test_setup_teardown(the_context_is_not_touched_by_its_answers, open_world, close_world),
    cmocka_unit_test_setup_teardown(rows_leave_by_the_verdicts_they_came_with, open_world, close_world),
    cmocka_unit_test_setup_teardown(answers_with_and_without_a_decode_part_share_a_batch, open_world, close_world),
    cmocka_unit_test_setup_teardown(pages_of_a_long_answer_are_few, open_world, close_world),
    cmocka_unit_test_setup_teardown(a_cancelled_answer_gives_everything_back, open_world, close_world),
    cmocka_unit_test_setup_teardown(room_that_is_not_there_is_refused_at_the_door, open_world, close_world),
    cmocka_unit_test_setup_teardown(own_blocks_may_be_moved_in_the_middle, open_world, close_world),
    cmocka_unit_test_setup_teardown(compressions_allocate_nothing, open_world, close_world),
    cmocka_unit_test_setup_teardown(metrics_tell_and_go_back, open_world, close_world),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
