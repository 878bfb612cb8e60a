/* SPDX-License-Identifier: Apache-2.0 */
/*
 * split.c - patterns to words, through PCRE2.
 *
 * Two engines read one pattern differently in one place that matters: \s of PCRE2 takes U+180E, which Unicode no longer
 * counts as white space. So \s is written out as the list of Unicode's White_Space before the pattern is compiled.
 *
 * The match limit bounds the work of a bad pattern: so many steps for each byte of the text, and never a stack that
 * grows with it.
 */
#define PCRE2_CODE_UNIT_WIDTH 8

#include "common/model/split.h"

#include "common/base/text.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

enum { PATTERN_MAX = 16384, JIT_STACK_START = 32 * 1024, JIT_STACK_MAX = 1024 * 1024, LIMIT_BASE = 1000000 };
enum { LIMIT_PER_BYTE = 64, HEAP_KIB = 64 * 1024 };

static const char white_space[] = "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"
                                  "\\x{205f}\\x{3000}";

bool split_is_space(int32_t code)
{
    return (code >= 9 && code <= 13) || code == 32 || code == 0x85 || code == 0xa0 || code == 0x1680 ||
           (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 || code == 0x202f || code == 0x205f ||
           code == 0x3000;
}

/* Writes out \s, and \S outside of classes. */
static void translate(struct text *out, const char *pattern, size_t bytes)
{
    bool in_class = false;

    for (size_t i = 0; i < bytes; i++) {
        char c = pattern[i];
        char escaped = c == '\\' && i + 1 < bytes ? pattern[i + 1] : 0;
        if (escaped == 's') {
            text_printf(out, in_class ? "%s" : "[%s]", white_space);
            i++;
        } else if (escaped == 'S' && !in_class) {
            text_printf(out, "[^%s]", white_space);
            i++;
        } else if (escaped) {
            text_add(out, pattern + i, 2);
            i++;
        } else {
            text_add(out, &c, 1);
            if (c == '[' && !in_class) {
                in_class = true;
                if (i + 1 < bytes && pattern[i + 1] == '^')
                    text_add(out, &pattern[++i], 1);
            } else if (c == ']') {
                in_class = false;
            }
        }
    }
}

static enum status compile(pcre2_code **out, const char *pattern, size_t bytes, bool is_literal, struct err *err)
{
    uint32_t options = PCRE2_UTF | (is_literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C);
    int code;
    size_t at;
    pcre2_code *made = pcre2_compile((PCRE2_SPTR)pattern, bytes, options, &code, &at, NULL);

    if (!made) {
        char why[128];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        return err_set(err, ST_EINVAL, "pattern of the tokenizer, at byte %zu: %s", at, why);
    }
    pcre2_jit_compile(made, PCRE2_JIT_COMPLETE); /* where there is no JIT, the interpreter matches */
    *out = made;
    return ST_OK;
}

enum status splitter_add(struct splitter *s, struct arena *arena, const char *pattern, size_t bytes, bool is_literal,
                         enum split_mode mode, bool invert, struct err *err)
{
    struct split_step step = { .mode = mode, .invert = invert };
    struct text own = { 0 };
    enum status st;

    if (s->count == SPLIT_STEPS_MAX)
        return err_set(err, ST_EUNIMPLEMENTED, "the tokenizer has more than %d patterns", SPLIT_STEPS_MAX);
    if (bytes == 0 || bytes > PATTERN_MAX)
        return err_set(err, ST_EINVAL, "a pattern of the tokenizer has %zu bytes; 1 to %d are allowed", bytes,
                       PATTERN_MAX);
    if (is_literal)
        text_add(&own, pattern, bytes);
    else
        translate(&own, pattern, bytes);
    st = compile(&step.code, own.data, own.bytes, is_literal, err);
    text_fini(&own);
    if (st != ST_OK)
        return st;
    step.pattern = arena_strndup(arena, pattern, bytes);
    s->steps[s->count++] = step;
    return ST_OK;
}

void splitter_fini(struct splitter *s)
{
    for (int i = 0; i < s->count; i++)
        pcre2_code_free(s->steps[i].code);
    memset(s, 0, sizeof *s);
}

static void work_init(struct split_work *w)
{
    if (w->match)
        return;
    w->match = pcre2_match_data_create(1, NULL);
    w->context = pcre2_match_context_create(NULL);
    w->stack = pcre2_jit_stack_create(JIT_STACK_START, JIT_STACK_MAX, NULL);
    pcre2_jit_stack_assign(w->context, NULL, w->stack);
    pcre2_set_heap_limit(w->context, HEAP_KIB);
}

void split_work_fini(struct split_work *w)
{
    pcre2_match_data_free(w->match);
    pcre2_match_context_free(w->context);
    pcre2_jit_stack_free(w->stack);
    free(w->spans);
    free(w->next);
    memset(w, 0, sizeof *w);
}

/* hot */
enum status split_match(const struct split_step *step, struct split_work *w, const char *text, size_t bytes,
                        size_t from, struct tok_span *out, bool *found, struct err *err)
{
    uint64_t limit = LIMIT_BASE + (uint64_t)LIMIT_PER_BYTE * bytes;
    const size_t *at;
    int code;

    work_init(w);
    pcre2_set_match_limit(w->context, limit < UINT32_MAX ? (uint32_t)limit : UINT32_MAX);
    code = pcre2_match(step->code, (PCRE2_SPTR)text, bytes, from, PCRE2_NO_UTF_CHECK, w->match, w->context);
    *found = false;
    if (code == PCRE2_ERROR_NOMATCH)
        return ST_OK;
    if (code < 0)
        return err_set(err, ST_EINVAL, "the tokenizer's pattern gives up on this text (PCRE2 error %d)", code);
    at = pcre2_get_ovector_pointer(w->match);
    *out = (struct tok_span){ at[0], at[1] };
    *found = true;
    return ST_OK;
}

static void add_span(struct split_work *w, size_t from, size_t to)
{
    if (w->next_count == w->next_room) {
        w->next_room = w->next_room ? w->next_room * 2 : 256;
        w->next = mem_grow(w->next, w->next_room * sizeof w->next[0]);
    }
    w->next[w->next_count++] = (struct tok_span){ from, to };
}

/* What the pieces of one span have been so far. */
struct emit {
    enum split_mode mode;
    bool any, last_matched;
    size_t base; /* where the list stood when the span began */
};

/* Adds the piece [from, to) as the mode says. hot */
static void emit(struct split_work *w, struct emit *e, size_t from, size_t to, bool matched)
{
    bool join = false;

    if (from == to)
        return;
    switch (e->mode) {
    case SPLIT_ISOLATED:
        break;
    case SPLIT_REMOVED:
        if (matched)
            return;
        break;
    case SPLIT_CONTIGUOUS:
        join = e->any && matched == e->last_matched;
        break;
    case SPLIT_MERGED_PREVIOUS:
        join = e->any && matched && !e->last_matched;
        break;
    case SPLIT_MERGED_NEXT:
        join = e->any && !matched && e->last_matched;
        break;
    }
    e->any = true;
    e->last_matched = matched;
    if (join)
        w->next[w->next_count - 1].to = to;
    else
        add_span(w, from, to);
}

/* Steps over one character. */
static size_t next_char(const char *text, size_t bytes, size_t at)
{
    size_t step;

    if (at >= bytes)
        return bytes;
    utf8_decode(text + at, bytes - at, &step);
    return at + step;
}

static enum status split_span(const struct split_step *step, struct split_work *w, const char *text,
                              struct tok_span span, struct err *err)
{
    const char *piece = text + span.from;
    size_t bytes = span.to - span.from;
    struct emit e = { .mode = step->mode };
    size_t done = 0;

    for (size_t at = 0; at < bytes;) {
        struct tok_span m = { 0 };
        bool found;
        enum status st = split_match(step, w, piece, bytes, at, &m, &found, err);
        if (st != ST_OK)
            return st;
        if (!found)
            break;
        if (m.from < at || m.to <= m.from) { /* an empty match counts for nothing */
            at = next_char(piece, bytes, m.to > at ? m.to : at);
            continue;
        }
        emit(w, &e, span.from + done, span.from + m.from, step->invert);
        emit(w, &e, span.from + m.from, span.from + m.to, !step->invert);
        done = at = m.to;
    }
    emit(w, &e, span.from + done, span.to, step->invert);
    return ST_OK;
}

enum status splitter_run(const struct splitter *s, struct split_work *w, const char *text, size_t bytes,
                         struct err *err)
{
    w->next_count = 0;
    if (bytes)
        add_span(w, 0, bytes);
    for (int i = 0;; i++) {
        struct tok_span *spans = w->spans;
        size_t room = w->room;
        w->spans = w->next, w->room = w->next_room, w->count = w->next_count;
        w->next = spans, w->next_room = room, w->next_count = 0;
        if (i == s->count)
            return ST_OK;
        for (size_t j = 0; j < w->count; j++) {
            enum status st = split_span(&s->steps[i], w, text, w->spans[j], err);
            if (st != ST_OK)
                return st;
        }
    }
}
