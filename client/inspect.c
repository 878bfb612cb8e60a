/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inspect.c - platen inspect: runs a model and a press here, and shows which positions every layer and head keeps.
 *
 *   texts ─▶ ids, as a node would make them ─▶ prefill, one layer at a time ─▶ press ─▶ kept positions ─▶ JSON | HTML | lines
 */
#include "client/command.h"
#include "client/kept.h"
#include "client/local.h"
#include "client/sources.h"
#include "client/terminal.h"

#include "common/base/bytes.h"
#include "prefill-node/prompt.h"
#include "presses/files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct inspect_options {
    bool help;
    const char *model, *press, *chat_template, *backend, *html;
    struct source_options source;
    struct opt_list plugins;
    int64_t dtype; /* index into "f32|bf16" */
    int64_t threads, logits, max_context_length;
    bool raw, show_tokens, scores, json;
};

#define AT(field) offsetof(struct inspect_options, field)

static const struct opt rows[] = {
    HELP_ROW,
    { "model", OPT_TEXT, AT(model), 0, 0, NULL, NULL, "PATH",
      "directory of a model as the hub gives it, or a GGUF file", true },
    SOURCE_ROWS(struct inspect_options, source),
    { "press", OPT_TEXT, AT(press), 0, 0, NULL, NULL, "TEXT", "the press; parameter files may be named by path", true },
    { "dtype", OPT_WORD, AT(dtype), 0, 0, "f32|bf16", "f32", NULL, "type of products and of the cache", false },
    { "raw", OPT_FLAG, AT(raw), 0, 0, NULL, "off", NULL, "no chat template: the tokens of the text alone", false },
    { "chat-template", OPT_TEXT, AT(chat_template), 0, 0, NULL, NULL, "FILE",
      "JSON with `prefix` and `suffix`, instead of the model's template", false },
    { "max-context-length", OPT_INT, AT(max_context_length), 1, 1e15, NULL, NULL, "N",
      "keeps the first N tokens of a longer context", false },
    { "show-tokens", OPT_FLAG, AT(show_tokens), 0, 0, NULL, "off", NULL, "adds the context's token ids", false },
    { "scores", OPT_FLAG, AT(scores), 0, 0, NULL, "off", NULL,
      "adds the scores that the last choice of a layer went by, as it saw them: one per head and token, or null",
      false },
    { "logits", OPT_INT, AT(logits), 0, 1e9, NULL, "0", "N",
      "adds the N largest logits after the last token of the plain prefill", false },
    { "json", OPT_FLAG, AT(json), 0, 0, NULL, "off", NULL, "prints one object", false },
    { "html", OPT_TEXT, AT(html), 0, 0, NULL, NULL, "OUT", "writes one self-contained page with a heat map", false },
    { "backend", OPT_TEXT, AT(backend), 0, 0, NULL, "cpu", "NAME", "cpu, cpu:ISA, or cuda[:N]", false },
    { "threads", OPT_INT, AT(threads), 0, 1024, NULL, "0", "N", "threads of the cpu back end; 0: all cores", false },
    { "press-plugin", OPT_LIST, AT(plugins), 0, 0, NULL, NULL, "FILE", "loads a shared object with presses", false },
};

static const struct opt_set options = { rows, ARRAY_LEN(rows) };

static enum status check(const void *options_, struct err *err)
{
    const struct inspect_options *o = options_;

    if (o->json && o->html)
        return err_set(err, ST_EINVAL, "give one of --json and --html, not both");
    return sources_check(&o->source, false, err);
}

/* One inspection under way. */
struct inspection {
    const struct inspect_options *o;
    struct local local;
    struct press_files *files;
    struct chain *chain;
    struct token_list ids; /* context, then query */
    int64_t query_tokens;
    struct prompt_texts texts;
    struct token_list suffix; /* template tokens after the user's text */
    uint64_t dropped_bytes;
    int64_t truncated_tokens;
    struct kept kept;
    float *logits;
};

static enum status take_ids(struct inspection *in, const struct source *s, const char *what, struct err *err)
{
    for (size_t i = 0; i < s->tokens; i++) {
        if (s->token[i] >= in->local.hp.vocab)
            return err_set(err, ST_EINVAL, "%s: id %d at %zu, allowed are 0 to %d", what, s->token[i], i,
                           in->local.hp.vocab - 1);
        token_list_add(&in->ids, s->token[i]);
    }
    return ST_OK;
}

