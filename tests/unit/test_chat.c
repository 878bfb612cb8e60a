/* SPDX-License-Identifier: Apache-2.0 */
/* What stands around one user message, family by family; templates written in the families' own literals. */
#include "common/model/chat.h"
#include "common/model/chat_family.h"
#include "common/model/checkpoint.h"
#include "tests/support/model_dir.h"

#define LLAMA "tests/golden/families/llama/"
#define TURN "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
#define CHATML(system, generation) \
    "{% for message in messages %}" system TURN "{% endfor %}{% if add_generation_prompt %}" generation "{% endif %}"
#define PLAIN_GENERATION "{{ '<|im_start|>assistant\\n' }}"
#define HEADER "<|start_header_id|>"

static void assert_around(const char *template_text, const char *name, const char *prefix, const char *suffix,
                          bool trim)
{
    struct arena arena = { 0 };
    struct chat_shape shape;

    if (!chat_recognise(&shape, template_text, "<s>", &arena))
        fail_msg("%s is not recognised", name);
    assert_string_equal(shape.name, name);
    assert_string_equal(shape.prefix, prefix);
    assert_string_equal(shape.suffix, suffix);
    assert_int_equal(shape.trim, trim);
    arena_fini(&arena);
}

static void chatml_adds_the_default_system_turn_that_its_template_has(void **state)
{
    (void)state;
    assert_around(CHATML("", PLAIN_GENERATION), "chatml", "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n",
                  false);
    assert_around(
        CHATML("{% if loop.first %}{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}{% endif %}", PLAIN_GENERATION),
        "chatml", "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n",
        false);
    assert_around(CHATML("{{ '<|im_start|>system\\nAnswer in \\\\boxed{}.<|im_end|>\\n' }}", PLAIN_GENERATION),
                  "chatml", "<|im_start|>system\nAnswer in \\boxed{}.<|im_end|>\n<|im_start|>user\n",
                  "<|im_end|>\n<|im_start|>assistant\n", false);
    assert_around(CHATML("{{ '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}", PLAIN_GENERATION),
                  "chatml", "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", false);
    assert_around("{{ bos_token }}" CHATML("", PLAIN_GENERATION), "chatml", "<s><|im_start|>user\n",
                  "<|im_end|>\n<|im_start|>assistant\n", false);
}

static void thinking_is_switched_off_where_a_template_can(void **state)
{
    (void)state;
    assert_around(
        CHATML("", PLAIN_GENERATION "{% if enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"),
        "chatml", "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", false);
    assert_around(CHATML("", "{{ '<|im_start|>assistant\\n<think>\\n' }}"), "chatml", "<|im_start|>user\n",
                  "<|im_end|>\n<|im_start|>assistant\n<think>\n", false);
}

static void llama3_with_and_without_its_dated_system_turn(void **state)
{
    static const char turns[] = "{% for m in messages %}{{ '" HEADER
                                "' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}"
                                "{% endfor %}{{ '" HEADER "assistant<|end_header_id|>\\n\\n' }}";
    struct arena arena = { 0 };
    struct chat_shape shape;
    const char *dated = arena_printf(
        &arena,
        "{{ bos_token }}{%% set date_string = strftime_now(\"%%d %%b %%Y\") %%}{{ \"Cutting Knowledge Date: "
        "December 2023\\n\" }}{{ \"Today Date: \" + date_string + \"\\n\\n\" }}%s",
        turns);

    (void)state;
    assert_around(turns, "llama3", HEADER "user<|end_header_id|>\n\n",
                  "<|eot_id|>" HEADER "assistant<|end_header_id|>\n\n", true);
    assert_true(chat_recognise(&shape, dated, "<s>", &arena));
    assert_string_equal(shape.prefix,
                        "<s>" HEADER "system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: ");
    assert_string_equal(shape.date_format, "%d %b %Y");
    assert_string_equal(shape.after_date, "\n\n<|eot_id|>" HEADER "user<|end_header_id|>\n\n");
    arena_fini(&arena);
}

