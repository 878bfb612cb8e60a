/* SPDX-License-Identifier: Apache-2.0 */
/* print.c - the words of a press for people and programs: one line, a table, JSON, docs/PRESSES.md. All from the tables. */
#include "presses/chain.h"

#include "common/base/bytes.h"
#include "common/kv/codec.h"
#include "presses/options.h"

#include <ctype.h>
#include <string.h>

static const char *const kind_titles[] = { "Score: every row of a KV head gets a number; larger stays",
                                           "Refine: between a score and its keep",
                                           "Choose: decides by itself how much stays",
                                           "Keep: how much stays",
                                           "Edit: changes the rows that stay",
                                           "Decode part: works while tokens are generated" };
static const enum press_kind kind_order[] = { PRESS_KEEP,   PRESS_SCORE, PRESS_REFINE,
                                              PRESS_CHOOSE, PRESS_EDIT,  PRESS_DECODE };

/* What stands for a value that has no default: F a name, N a whole number, R a number. */
static const char *placeholder(const struct opt *o)
{
    return o->type == OPT_TEXT ? "F" : o->type == OPT_INT ? "N" : o->type == OPT_LIST ? "R/R/..." : "R";
}

void press_usage(const struct press *p, struct text *out)
{
    text_puts(out, p->name);
    for (size_t i = 0; i < p->option_count; i++) {
        const struct opt *o = &p->options[i];
        const char *value = o->fallback && o->fallback[0] ? o->fallback : placeholder(o);

        if (p->has_value && i == 0)
            text_printf(out, "=%s", value);
        else
            text_printf(out, "%s%s=%s", i == (p->has_value ? 1 : 0) ? ":" : ",", o->name, value);
    }
}

static void need(struct text *out, bool wanted, const char *words)
{
    if (!wanted)
        return;
    if (out->bytes > 0)
        text_puts(out, ", ");
    text_puts(out, words);
}

void press_needs_text(const struct press *p, struct text *out)
{
    struct chain_needs n = { 0 };
    struct arena arena = { 0 };
    struct press_stage stage = { .press = p };

    if (p->needs == NULL)
        return;

    stage.options = options_open(p, &arena);
    p->needs(&stage, 1, &n);
    need(out, n.q_tail > 0, "the last queries");
    need(out, n.q_plain || n.q_rotated, "all queries");
    need(out, n.hidden, "the layer's input");
    need(out, n.lse, "row sums of attention");
    need(out, n.all_layers, "all layers at once");
    need(out, n.second_pass, "a second pass");
    arena_fini(&arena);
}

static void table_row(const struct press *p, struct text *out)
{
    struct text usage = { 0 };

    press_usage(p, &usage);
    text_printf(out, "  %-48s %s\n", text_str(&usage), press_built(p) ? p->summary : "(not built yet)");
    text_fini(&usage);
}

void presses_table(struct text *out)
{
    const struct press *p;

    for (size_t k = 0; k < ARRAY_LEN(kind_order); k++) {
        text_printf(out, "%s%s\n", k > 0 ? "\n" : "", kind_titles[kind_order[k]]);
        for (size_t i = 0; (p = press_at(i)) != NULL; i++)
            if (p->kind == kind_order[k])
                table_row(p, out);
    }
}

static void json_field(struct text *out, const char *name, const char *value)
{
    text_printf(out, ",\"%s\":", name);
    text_json(out, value, strlen(value));
}

/* {"name":"window","help":"...","value":"a whole number from 1 to 65536","default":"64","required":false} */
static void json_option(const struct opt *o, struct text *out)
{
    struct text allowed = { 0 };

    if (o->type == OPT_TEXT)
        text_puts(&allowed, "a name");
    else
        options_allowed(o, &allowed);
    text_puts(out, "{\"name\":");
    text_json(out, o->name, strlen(o->name));
    json_field(out, "help", o->help ? o->help : "");
    json_field(out, "value", text_str(&allowed));
    if (o->fallback && o->fallback[0])
        json_field(out, "default", o->fallback);
    else
        text_puts(out, ",\"default\":null");
    text_printf(out, ",\"required\":%s}", o->required ? "true" : "false");
    text_fini(&allowed);
}