static enum status take_context(struct inspection *in, const struct source *s, struct err *err)
{
    struct text framed = { 0 };
    struct tok_span span;
    enum status st;

    if (s->tokens > 0)
        return take_ids(in, s, "context", err);
    if (s->text.bytes == 0) /* as a node does: what stands around it is not worth a look */
        return err_set(err, ST_EINVAL, "the context is empty");
    if (in->o->raw)
        text_add(&framed, text_str(&s->text), s->text.bytes);
    else
        chat_context(in->local.chat, text_str(&s->text), s->text.bytes, &framed, &span);
    st =
        tokenizer_encode(in->local.tokenizer, text_str(&framed), framed.bytes, NULL, &in->ids, &in->dropped_bytes, err);
    text_fini(&framed);
    if (st != ST_OK)
        err_prefix(err, "context");
    return st;
}

static enum status take_query(struct inspection *in, const struct source *s, struct err *err)
{
    size_t before = in->ids.count;
    enum status st = ST_OK;

    if (s->tokens > 0)
        st = take_ids(in, s, "query", err);
    else if (s->text.bytes > 0)
        st = tokenizer_encode(in->local.tokenizer, text_str(&s->text), s->text.bytes, NULL, &in->ids,
                              &in->dropped_bytes, err);
    in->query_tokens = (int64_t)(in->ids.count - before);
    return st;
}

static enum status take_sources(struct inspection *in, struct err *err)
{
    struct source context, query;
    enum status st = sources_open(&context, &query, &in->o->source, err);

    if (st != ST_OK)
        return st;
    st = take_context(in, &context, err);
    if (st == ST_OK && in->o->max_context_length > 0 && (int64_t)in->ids.count > in->o->max_context_length) {
        in->truncated_tokens = (int64_t)in->ids.count - in->o->max_context_length;
        in->ids.count = (size_t)in->o->max_context_length;
    }
    if (st == ST_OK)
        st = take_query(in, &query, err);
    if (st == ST_OK && in->ids.count == 0)
        st = err_set(err, ST_EINVAL, "the context is empty");
    if (st == ST_OK && (int64_t)in->ids.count > in->local.hp.max_positions)
        st = err_set(err, ST_ERANGE, "the context has %zu tokens, the model has %lld positions", in->ids.count,
                     (long long)in->local.hp.max_positions);
    source_close(&context);
    source_close(&query);
    return st;
}

/* What stands around the user's text, for presses that make the model repeat it. */
static enum status take_prompt(struct inspection *in, struct err *err)
{
    struct text text = { 0 };
    struct token_list prefix = { 0 };
    struct tok_span span;
    enum status st = prompt_texts_open(&in->texts, in->local.tokenizer, err);

    if (st == ST_OK && in->local.chat) {
        chat_context(in->local.chat, "", 0, &text, &span);
        st = tokenizer_encode(in->local.tokenizer, text_str(&text), text.bytes, NULL, &prefix, NULL, err);
        text_clear(&text);
        chat_question(in->local.chat, 0, "", 0, "", 0, &text, &span);
    }
    if (st == ST_OK && in->local.chat)
        st = tokenizer_encode(in->local.tokenizer, text_str(&text), text.bytes, NULL, &in->suffix, NULL, err);
    if (st == ST_OK)
        in->local.prompt = prompt_of(&in->texts, (int64_t)prefix.count, in->suffix.ids, (int64_t)in->suffix.count);
    token_list_fini(&prefix);
    text_fini(&text);
    return st;
}

/* Everything that can be wrong without the weights. */
static enum status prepare(struct inspection *in, const struct local_options *local, struct err *err)
{
    enum status st = local_open_model(&in->local, local, err);