static void gemma_phi_and_mistral_are_known(void **state)
{
    (void)state;
    assert_around("{{ bos_token }}{{ '<start_of_turn>' + role + '\\n' }}{{ content | trim }}{{ '<end_of_turn>\\n' }}{{ "
                  "'<start_of_turn>model\\n' }}",
                  "gemma", "<s><start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", true);
    assert_around("{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}{{ '<|assistant|>\\n' }}", "phi3", "<|user|>\n",
                  "<|end|>\n<|assistant|>\n", false);
    assert_around("{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{{ '<|assistant|>' }}", "phi3",
                  "<|user|>", "<|end|><|assistant|>", false);
    assert_around("{{ bos_token }}{{ '[INST] ' + message['content'] + ' [/INST]' }}", "inst", "<s>[INST] ", " [/INST]",
                  false);
    assert_around("{{- bos_token }}{{- \"[INST] \" + message[\"content\"] + \"[/INST]\" }}", "inst", "<s>[INST] ",
                  "[/INST]", false);
    assert_around("{{- bos_token }}{{- \"[INST]\" + message[\"content\"] + \"[/INST]\" }}", "inst", "<s>[INST]",
                  "[/INST]", false);
}

static void unknown_templates_are_never_guessed(void **state)
{
    static const char *const unknown[] = {
        "",
        "{{ messages }}",
        "User: {{ m.content }}\nAssistant:",
        "<|im_start|> alone",
        CHATML("", "{{ '<|im_start|>robot\\n' }}"),
        CHATML("{{ \"<|im_start|>system\\nIt's me.<|im_end|>\\n\" }}", PLAIN_GENERATION),
        "[SYSTEM_PROMPT]'[INST]''[/INST]'",
    };
    struct arena arena = { 0 };
    struct chat_shape shape;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(unknown); i++)
        if (chat_recognise(&shape, unknown[i], "", &arena))
            fail_msg("taken for %s: %s", shape.name, unknown[i]);
    arena_fini(&arena);
}

/* A copy of the tiny llama, with one more file. */
static const char *model_with(struct arena *arena, const char *name, const char *text)
{
    const char *dir = dir_new(arena);

    dir_copy(dir, "config.json", LLAMA "config.json");
    dir_copy(dir, "model.safetensors", LLAMA "model.safetensors");
    if (name)
        dir_puts(dir, name, text);
    return dir;
}

static enum status open_chat(struct chat **chat, const char *dir, const char *file, struct err *err)
{
    struct checkpoint *c = NULL;
    enum status st = checkpoint_open(&c, dir, err);

    if (st == ST_OK)
        st = chat_open(chat, c, file, err);
    checkpoint_close(c);
    return st;
}

static void assert_context(const struct chat *chat, const char *context, const char *want, size_t hashes)
{
    struct text out = { 0 };
    struct tok_span special;

    assert_int_equal(chat_context(chat, context, strlen(context), &out, &special), hashes);
    assert_string_equal(text_str(&out), want);
    assert_int_equal(special.from, 0);
    text_fini(&out);
}

static void assert_question(const struct chat *chat, size_t hashes, const char *question, const char *prefix,
                            const char *want)
{
    struct text out = { 0 };
    struct tok_span special;

    chat_question(chat, hashes, question, strlen(question), prefix, strlen(prefix), &out, &special);
    assert_string_equal(text_str(&out), want);
    assert_int_equal(special.from, strlen(question) + hashes);
    text_fini(&out);
}

