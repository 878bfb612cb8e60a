/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chat_family.c - which family's chat template is this, and what does it render for one user message?
 *
 * The hub's templates differ in blanks, quotes and in what they do with tools, but write their turns with literals that
 * are the family's own. A family is taken only when all of its marks are there; pieces that models of one family differ
 * in (a default system turn, a date, blanks around [INST]) are read from the template itself. Rendered as the reference
 * does: one user message, a generation prompt, no tools, thinking off.
 */
#include "common/model/chat_family.h"

#include "common/base/text.h"

#include <string.h>

static bool has(const char *text, const char *mark)
{
    return strstr(text, mark) != NULL;
}

/* Double quotes become single ones, and what a backslash stands for inside of texts (a newline, itself) is written out, so
 * that one literal is written one way. */
static const char *plain_quotes(const char *text, struct arena *arena)
{
    char *out = arena_strdup(arena, text);
    char *to = out;

    for (const char *at = text; *at; at++) {
        if (at[0] == '\\' && at[1] == 'n') {
            *to++ = '\n';
            at++;
        } else if (at[0] == '\\' && at[1] == '\\') {
            *to++ = '\\';
            at++;
        } else {
            *to++ = *at == '"' ? '\'' : *at;
        }
    }
    *to = 0;
    return out;
}

static const char *bos_if_asked(const char *t, const char *bos)
{
    return has(t, "bos_token") ? bos : "";
}

/* The default system turn, where it stands as one literal '<|im_start|>system\n...<|im_end|>\n'; "" where every such turn is
 * the user's own; NULL where there is one that this cannot read. */
static const char *default_system_turn(const char *t, struct arena *arena)
{
    static const char begin[] = "'<|im_start|>system\n", end[] = "<|im_end|>\n'";
    const char *found = "";

    for (const char *at = strstr(t, begin); at; at = strstr(at + 1, begin)) {
        const char *rest = at + sizeof begin - 1;
        const char *close = strchr(rest, '\''), *last = strstr(rest, end);
        if (rest[0] == '\'')
            continue;
        if (!close || !last || last + sizeof end - 2 != close)
            return NULL;
        found = arena_strndup(arena, at + 1, (size_t)(close - at - 1));
    }
    return found;
}

static bool is_smollm3(struct chat_shape *out, const char *t, const char *bos, struct arena *arena)
{
    if (!has(t, "Knowledge Cutoff Date: June 2025") || !has(t, "'Reasoning Mode: '") || !has(t, "<|im_start|>"))
        return false;
    *out = (struct chat_shape){
        .name = "smollm3",
        .prefix =
            arena_printf(arena, "%s<|im_start|>system\n## Metadata\n\nKnowledge Cutoff Date: June 2025\nToday Date: ",
                         bos_if_asked(t, bos)),
        .date_format = "%d %B %Y",
        .after_date = "\nReasoning Mode: /no_think\n\n## Custom Instructions\n\n"
                      "You are a helpful AI assistant named SmolLM, trained by Hugging Face.\n\n<|im_start|>user\n",
        .suffix = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n",
    };
    return true;
}

/* SmolLM2, Qwen2, Qwen2.5, Qwen3 and whoever writes ChatML. */
static bool is_chatml(struct chat_shape *out, const char *t, const char *bos, struct arena *arena)
{
    bool opens = has(t, "'<|im_start|>assistant\n");
    bool no_think = has(t, "enable_thinking") && has(t, "'<think>\n\n</think>\n\n'");
    bool think = has(t, "'<|im_start|>assistant\n<think>\n'");
    const char *system = default_system_turn(t, arena);

    if (!opens || !system || !has(t, "<|im_end|>") || !has(t, "'<|im_start|>' + message"))
        return false;
    *out = (struct chat_shape){
        .name = "chatml",
        .prefix = arena_printf(arena, "%s%s<|im_start|>user\n", bos_if_asked(t, bos), system),
        .suffix = no_think ? "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
                  : think  ? "<|im_end|>\n<|im_start|>assistant\n<think>\n"
                           : "<|im_end|>\n<|im_start|>assistant\n",
    };
    return true;
}

