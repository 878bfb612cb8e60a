/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/opt.h"
#include "tests/support/cmocka_main.h"

#include <stdlib.h>
#include <unistd.h>

struct settings {
    const char *model, *context;
    struct opt_list questions;
    int64_t threads, dtype, seed;
    double ratio, free_number;
    bool json;
};

static const struct opt rows[] = {
    { .name = "model",
      .type = OPT_TEXT,
      .offset = offsetof(struct settings, model),
      .value = "PATH",
      .help = "the model",
      .required = true },
    { .name = "context", .type = OPT_ONCE, .offset = offsetof(struct settings, context), .help = "the text" },
    { .name = "question",
      .type = OPT_LIST,
      .offset = offsetof(struct settings, questions),
      .fallback = "why?",
      .help = "what is asked" },
    { .name = "threads",
      .type = OPT_INT,
      .offset = offsetof(struct settings, threads),
      .min = 1,
      .max = 256,
      .fallback = "4",
      .help = "workers" },
    { .name = "seed", .type = OPT_INT, .offset = offsetof(struct settings, seed), .help = "any number" },
    { .name = "ratio",
      .type = OPT_FLOAT,
      .offset = offsetof(struct settings, ratio),
      .min = 0,
      .max = 1,
      .fallback = "0.5",
      .help = "removed" },
    { .name = "free-number", .type = OPT_FLOAT, .offset = offsetof(struct settings, free_number), .help = "any" },
    { .name = "dtype",
      .type = OPT_WORD,
      .offset = offsetof(struct settings, dtype),
      .words = "f32|bf16",
      .fallback = "bf16",
      .help = "of weights" },
    { .name = "json", .type = OPT_FLAG, .offset = offsetof(struct settings, json), .help = "print JSON" },
};
static const struct opt_set set = { rows, ARRAY_LEN(rows) };

/* One command line and what came of it. */
struct line {
    struct settings s;
    struct opt_list rest;
    struct arena arena;
    struct err err;
};

static int line_open(void **state)
{
    struct line *l = calloc(1, sizeof *l);

    *state = l;
    return l ? opt_defaults(&set, &l->s, &l->arena, &l->err) : -1;
}

static int line_close(void **state)
{
    struct line *l = *state;

    arena_fini(&l->arena);
    free(l);
    return 0;
}

enum { ARGS_MAX = 12 };

/* Parses the words up to NULL. */
static enum status parse(struct line *l, const char *const words[ARGS_MAX], bool with_rest)
{
    char *argv[ARGS_MAX + 1] = { "program" };
    int argc = 1;

    for (; argc <= ARGS_MAX && words[argc - 1]; argc++)
        argv[argc] = (char *)(uintptr_t)words[argc - 1];
    err_clear(&l->err);
    return opt_parse_line(&set, &l->s, argc, argv, with_rest ? &l->rest : NULL, &l->arena, &l->err);
}

static void assert_refused(struct line *l, const char *a, const char *b, const char *sentence)
{
    assert_int_equal(parse(l, (const char *const[ARGS_MAX]){ a, b }, false), ST_EINVAL);
    assert_string_equal(l->err.text, sentence);
}

static void defaults_fill_every_row_that_has_one(void **state)
{
    struct line *l = *state;

    assert_null(l->s.model);
    assert_int_equal(l->s.questions.count, 1);
    assert_string_equal(l->s.questions.items[0], "why?");
    assert_int_equal(l->s.threads, 4);
    assert_true(l->s.ratio == 0.5);
    assert_int_equal(l->s.dtype, 1);
    assert_false(l->s.json);
}

static void values_come_behind_a_blank_or_an_equals_sign(void **state)
{
    struct line *l = *state;

    assert_int_equal(parse(l,
                           (const char *const[ARGS_MAX]){ "--model", "a.gguf", "--threads=8", "--ratio", "0.25",
                                                          "--dtype=f32", "--json", "--context=a=b" },
                           false),
                     ST_OK);
    assert_string_equal(l->s.model, "a.gguf");
    assert_int_equal(l->s.threads, 8);
    assert_true(l->s.ratio == 0.25);
    assert_int_equal(l->s.dtype, 0);
    assert_true(l->s.json);
    assert_string_equal(l->s.context, "a=b");
}

