/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_every_decode_press.c - what every row of presses.def that may stand in a decode part promises there: exactly the
 * budget, ascending rows, the same ones every time and for every number of threads, from one row on; nothing leaves where
 * there is less than the target. A press that is added is tested by being listed.
 */
#include "common/base/text.h"
#include "presses/run_parts.h"
#include "tests/support/cmocka_main.h"
#include "tests/support/small_files.h"
#include "tests/support/small_layer.h"

#include <stdlib.h>

static struct backend *be[2]; /* one thread, two threads */
static struct press_files *files;
static struct small_layer small[2];

/* What a press needs to be written with. */
static const char *parameters(const char *name)
{
    static const char *const table[][2] = {
        { "qfilter", "qfilter:file=qfilter" },
        { "expected-stats", "expected-stats:file=stats" },
        { "lukv", "lukv:file=lukv" },
        { "snapkv", "snapkv:window=6" },
        { "lagkv", "lagkv:lag=8" },
        { "cam", "cam:merge=3" },
    };

    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (strcmp(table[i][0], name) == 0)
            return table[i][1];
    return name;
}

/* The shortest chain with the press; false where it cannot stand there, or is no stage of a round. */
static bool chain_with(const struct press *p, const char *keep, char *out, size_t room)
{
    if (p->prefill_only || !press_built(p) || strcmp(p->name, "none") == 0)
        return false;
    if (p->kind == PRESS_SCORE)
        snprintf(out, room, "; decode:every=8 | %s | %s", parameters(p->name), keep);
    else if (p->kind == PRESS_REFINE)
        snprintf(out, room, "; decode:every=8 | %s | %s | %s",
                 strcmp(p->name, "pyramid") == 0 ? "snapkv:window=6" : "knorm", parameters(p->name), keep);
    return p->kind == PRESS_SCORE || p->kind == PRESS_REFINE;
}

struct outcome {
    int64_t first[SMALL_G + 1];
    int32_t row[SMALL_G * SMALL_TOKENS];
};

/* The first `rows` rows of every head; V is a copy, which cam may change. */
static struct kv_rows rows_of(const struct small_layer *s, int64_t rows, float *v)
{
    struct kv_rows view = { .k = s->in.kv.k, .v = v, .dtype = DT_F32, .heads = SMALL_G, .dim = SMALL_D };

    memcpy(v, s->v, (size_t)(SMALL_G * s->in.kv.stride * SMALL_D) * sizeof *v);
    for (int32_t g = 0; g < SMALL_G; g++) {
        view.first[g] = g * s->in.kv.stride;
        view.rows[g] = rows;
        view.at[g + 1] = view.at[g] + rows;
    }
    return view;
}

/* One compression of `rows` rows per head, whose last eight are new. */
static void compress(const char *text, int64_t rows, int on, struct outcome *o)
{
    static float v[SMALL_G * 2 * SMALL_TOKENS * SMALL_D];
    struct small_layer *s = &small[on];
    struct press_layer in = s->in;
    struct kv_rows view = rows_of(s, rows, v);
    struct press_cam cam = { 0 };
    struct press_result r;
    struct press_run *run;
    struct chain *chain;
    struct chain_decode part;
    struct err err = { 0 };

    if (chain_parse(&chain, text, strlen(text), files, &err) != ST_OK)
        fail_msg("%s: %s", text, err.text);
    assert_true(chain_decode_part(chain, &part));
    assert_int_equal(press_run_open(&run, be[on], &s->hp, SMALL_TOKENS, &err), ST_OK);
    in.tokens = rows < 8 ? rows : 8;
    in.q_plain = s->q_plain + (rows - in.tokens) * SMALL_H * SMALL_D;
    in.q = s->q + (rows - 1) * SMALL_H * SMALL_D;
    if (part.cam_merge > 0) {
        press_cam_reserve(&cam, &s->hp, SMALL_TOKENS);
        cam.calls = 8;
        assert_int_equal(press_cam_step(run, &cam, &in, &view, &err), ST_OK);
    }
    if (press_run_decode(run, chain, &in, &view, NULL, rows - 1, rows, part.cam_merge > 0 ? &cam : NULL, &r, &err) !=
        ST_OK)
        fail_msg("%s, %d rows: %s", text, (int)rows, err.text);
    memcpy(o->first, r.first, sizeof o->first);
    assert_int_equal(press_run_tokens(run, &r, o->row, &err), ST_OK);
    for (int32_t g = 0; g < SMALL_G; g++)
        for (int64_t i = r.first[g]; i < r.first[g + 1]; i++)
            if (o->row[i] < 0 || o->row[i] >= rows || (i > r.first[g] && o->row[i] <= o->row[i - 1]))
                fail_msg("%s, %d rows: head %d holds row %d out of order", text, (int)rows, g, o->row[i]);
    press_cam_fini(&cam);
    press_run_close(run);
    chain_close(chain);
}

