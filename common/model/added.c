/* SPDX-License-Identifier: Apache-2.0 */
/* added.c - a trie with first-child and next-sibling links; the text is read once, byte by byte. */
#include "common/model/added.h"

#include "common/base/text.h"
#include "common/model/split.h"

#include <string.h>
#include <utf8proc.h>

/* Arrays in an arena grow by copying: what they leave behind is at most as much again. */
static void *grow(struct arena *arena, const void *old, size_t count, size_t *room, size_t size)
{
    void *out;

    if (count < *room)
        return (void *)old;
    *room = *room ? *room * 2 : 64;
    out = arena_array(arena, *room, size);
    if (count)
        memcpy(out, old, count * size);
    return out;
}

static int32_t new_node(struct added *a, struct arena *arena, uint8_t byte)
{
    a->nodes = grow(arena, a->nodes, a->node_count, &a->node_room, sizeof a->nodes[0]);
    a->nodes[a->node_count] = (struct added_node){ .byte = byte };
    return (int32_t)a->node_count++;
}

static int32_t find_child(const struct added *a, int32_t node, uint8_t byte)
{
    int32_t child = node ? a->nodes[node].child : a->first[byte];

    while (node && child && a->nodes[child].byte != byte)
        child = a->nodes[child].sibling;
    return child;
}

static int32_t need_child(struct added *a, struct arena *arena, int32_t node, uint8_t byte)
{
    int32_t child = find_child(a, node, byte);

    if (child)
        return child;
    child = new_node(a, arena, byte);
    if (node) {
        a->nodes[child].sibling = a->nodes[node].child;
        a->nodes[node].child = child;
    } else {
        a->first[byte] = child;
    }
    return child;
}

void added_add(struct added *a, struct arena *arena, const struct added_token *token, const char *text, size_t bytes)
{
    int32_t node = 0;

    if (a->node_count == 0)
        new_node(a, arena, 0);
    for (size_t i = 0; i < bytes; i++)
        node = need_child(a, arena, node, (uint8_t)text[i]);
    a->tokens = grow(arena, a->tokens, a->count, &a->token_room, sizeof a->tokens[0]);
    a->tokens[a->count++] = *token;
    a->nodes[node].token = (int32_t)a->count;
}

/* Letters in circles and squares: symbols that count as alphabetic. */
static bool is_framed_letter(int32_t code)
{
    return (code >= 0x24b6 && code <= 0x24e9) || (code >= 0x1f130 && code <= 0x1f149) ||
           (code >= 0x1f150 && code <= 0x1f169) || (code >= 0x1f170 && code <= 0x1f189);
}

/* What the reference's regular expressions call \w: alphabetic, marks, decimal digits, connectors, joiners (UTS 18). */
static bool is_word(int32_t code)
{
    utf8proc_category_t c = utf8proc_category(code);

    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_NL) || c == UTF8PROC_CATEGORY_PC || code == 0x200c ||
           code == 0x200d || is_framed_letter(code);
}

static int32_t code_after(const char *text, size_t bytes, size_t at, size_t *len)
{
    *len = 0;
    return at < bytes ? utf8_decode(text + at, bytes - at, len) : -1;
}

static int32_t code_before(const char *text, size_t at, size_t *start)
{
    size_t len;

    if (at == 0)
        return -1;
    *start = at - 1;
    while (*start > 0 && ((uint8_t)text[*start] & 0xc0) == 0x80)
        --*start;
    return utf8_decode(text + *start, at - *start, &len);
}

static bool stands_alone(const char *text, size_t bytes, struct tok_span s)
{
    size_t unused;
    int32_t before = code_before(text, s.from, &unused);
    int32_t after = code_after(text, bytes, s.to, &unused);

    return (before < 0 || !is_word(before)) && (after < 0 || !is_word(after));
}

static void take_spaces(const struct added_token *t, const char *text, size_t bytes, size_t from, struct tok_span *s)
{
    size_t start = s->from, step = 0;

    while (t->lstrip && split_is_space(code_before(text, s->from, &start)) && start >= from)
        s->from = start;
    while (t->rstrip && split_is_space(code_after(text, bytes, s->to, &step)))
        s->to += step;
}

static bool allowed(const struct added_token *t, struct tok_span s, const struct tok_span *special)
{
    return !t->special || !special || (s.from >= special->from && s.to <= special->to);
}

/* The longest token that begins at `at` and may stand there; its index, or -1. */
static int32_t match_at(const struct added *a, const char *text, size_t bytes, size_t at,
                        const struct tok_span *special, struct tok_span *span)
{
    int32_t node = 0, best = -1;

    for (size_t i = at; i < bytes; i++) {
        struct tok_span s = { at, i + 1 };
        int32_t token;
        node = find_child(a, node, (uint8_t)text[i]);
        if (!node)
            break;
        token = a->nodes[node].token - 1;
        if (token >= 0 && allowed(&a->tokens[token], s, special)) {
            best = token;
            *span = s;
        }
    }
    return best;
}

int32_t added_find(const struct added *a, const char *text, size_t bytes, size_t from, const struct tok_span *special,
                   struct tok_span *span)
{
    if (a->count == 0)
        return -1;
    for (size_t at = from; at < bytes; at++) {
        int32_t token;
        if (!a->first[(uint8_t)text[at]])
            continue;
        token = match_at(a, text, bytes, at, special, span);
        if (token < 0)
            continue;
        if (a->tokens[token].single_word && !stands_alone(text, bytes, *span)) {
            at = span->to - 1;
            continue;
        }
        take_spaces(&a->tokens[token], text, bytes, from, span);
        return a->tokens[token].id;
    }
    return -1;
}