static void a_value_may_be_empty_or_begin_with_a_dash(void **state)
{
    struct line *l = *state;

    assert_int_equal(
        parse(l, (const char *const[ARGS_MAX]){ "--context", "--json", "--model=", "--seed", "-3" }, false), ST_OK);
    assert_string_equal(l->s.context, "--json");
    assert_string_equal(l->s.model, "");
    assert_false(l->s.json);
    assert_int_equal(l->s.seed, -3);
}

static void a_list_grows_and_replaces_its_default(void **state)
{
    struct line *l = *state;

    assert_int_equal(
        parse(l, (const char *const[ARGS_MAX]){ "--question", "a", "--question=b", "--question", "c" }, false), ST_OK);
    assert_int_equal(l->s.questions.count, 3);
    assert_string_equal(l->s.questions.items[0], "a");
    assert_string_equal(l->s.questions.items[1], "b");
    assert_string_equal(l->s.questions.items[2], "c");
}

static void the_last_one_wins(void **state)
{
    struct line *l = *state;

    assert_int_equal(
        parse(l, (const char *const[ARGS_MAX]){ "--threads", "1", "--threads", "2", "--json", "--json=off" }, false),
        ST_OK);
    assert_int_equal(l->s.threads, 2);
    assert_false(l->s.json);
}

static void two_dashes_end_the_options(void **state)
{
    struct line *l = *state;

    assert_int_equal(parse(l, (const char *const[ARGS_MAX]){ "ask", "--json", "--", "--threads", "-", "--" }, true),
                     ST_OK);
    assert_int_equal(l->rest.count, 4);
    assert_string_equal(l->rest.items[0], "ask");
    assert_string_equal(l->rest.items[1], "--threads");
    assert_string_equal(l->rest.items[2], "-");
    assert_string_equal(l->rest.items[3], "--");
    assert_true(l->s.json);
}

static void an_argument_that_is_no_option_is_refused(void **state)
{
    assert_refused(*state, "stray", NULL, "unexpected argument \"stray\"");
}

static void an_unknown_flag_names_the_nearest(void **state)
{
    assert_refused(*state, "--contxt", "x", "unknown flag --contxt; did you mean --context?");
    assert_refused(*state, "--thread=3", NULL, "unknown flag --thread; did you mean --threads?");
    assert_refused(*state, "-threads", "3", "unknown flag -threads; did you mean --threads?");
}

static void an_unknown_flag_that_is_near_to_none_names_all(void **state)
{
    assert_refused(*state, "--banana", NULL,
                   "unknown flag --banana; there are --model, --context, --question, --threads, --seed, --ratio, "
                   "--free-number, --dtype, --json");
    assert_refused(*state, "-x", NULL,
                   "unknown flag -x; there are --model, --context, --question, --threads, --seed, --ratio, "
                   "--free-number, --dtype, --json");
}

static void what_may_stand_once_is_refused_twice(void **state)
{
    struct line *l = *state;

    assert_int_equal(parse(l, (const char *const[ARGS_MAX]){ "--context", "x", "--context=y" }, false), ST_EINVAL);
    assert_string_equal(l->err.text, "--context is given twice");
}

static void a_bad_number_names_flag_value_and_range(void **state)
{
    assert_refused(*state, "--threads", "0", "--threads: \"0\" is not a whole number from 1 to 256");
    assert_refused(*state, "--threads", "many", "--threads: \"many\" is not a whole number from 1 to 256");
    assert_refused(*state, "--threads=", NULL, "--threads: \"\" is not a whole number from 1 to 256");
    assert_refused(*state, "--ratio", "1.5", "--ratio: \"1.5\" is not a number from 0 to 1");
    assert_refused(*state, "--ratio", "nan", "--ratio: \"nan\" is not a number from 0 to 1");
    assert_refused(*state, "--free-number", "x", "--free-number: \"x\" is not a number");
}

static void a_bad_value_leaves_the_old_one(void **state)
{
    struct line *l = *state;

    assert_refused(l, "--threads", "1000", "--threads: \"1000\" is not a whole number from 1 to 256");
    assert_refused(l, "--dtype", "f64", "--dtype: \"f64\" is not one of f32|bf16");
    assert_refused(l, "--dtype", "f", "--dtype: \"f\" is not one of f32|bf16");
    assert_refused(l, "--json=maybe", NULL, "--json: \"maybe\" is neither on nor off");
    assert_int_equal(l->s.threads, 4);
    assert_int_equal(l->s.dtype, 1);
    assert_false(l->s.json);
}