    for (size_t i = 0; i < in->o->plugins.count && st == ST_OK; i++)
        st = press_plugin_open(in->o->plugins.items[i], err);
    if (st == ST_OK)
        st = press_files_open(&in->files, &in->local.hp, true, err);
    if (st == ST_OK)
        st = chain_parse(&in->chain, in->o->press, strlen(in->o->press), in->files, err);
    if (st == ST_OK && !in->o->raw && !in->o->source.context_tokens)
        st = chat_open(&in->local.chat, in->local.checkpoint, in->o->chat_template, err);
    if (st == ST_OK)
        st = take_prompt(in, err);
    return st == ST_OK ? take_sources(in, err) : st;
}

static enum status on_layer(void *ctx, const struct press_layer *layer, const struct press_result *result,
                            struct err *err)
{
    struct inspection *in = ctx;
    enum status st;

    terminal_progress("layer %d of %d", layer->layer + 1, in->local.hp.layers);
    if (!result) {
        kept_window(&in->kept, layer->layer, in->local.hp.window[layer->layer]);
        return ST_OK;
    }
    st = kept_take(&in->kept, layer->layer, in->local.press, result, err);
    if (st == ST_OK && in->o->scores)
        kept_scores(&in->kept, layer->layer, in->local.be, result);
    return st;
}

/* Said rather than passed over. */
static void tell_decode_part(const struct chain *chain)
{
    struct chain_decode part;

    if (chain_decode_part(chain, &part))
        fprintf(stderr, "platen: inspect presses the context; the decode part works while answers are generated\n");
}

static enum status compute(struct inspection *in, const struct local_options *local, struct err *err)
{
    int64_t tokens = (int64_t)in->ids.count;
    enum status st = local_open_device(&in->local, local, tokens, 1, err);

    if (st == ST_OK)
        st = chain_check(in->chain, &in->local.hp, in->local.be->ops, tokens, in->query_tokens, err);
    if (st != ST_OK)
        return st;
    tell_decode_part(in->chain);
    kept_open(&in->kept, in->local.hp.layers, in->local.hp.kv_heads, tokens);
    if (in->o->logits > 0)
        in->logits = mem_zero((size_t)in->local.hp.vocab, sizeof *in->logits);
    st = local_prefill(&in->local, in->ids.ids, tokens, in->query_tokens, in->chain, on_layer, in, in->logits, NULL,
                       err);
    terminal_clear();
    return st;
}

static enum status show(const struct inspection *in, struct err *err)
{
    struct kept_report report = {
        .kept = &in->kept,
        .model = checkpoint_name(in->local.checkpoint),
        .press = chain_text(in->chain),
        .ids = &in->ids,
        .tokenizer = in->local.tokenizer,
        .query_tokens = in->query_tokens,
        .dropped_bytes = (int64_t)in->dropped_bytes,
        .truncated_tokens = in->truncated_tokens,
        .show_ids = in->o->show_tokens,
        .logits = in->logits,
        .logit_count = in->o->logits < in->local.hp.vocab ? (int32_t)in->o->logits : in->local.hp.vocab,
        .vocab = in->local.hp.vocab,
    };

    if (in->o->html)
        return kept_page(&report, in->o->html, err);
    if (in->o->json)
        kept_json(&report);
    else
        kept_lines(&report);
    return ST_OK;
}

static enum status run(const void *options_, struct arena *arena, struct err *err)
{
    struct inspection in = { .o = options_ };
    struct local_options local = { .model = in.o->model,
                                   .backend = in.o->backend,
                                   .dtype = in.o->dtype == 1 ? DT_BF16 : DT_F32,
                                   .threads = (int32_t)in.o->threads };
    enum status st = prepare(&in, &local, err);

    (void)arena;
    if (st == ST_OK)
        st = compute(&in, &local, err);
    if (st == ST_OK)
        st = show(&in, err);
    free(in.logits);
    kept_close(&in.kept);
    prompt_texts_close(&in.texts);
    token_list_fini(&in.suffix);
    token_list_fini(&in.ids);
    local_close(&in.local);
    chain_close(in.chain);
    press_files_close(in.files);
    return st;
}

const struct command command_inspect = {
    .name = "inspect",
    .summary = "runs a model and a press here and shows the kept positions",
    .usage = "--model PATH (--context TEXT | --context-file FILE | --context-tokens FILE) --press TEXT [--json | "
             "--html OUT]",
    .options = &options,
    .options_bytes = sizeof(struct inspect_options),
    .check = check,
    .run = run,
};
