/* SPDX-License-Identifier: Apache-2.0 */
/* answers.c - tokens of several questions come mixed; people read them one after the other. */
#include "client/answers.h"

#include "client/figures.h"
#include "client/terminal.h"
#include "common/base/arena.h"
#include "common/rpc/rpc_message.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void answers_open(struct answers *a, const struct opt_list *questions)
{
    memset(a, 0, sizeof *a);
    a->count = questions->count > 0 ? questions->count : 1;
    a->list = mem_zero(a->count, sizeof *a->list);
    for (size_t i = 0; i < a->count; i++)
        a->list[i].question = questions->count > 0 ? questions->items[i] : "";
}

void answers_close(struct answers *a)
{
    for (size_t i = 0; i < a->count; i++) {
        text_fini(&a->list[i].text);
        token_list_fini(&a->list[i].tokens);
    }
    free(a->list);
    rpc_message_free((ProtobufCMessage *)a->last);
    memset(a, 0, sizeof *a);
}

static void take_compressed(struct answer *a, const Platen__V1__Compressed *c)
{
    a->decodes = true;
    a->compressions = c->compressions;
    a->held = c->held_rows != NULL;
    if (!a->held)
        return;
    a->held_min = c->held_rows->min;
    a->held_mean = c->held_rows->mean;
    a->held_max = c->held_rows->max;
}

/* Only events with a token or an end belong to a question; the others leave its index at 0. */
static enum status take_answer(struct answers *a, const Platen__V1__Event *e, struct err *err)
{
    struct answer *answer;

    if (e->question_index < 0 || (size_t)e->question_index >= a->count)
        return err_set(err, ST_EINTERNAL, "the server answered question %d of %zu", e->question_index, a->count);
    answer = &a->list[e->question_index];
    if (e->has_token_case == PLATEN__V1__EVENT__HAS_TOKEN_TOKEN_ID)
        token_list_add(&answer->tokens, e->token_id);
    text_add(&answer->text, (const char *)e->text.data, e->text.len);
    if (e->finish_reason[0])
        snprintf(answer->finish, sizeof answer->finish, "%s", e->finish_reason);
    if (e->compressed)
        take_compressed(answer, e->compressed);
    return ST_OK;
}

enum status answers_take(struct answers *a, Platen__V1__Event *event, struct err *err)
{
    enum status st = take_answer(a, event, err);

    if (st == ST_OK && event->figures && !a->last) {
        a->last = event;
        return ST_OK;
    }
    rpc_message_free((ProtobufCMessage *)event);
    return st;
}

enum status answers_stream(struct answers *a, struct err *err)
{
    while (a->shown < a->count) {
        const struct answer *answer = &a->list[a->shown];

        if (answer->tokens.count == 0 && !answer->finish[0])
            break;
        if (!a->begun) {
            terminal_clear();
            printf("%squestion: %s\nanswer: ", a->shown > 0 ? "\n" : "", answer->question);
            a->begun = true;
        }
        fwrite(text_str(&answer->text) + a->shown_bytes, 1, answer->text.bytes - a->shown_bytes, stdout);
        a->shown_bytes = answer->text.bytes;
        if (!answer->finish[0])
            break;
        putchar('\n');
        if (answer->held)
            printf("compressed %lld times while it was generated, then %lld to %lld rows per head, mean %.1f\n",
                   (long long)answer->compressions, (long long)answer->held_min, (long long)answer->held_max,
                   answer->held_mean);
        a->shown++;
        a->shown_bytes = 0;
        a->begun = false;
    }
    if (fflush(stdout) != 0 || ferror(stdout))
        return err_set(err, ST_EINTERNAL, "stdout: cannot write the answer");
    return ST_OK;
}

static void answer_json(const struct answer *answer, struct text *out)
{
    text_puts(out, "{\"question\":");
    text_json(out, answer->question, strlen(answer->question));
    text_puts(out, ",\"text\":");
    text_json(out, text_str(&answer->text), answer->text.bytes);
    text_puts(out, ",\"tokens\":[");
    for (size_t i = 0; i < answer->tokens.count; i++)
        text_printf(out, "%s%d", i > 0 ? "," : "", answer->tokens.ids[i]);
    text_printf(out, "],\"finish_reason\":\"%s\"", answer->finish);
    if (answer->decodes)
        text_printf(out, ",\"compressions\":%lld", (long long)answer->compressions);
    if (answer->held)
        text_printf(out, ",\"held_rows\":{\"min\":%lld,\"mean\":%.6f,\"max\":%lld}", (long long)answer->held_min,
                    answer->held_mean, (long long)answer->held_max);
    text_puts(out, "}");
}

void answers_json(const struct answers *a, struct text *out)
{
    text_puts(out, "{\"answers\":[");
    for (size_t i = 0; i < a->count; i++) {
        if (i > 0)
            text_puts(out, ",");
        answer_json(&a->list[i], out);
    }
    text_puts(out, "],");
    figures_json(out, a->last->figures);
    text_puts(out, "}");
}