static void a_flag_without_its_value_is_refused(void **state)
{
    assert_refused(*state, "--model", NULL, "--model needs a value: PATH");
    assert_refused(*state, "--context", NULL, "--context needs a value");
}

static void a_required_option_must_come_from_somewhere(void **state)
{
    struct line *l = *state;

    assert_int_equal(opt_check(&set, &l->s, &l->err), ST_EINVAL);
    assert_string_equal(l->err.text, "--model PATH is required");
    assert_int_equal(parse(l, (const char *const[ARGS_MAX]){ "--model", "x" }, false), ST_OK);
    assert_int_equal(opt_check(&set, &l->s, &l->err), ST_OK);
}

/* Writes `content` to a temporary file, reads it as a configuration, and removes it. */
static enum status
read_config(struct line *l, const char *content,
            enum status (*on_section)(void *, const char *, const char *, const char *, struct err *), void *ctx)
{
    char path[] = "/tmp/platen-test-opt-XXXXXX";
    int fd = mkstemp(path);
    enum status st;

    assert_true(fd >= 0);
    assert_int_equal(write(fd, content, strlen(content)), strlen(content));
    close(fd);
    err_clear(&l->err);
    st = opt_parse_file(&set, &l->s, path, on_section, ctx, &l->arena, &l->err);
    unlink(path);
    if (st != ST_OK)
        assert_memory_equal(l->err.text, path, strlen(path)); /* a sentence about a file begins with its name */
    return st;
}

static const char *after_path(const struct line *l)
{
    return l->err.text + strlen("/tmp/platen-test-opt-XXXXXX");
}

static void a_file_sets_the_same_options(void **state)
{
    struct line *l = *state;

    assert_int_equal(
        read_config(l,
                    "# a comment\n\n  model =  a b.gguf \r\njson = on\nthreads=7\nquestion = x\nquestion = y\n"
                    "context = one = two # three",
                    NULL, NULL),
        ST_OK);
    assert_string_equal(l->s.model, "a b.gguf");
    assert_true(l->s.json);
    assert_int_equal(l->s.threads, 7);
    assert_int_equal(l->s.questions.count, 2);
    assert_string_equal(l->s.context, "one = two # three");
}

static void the_command_line_wins_over_the_file(void **state)
{
    struct line *l = *state;

    assert_int_equal(read_config(l, "threads = 7\nquestion = x\nquestion = y\njson = on\n", NULL, NULL), ST_OK);
    assert_int_equal(parse(l, (const char *const[ARGS_MAX]){ "--threads", "9", "--question", "z" }, false), ST_OK);
    assert_int_equal(l->s.threads, 9);
    assert_int_equal(l->s.questions.count, 1);
    assert_string_equal(l->s.questions.items[0], "z");
    assert_true(l->s.json);
}

static void a_wrong_line_of_a_file_is_named_by_its_number(void **state)
{
    struct line *l = *state;

    assert_int_equal(read_config(l, "threads = 2\n\nthread = 3\n", NULL, NULL), ST_EINVAL);
    assert_string_equal(after_path(l), ":3: unknown option thread; did you mean threads?");
    assert_int_equal(read_config(l, "threads = 999\n", NULL, NULL), ST_EINVAL);
    assert_string_equal(after_path(l), ":1: threads: \"999\" is not a whole number from 1 to 256");
    assert_int_equal(read_config(l, "threads 9\n", NULL, NULL), ST_EINVAL);
    assert_string_equal(after_path(l), ":1: a line is \"name = value\", not \"threads 9\"");
    assert_int_equal(read_config(l, "[half\n", NULL, NULL), ST_EINVAL);
    assert_int_equal(read_config(l, "[unheard of]\n", NULL, NULL), ST_EINVAL);
    assert_string_equal(after_path(l), ":1: unknown section [unheard of]");
}

static void a_missing_file_is_not_found(void **state)
{
    struct line *l = *state;

    assert_int_equal(opt_parse_file(&set, &l->s, "/nowhere.conf", NULL, NULL, &l->arena, &l->err), ST_ENOTFOUND);
    assert_non_null(strstr(l->err.text, "/nowhere.conf"));
}

static enum status note_section(void *ctx, const char *section, const char *key, const char *value, struct err *err)
{
    text_printf(ctx, "%s.%s=%s;", section, key, value);
    return strcmp(value, "bad") == 0 ? err_set(err, ST_EINVAL, "no %s", key) : ST_OK;
}