static bool is_llama3(struct chat_shape *out, const char *t, const char *bos, struct arena *arena)
{
    static const char user[] = "<|start_header_id|>user<|end_header_id|>\n\n";
    bool dated = has(t, "Cutting Knowledge Date: December 2023") && has(t, "'Today Date: ' + date_string");

    if (!has(t, "<|start_header_id|>") || !has(t, "<|eot_id|>") ||
        !has(t, "<|start_header_id|>assistant<|end_header_id|>\n\n"))
        return false;
    *out = (struct chat_shape){
        .name = "llama3",
        .prefix = arena_printf(arena, "%s%s", bos_if_asked(t, bos), user),
        .suffix = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        .trim = has(t, "| trim") || has(t, "|trim"),
    };
    if (!dated)
        return !has(t, "Today Date");
    out->prefix = arena_printf(arena,
                               "%s<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December "
                               "2023\nToday Date: ",
                               bos_if_asked(t, bos));
    out->date_format = has(t, "strftime_now") ? "%d %b %Y" : "26 Jul 2024";
    out->after_date = arena_printf(arena, "\n\n<|eot_id|>%s", user);
    return true;
}

static bool is_gemma(struct chat_shape *out, const char *t, const char *bos, struct arena *arena)
{
    if (!has(t, "<start_of_turn>") || !has(t, "<end_of_turn>\n") || !has(t, "<start_of_turn>model\n"))
        return false;
    *out = (struct chat_shape){
        .name = "gemma",
        .prefix = arena_printf(arena, "%s<start_of_turn>user\n", bos_if_asked(t, bos)),
        .suffix = "<end_of_turn>\n<start_of_turn>model\n",
        .trim = has(t, "| trim"),
    };
    return true;
}

/* Phi-3 and 3.5 write a newline after each mark, Phi-4-mini none. */
static bool is_phi3(struct chat_shape *out, const char *t, const char *bos, struct arena *arena)
{
    bool lines = has(t, "'<|assistant|>\n'") || has(t, "'<|assistant|>' + '\n'");
    bool known = has(t, "<|user|>") || has(t, "'<|' + message['role'] + '|>'");

    if (!known || !has(t, "<|end|>") || !has(t, "'<|assistant|>"))
        return false;
    *out = (struct chat_shape){
        .name = "phi3",
        .prefix = arena_printf(arena, "%s<|user|>%s", bos_if_asked(t, bos), lines ? "\n" : ""),
        .suffix = lines ? "<|end|>\n<|assistant|>\n" : "<|end|><|assistant|>",
    };
    return true;
}

/* Llama 2 and all of Mistral's: they differ in blanks, which change ids. */
static bool is_inst(struct chat_shape *out, const char *t, const char *bos, struct arena *arena)
{
    static const char *const opens[] = { "' [INST] '", "'[INST] '", "'[INST]'" };
    static const char *const closes[] = { "' [/INST]'", "'[/INST]'" };
    const char *open = NULL, *close = NULL;

    for (size_t i = 0; !open && i < sizeof opens / sizeof opens[0]; i++)
        open = has(t, opens[i]) ? opens[i] : NULL;
    for (size_t i = 0; !close && i < sizeof closes / sizeof closes[0]; i++)
        close = has(t, closes[i]) ? closes[i] : NULL;
    if (!open || !close || has(t, "[SYSTEM_PROMPT]"))
        return false;
    *out = (struct chat_shape){
        .name = "inst",
        .prefix = arena_printf(arena, "%s%.*s", bos_if_asked(t, bos), (int)strlen(open) - 2, open + 1),
        .suffix = arena_strndup(arena, close + 1, strlen(close) - 2),
        .trim = has(t, "content.strip()"),
    };
    return true;
}

bool chat_recognise(struct chat_shape *out, const char *template_text, const char *bos, struct arena *arena)
{
    const char *t = plain_quotes(template_text, arena);

    return is_smollm3(out, t, bos, arena) || is_chatml(out, t, bos, arena) || is_llama3(out, t, bos, arena) ||
           is_gemma(out, t, bos, arena) || is_phi3(out, t, bos, arena) || is_inst(out, t, bos, arena);
}
