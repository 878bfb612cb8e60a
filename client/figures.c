/* SPDX-License-Identifier: Apache-2.0 */
/* figures.c - one message, two ways to show it. */
#include "client/figures.h"

#include <string.h>

static void json_word(struct text *out, const char *name, const char *value)
{
    text_printf(out, "\"%s\":", name);
    text_json(out, value, strlen(value));
    text_puts(out, ",");
}

/* The stages in the order of a request's way. */
#define STAGES(X) \
    X(tokenize) X(order) X(queue) X(forward) X(press) X(pack) X(ship) X(adopt) X(decode) X(first_token) X(total)

static void times_json(struct text *out, const Platen__V1__StageTimes *t)
{
    const char *comma = "";

    text_puts(out, "\"timings_ms\":{");
#define X(stage)                                                        \
    text_printf(out, "%s\"" #stage "\":%.3f", comma, t ? t->stage : 0); \
    comma = ",";
    STAGES(X)
#undef X
    text_puts(out, "}");
}

void figures_json(struct text *out, const Platen__V1__Figures *f)
{
    const Platen__V1__RowCounts *rows = f->kept_rows;

    json_word(out, "press", f->press);
    text_printf(out, "\"context_tokens\":%lld,\"truncated_tokens\":%lld,\"dropped_bytes\":%lld,",
                (long long)f->context_tokens, (long long)f->truncated_tokens, (long long)f->dropped_bytes);
    text_printf(out, "\"dense_bytes\":%lld,\"kept_bytes\":%lld,\"wire_bytes\":%lld,", (long long)f->dense_bytes,
                (long long)f->kept_bytes, (long long)f->wire_bytes);
    text_printf(out, "\"kept_rows\":{\"min\":%lld,\"mean\":%.6f,\"max\":%lld},", rows ? (long long)rows->min : 0LL,
                rows ? rows->mean : 0, rows ? (long long)rows->max : 0LL);
    json_word(out, "kv", f->kv);
    json_word(out, "transport", f->transport);
    json_word(out, "transport_note", f->transport_note);
    json_word(out, "prefill_node", f->prefill_node);
    json_word(out, "decode_node", f->decode_node);
    json_word(out, "request_id", f->request_id);
    text_printf(out, "\"held_layers\":%s,\"attempts\":%d,", f->held_layers ? "true" : "false", f->attempts);
    times_json(out, f->timings_ms);
}

void figures_lines(struct text *out, const Platen__V1__Figures *f)
{
    const Platen__V1__RowCounts *rows = f->kept_rows;
    const Platen__V1__StageTimes *t = f->timings_ms;

    text_printf(out, "dense %lld bytes, kept %lld bytes, wire %lld bytes\n", (long long)f->dense_bytes,
                (long long)f->kept_bytes, (long long)f->wire_bytes);
    text_printf(out, "%lld tokens, press `%s`", (long long)f->context_tokens, f->press);
    if (rows)
        text_printf(out, ", rows kept per head %lld to %lld, mean %.1f", (long long)rows->min, (long long)rows->max,
                    rows->mean);
    text_printf(out, "\n%s -> %s over %s%s%s\n", f->prefill_node, f->decode_node, f->transport,
                f->transport_note[0] ? ", " : "", f->transport_note);
    if (t)
        text_printf(out, "forward %.0f ms, press %.1f ms, pack %.1f ms, ship %.1f ms", t->forward, t->press, t->pack,
                    t->ship);
    if (t && t->first_token > 0)
        text_printf(out, ", first token after %.0f ms, decode %.0f ms", t->first_token, t->decode);
    if (t && t->total > 0)
        text_printf(out, ", total %.0f ms", t->total);
    if (t)
        text_puts(out, "\n");
    if (f->truncated_tokens > 0)
        text_printf(out, "%lld tokens were dropped: the context is longer than --max-context-length\n",
                    (long long)f->truncated_tokens);
    if (f->dropped_bytes > 0)
        text_printf(out, "%lld bytes vanished: the vocabulary has no token for them\n", (long long)f->dropped_bytes);
}