static void hashes_at_the_end_of_a_context_move_to_the_suffix(void **state)
{
    struct arena arena = { 0 };
    const char *dir = model_with(&arena, "chat_template.jinja", CHATML("", PLAIN_GENERATION));
    struct chat *chat = NULL;
    struct err err = { 0 };

    (void)state;
    if (open_chat(&chat, dir, NULL, &err) != ST_OK)
        fail_msg("%s", err.text);
    assert_context(chat, "end ###", "<|im_start|>user\nend ", 3);
    assert_context(chat, "##", "<|im_start|>user\n", 2);
    assert_context(chat, "# title", "<|im_start|>user\n# title", 0);
    assert_question(chat, 3, "Why?", "Because", "Why?###<|im_end|>\n<|im_start|>assistant\nBecause");
    assert_question(chat, 0, "", "", "<|im_end|>\n<|im_start|>assistant\n");
    chat_close(chat);
    dir_remove(dir);
    arena_fini(&arena);
}

static void without_a_template_the_first_token_and_a_newline_stand(void **state)
{
    struct arena arena = { 0 };
    const char *dir = model_with(&arena, "tokenizer_config.json", "{\"bos_token\":{\"content\":\"<s>\"}}");
    struct chat *chat = NULL;
    struct err err = { 0 };

    (void)state;
    if (open_chat(&chat, dir, NULL, &err) != ST_OK)
        fail_msg("%s", err.text);
    assert_string_equal(chat_name(chat), "none");
    assert_context(chat, "text #", "<s>text #", 0);
    assert_question(chat, 0, "Why?", "", "Why?\n");
    chat_close(chat);
    dir_remove(dir);
    arena_fini(&arena);
}

static void an_unknown_template_is_refused_with_the_way_out(void **state)
{
    struct arena arena = { 0 };
    const char *dir = model_with(&arena, "tokenizer_config.json",
                                 "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"x\"},"
                                 "{\"name\":\"default\",\"template\":\"USER {{ x }}\"}]}");
    const char *hand = arena_printf(&arena, "%s/hand.json", dir);
    struct chat *chat = NULL;
    struct err err = { 0 };

    (void)state;
    assert_int_equal(open_chat(&chat, dir, NULL, &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "--chat-template FILE"));
    dir_puts(dir, "hand.json", "{\"prefix\":\"<u>\",\"suffix\":\"</u>\\n\"}");
    err_clear(&err);
    if (open_chat(&chat, dir, hand, &err) != ST_OK)
        fail_msg("%s", err.text);
    assert_string_equal(chat_name(chat), "file");
    assert_context(chat, "x#", "<u>x", 1);
    assert_question(chat, 1, "q", "", "q#</u>\n");
    chat_close(chat);
    dir_puts(dir, "hand.json", "{\"prefix\":1}");
    assert_int_equal(open_chat(&chat, dir, hand, &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "hand.json"));
    dir_remove(dir);
    arena_fini(&arena);
}

static void default_model_renders_as_the_reference(void **state)
{
    struct chat *chat = NULL;
    struct err err = { 0 };

    (void)state;
    if (!file_exists(PLATEN_DEFAULT_MODEL))
        skip();
    if (open_chat(&chat, PLATEN_DEFAULT_MODEL, NULL, &err) != ST_OK)
        fail_msg("%s", err.text);
    assert_context(
        chat, "Hi.",
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi.",
        0);
    assert_question(chat, 0, "Who?", "", "Who?<|im_end|>\n<|im_start|>assistant\n");
    chat_close(chat);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chatml_adds_the_default_system_turn_that_its_template_has),
        cmocka_unit_test(thinking_is_switched_off_where_a_template_can),
        cmocka_unit_test(llama3_with_and_without_its_dated_system_turn),
        cmocka_unit_test(gemma_phi_and_mistral_are_known),
        cmocka_unit_test(unknown_templates_are_never_guessed),
        cmocka_unit_test(hashes_at_the_end_of_a_context_move_to_the_suffix),
        cmocka_unit_test(without_a_template_the_first_token_and_a_newline_stand),
        cmocka_unit_test(an_unknown_template_is_refused_with_the_way_out),
        cmocka_unit_test(default_model_renders_as_the_reference),
    };
    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