static void json_options(const struct press *p, struct text *out)
{
    text_puts(out, ",\"options\":[");
    for (size_t i = 0; i < p->option_count; i++) {
        if (i > 0)
            text_puts(out, ",");
        json_option(&p->options[i], out);
    }
    text_puts(out, "]");
}

void presses_json(struct text *out)
{
    const struct press *p;

    text_puts(out, "{\"presses\":[");
    for (size_t i = 0; (p = press_at(i)) != NULL; i++) {
        struct text usage = { 0 }, needs = { 0 };
        press_usage(p, &usage);
        press_needs_text(p, &needs);
        text_puts(out, i > 0 ? ",{\"name\":" : "{\"name\":");
        text_json(out, p->name, strlen(p->name));
        json_field(out, "kind", press_kind_word(p->kind));
        json_field(out, "text", text_str(&usage));
        json_field(out, "summary", p->summary);
        json_field(out, "source", p->source);
        json_field(out, "reference", p->reference);
        json_field(out, "needs", text_str(&needs));
        json_field(out, "cost", p->cost);
        json_field(out, "differs", p->differs);
        json_options(p, out);
        text_printf(out, ",\"built\":%s}", press_built(p) ? "true" : "false");
        text_fini(&usage);
        text_fini(&needs);
    }
    text_puts(out, "]}");
}

/* "- `window`: what it does; a whole number from 1 to 65536, default 64" */
static void markdown_option(const struct opt *o, struct text *out)
{
    text_printf(out, "- `%s`: %s; ", o->name, o->help ? o->help : "");
    if (o->type == OPT_TEXT)
        text_puts(out, "a name");
    else
        options_allowed(o, out);
    if (o->fallback && o->fallback[0])
        text_printf(out, ", default %s", o->fallback);
    text_puts(out, o->required ? ", required\n" : "\n");
}

static const char markdown_intro[] =
    "A press says which rows of a context's KV cache stay. It is written as a chain of stages, read from left to "
    "right:\n\n"
    "    press = part [ \";\" part ]                at most one prefill part and one decode part\n"
    "    part  = stage { \"|\" stage }\n"
    "    stage = name [ \"=\" value ] [ \":\" key \"=\" value { \",\" key \"=\" value } ]\n"
    "    value = number | word | on | off | text in double quotes\n\n"
    "A part is a row of rounds: score, refine, keep, edits. After a keep the next score opens a new round on the "
    "survivors, "
    "in ascending position. The empty text and `none` keep everything. Every text has one canonical form, which "
    "replies and "
    "logs show: `"
    "snapkv:window=32|ratio=.5"
    "` is `snapkv:window=32 | ratio=0.5`.\n\n"
    "Rules that all share\n\n"
    "- `ratio` is the fraction that goes. A head of T rows keeps max(1, trunc(T * (1 - ratio))), in doubles, in this "
    "order.\n"
    "- Scores are f32; larger stays. Equal scores: the smaller position; but a protected window that does not fit the "
    "budget "
    "keeps its newest rows.\n"
    "- Budgets are real: rows that go are neither sent nor held, also where heads or layers compete.\n"
    "- With a query, its tokens stand after the context and are pressed with it.\n"
    "- Parameter files are named by the operator (`[press-files] NAME = PATH`, or `--press-file NAME=PATH`); a request "
    "names "
    "the entry. `platen inspect` takes paths too.\n"
    "- Cost counts added work in T tokens, H query heads, G KV heads, D head size, w window, dim width of the "
    "model.\n\n";

static void markdown_press(const struct press *p, struct text *out)
{
    struct text usage = { 0 }, needs = { 0 };

    press_usage(p, &usage);
    press_needs_text(p, &needs);
    text_printf(out, "### `%s`\n\n", text_str(&usage));
    if (!press_built(p)) {
        text_puts(out, "Not built yet: the word is known and refused as such.\n\n");
        goto out;
    }
    text_printf(out, "%c%s.", toupper((unsigned char)p->summary[0]), p->summary + 1);
    if (*p->source)
        text_printf(out, " Source: %s.", p->source);
    if (*p->reference)
        text_printf(out, " Equals kvpress's `%s`.", p->reference);
    if (*p->cost)
        text_printf(out, " Cost: %s.", p->cost);
    if (needs.bytes > 0)
        text_printf(out, " Needs: %s.", text_str(&needs));
    if (*p->differs)
        text_printf(out, " Differs: %s", p->differs);
    text_puts(out, "\n\n");
    for (size_t i = 0; i < p->option_count; i++)
        markdown_option(&p->options[i], out);
    if (p->option_count > 0)
        text_puts(out, "\n");
out:
    text_fini(&usage);
    text_fini(&needs);
}