/* Whether the press keeps something else than the budget by its own rule (whole chunks, curves, budgets per layer). */
static bool has_own_rule(const struct press *p)
{
    static const char *const own[] = { "chunkkv", "lukv", "pyramid" };

    for (size_t i = 0; i < ARRAY_LEN(own); i++)
        if (strcmp(p->name, own[i]) == 0)
            return true;
    return false;
}

/* A score that looks at more queries than there are rows is not asked: the node waits until they are there. */
static int64_t least_rows(const char *text)
{
    return strstr(text, "snapkv") ? 6 : 1;
}

static void exact(const struct press *p, const char *text, int64_t rows, int64_t want)
{
    struct outcome o;

    compress(text, rows, 1, &o);
    if (has_own_rule(p))
        return;
    if (o.first[SMALL_G] != SMALL_G * want)
        fail_msg("%s: %d rows keep %d in all, wanted %d per head", text, (int)rows, (int)o.first[SMALL_G], (int)want);
    for (int32_t g = 0; !p->uneven && g < SMALL_G; g++)
        assert_int_equal(o.first[g + 1] - o.first[g], want);
}

static void every_budget_is_kept_exactly_at_every_length(void **state)
{
    const struct press *p;
    char text[256];
    int seen = 0;

    (void)state;
    for (size_t i = 0; (p = press_at(i)) != NULL; i++) {
        if (!chain_with(p, "rows=20", text, sizeof text))
            continue;
        for (int64_t rows = least_rows(text); rows <= SMALL_TOKENS; rows++)
            exact(p, text, rows, rows < 20 ? rows : 20);
        (void)chain_with(p, "ratio=0.6", text, sizeof text);
        for (int64_t rows = least_rows(text); rows <= SMALL_TOKENS; rows++) {
            const struct press_keep keep = { 0.6, 0 };

            exact(p, text, rows, press_keep_rows(&keep, rows));
        }
        seen++;
    }
    assert_in_range(seen, 18, 100);
}

static void every_run_and_every_number_of_threads_keeps_the_same_rows(void **state)
{
    const struct press *p;
    char text[256];

    (void)state;
    for (size_t i = 0; (p = press_at(i)) != NULL; i++) {
        struct outcome a = { 0 }, b = { 0 }, c = { 0 };

        if (!chain_with(p, "rows=24", text, sizeof text))
            continue;
        compress(text, SMALL_TOKENS, 1, &a);
        compress(text, SMALL_TOKENS, 1, &b);
        compress(text, SMALL_TOKENS, 0, &c);
        assert_memory_equal(a.first, b.first, sizeof a.first);
        assert_memory_equal(a.first, c.first, sizeof a.first);
        assert_memory_equal(a.row, b.row, sizeof a.row);
        assert_memory_equal(a.row, c.row, sizeof a.row);
    }
}

static void the_limits_of_cam_and_of_decode_work(void **state)
{
    static const char *const texts[] = { "; decode:every=1,buffer=0 | knorm | cam:merge=1 | rows=9",
                                         "; decode:every=2147483647,buffer=65536 | tova | cam:merge=65536 | rows=9",
                                         "; decode:every=1,buffer=0 | tova | rows=1",
                                         "; decode:every=2147483647,buffer=65536 | keydiff | rows=2147483647",
                                         "; decode:every=1 | expected:future=65536,sink=0 | ratio=0.999999" };
    static const int64_t want[] = { 9, 9, 1, SMALL_TOKENS, 1 };
    struct outcome o;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        compress(texts[i], SMALL_TOKENS, 1, &o);
        assert_int_equal(o.first[SMALL_G], SMALL_G * want[i]);
    }
}

static int open_all(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct backend_config config = { .dtype = DT_F32, .threads = 1 + i, .memory_fraction = 0.5, .rows_max = 128 };

        if (backend_open(&be[i], "cpu", &config, NULL) != ST_OK)
            return -1;
        small_open(&small[i], be[i], 1);
    }
    small_files_write();
    files = small_files(&small[0].hp);
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    press_files_close(files);
    small_files_remove();
    for (int i = 0; i < 2; i++) {
        small_close(&small[i]);
        backend_close(be[i]);
    }
    return 0;
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(every_budget_is_kept_exactly_at_every_length),
    cmocka_unit_test(every_run_and_every_number_of_threads_keeps_the_same_rows),
    cmocka_unit_test(the_limits_of_cam_and_of_decode_work),
};

int main(int argc, char **argv)
{
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), open_all, close_all);
}