static void lines_of_a_section_go_to_whoever_reads_it(void **state)
{
    struct line *l = *state;
    struct text seen = { 0 };

    assert_int_equal(
        read_config(l, "threads = 3\n[press]\nname = knorm\nthreads = 5\n[other]\nx=\n", note_section, &seen), ST_OK);
    assert_string_equal(text_str(&seen), "press.name=knorm;press.threads=5;other.x=;");
    assert_int_equal(l->s.threads, 3);
    assert_int_equal(read_config(l, "[press]\nname = bad\n", note_section, &seen), ST_EINVAL);
    assert_string_equal(after_path(l), ":2: no name");
    text_fini(&seen);
}

static void help_shows_every_option_with_its_default(void **state)
{
    struct text out = { 0 };

    (void)state;
    opt_help(&set, &out);
    for (size_t i = 0; i < set.count; i++) {
        assert_non_null(strstr(text_str(&out), rows[i].name));
        assert_non_null(strstr(text_str(&out), rows[i].help));
    }
    assert_non_null(strstr(text_str(&out), "  --model PATH      the model (required)\n"));
    assert_non_null(strstr(text_str(&out), "  --threads N       workers (default: 4)\n"));
    assert_non_null(strstr(text_str(&out), "  --dtype f32|bf16  of weights (default: bf16)\n"));
    assert_non_null(strstr(text_str(&out), "  --json            print JSON\n"));
    text_fini(&out);
}

static void markdown_is_a_table_with_one_row_each(void **state)
{
    struct text out = { 0 };
    size_t lines = 0;

    (void)state;
    opt_markdown(&set, &out);
    for (const char *at = text_str(&out); *at; at++)
        lines += *at == '\n';
    assert_int_equal(lines, 2 + set.count);
    assert_non_null(strstr(text_str(&out), "| `dtype` | f32\\|bf16 | `bf16` | of weights |\n"));
    assert_non_null(strstr(text_str(&out), "| `model` | PATH | required | the model |\n"));
    text_fini(&out);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(defaults_fill_every_row_that_has_one, line_open, line_close),
        cmocka_unit_test_setup_teardown(values_come_behind_a_blank_or_an_equals_sign, line_open, line_close),
        cmocka_unit_test_setup_teardown(a_value_may_be_empty_or_begin_with_a_dash, line_open, line_close),
        cmocka_unit_test_setup_teardown(a_list_grows_and_replaces_its_default, line_open, line_close),
        cmocka_unit_test_setup_teardown(the_last_one_wins, line_open, line_close),
        cmocka_unit_test_setup_teardown(two_dashes_end_the_options, line_open, line_close),
        cmocka_unit_test_setup_teardown(an_argument_that_is_no_option_is_refused, line_open, line_close),
        cmocka_unit_test_setup_teardown(an_unknown_flag_names_the_nearest, line_open, line_close),
        cmocka_unit_test_setup_teardown(an_unknown_flag_that_is_near_to_none_names_all, line_open, line_close),
        cmocka_unit_test_setup_teardown(what_may_stand_once_is_refused_twice, line_open, line_close),
        cmocka_unit_test_setup_teardown(a_bad_number_names_flag_value_and_range, line_open, line_close),
        cmocka_unit_test_setup_teardown(a_bad_value_leaves_the_old_one, line_open, line_close),
        cmocka_unit_test_setup_teardown(a_flag_without_its_value_is_refused, line_open, line_close),
        cmocka_unit_test_setup_teardown(a_required_option_must_come_from_somewhere, line_open, line_close),
        cmocka_unit_test_setup_teardown(a_file_sets_the_same_options, line_open, line_close),
        cmocka_unit_test_setup_teardown(the_command_line_wins_over_the_file, line_open, line_close),
        cmocka_unit_test_setup_teardown(a_wrong_line_of_a_file_is_named_by_its_number, line_open, line_close),
        cmocka_unit_test_setup_teardown(a_missing_file_is_not_found, line_open, line_close),
        cmocka_unit_test_setup_teardown(lines_of_a_section_go_to_whoever_reads_it, line_open, line_close),
        cmocka_unit_test(help_shows_every_option_with_its_default),
        cmocka_unit_test(markdown_is_a_table_with_one_row_each),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