/* A line of each codec: what it holds, and what bench_codecs measured of it. */
static const struct {
    enum kv_codec codec;
    const char *what, *bytes, *mean_kl, *p99_kl, *agreement;
} codec_lines[] = {
    { KV_INT8, "a signed byte per channel, a scale per row (arXiv:2206.01861)", "53.1 %", "2.2e-04", "2.6e-03",
      "99.7 %" },
    { KV_FP8, "an e4m3 byte per channel, a scale per row (arXiv:2209.05433)", "53.1 %", "2.8e-03", "3.3e-02",
      "98.7 %" },
    { KV_INT4,
      "4 bits: K per channel in groups of 32 rows, V per row, the last 32 to 63 rows of a head whole "
      "(arXiv:2402.02750)",
      "33.0 %", "8.0e-03", "8.9e-02", "98.0 %" },
};

static const char codecs_intro[] =
    "## Coded rows\n\n"
    "A request's `kv=` (`platen ask --kv`, `platen create --kv`) codes the rows that any press keeps, on the wire and "
    "in the "
    "cache; "
    "`plain` is the cache's own dtype. What the bytes are: docs/WIRE.md. Rows of questions and answers stay plain, and "
    "so do those that a decode part has cut. A "
    "coded "
    "number is off by at most half a step: largest of the row / 254 (`int8`), a sixteenth of itself or largest of the "
    "row / "
    "458752 (`fp8`), a thirtieth of the spread of its channel in 32 rows (`int4`, K) or of its row (V), and a little "
    "for "
    "steps in bf16.\n\n"
    "Measured with SmolLM2-135M-Instruct (Q4_1), 2026-11-28, one AMD EPYC core pair with AVX512-BF16:\n\n"
    "    bench_codecs SmolLM2-135M-Instruct.Q4_1.gguf bf16 none survey.txt minutes.txt lighthouse.txt "
    "observatory.txt\n\n"
    "Four texts (tests/golden/texts, deploy/quickstart) are contexts; 256 tokens of an answer are fed to coded and "
    "plain "
    "rows alike. Bytes: as a share of plain's, scales included. KL: of the next token's distribution over coded rows "
    "from "
    "that over plain rows, in nats; the mean, and what 99 of 100 positions lie below. Agreement: positions where the "
    "best "
    "token is the same.\n\n"
    "| kv | holds | bytes | mean KL | p99 KL | agreement |\n| --- | --- | --- | --- | --- | --- |\n";

static const char codecs_after[] = "\nThe aim for `fp8` was a mean KL of 1e-3 and 99 % agreement: it is missed, by the "
                                   "three bits of its fraction; `int8` "
                                   "takes the same bytes and reaches both.\n";

static void markdown_codecs(struct text *out)
{
    text_puts(out, codecs_intro);
    for (size_t i = 0; i < ARRAY_LEN(codec_lines); i++)
        text_printf(out, "| `%s` | %s | %s | %s | %s | %s |\n", codec_word(codec_lines[i].codec), codec_lines[i].what,
                    codec_lines[i].bytes, codec_lines[i].mean_kl, codec_lines[i].p99_kl, codec_lines[i].agreement);
    text_puts(out, codecs_after);
}

void presses_markdown(struct text *out)
{
    const struct press *p;

    text_puts(out, "# Presses\n\nPrinted by `platen presses --markdown`; a test says when this file is stale.\n\n");
    text_puts(out, markdown_intro);
    for (size_t k = 0; k < ARRAY_LEN(kind_order); k++) {
        text_printf(out, "## %s\n\n", kind_titles[kind_order[k]]);
        for (size_t i = 0; (p = press_at(i)) != NULL; i++)
            if (p->kind == kind_order[k])
                markdown_press(p, out);
    }
    markdown_codecs(out);
}
