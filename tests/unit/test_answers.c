/* SPDX-License-Identifier: Apache-2.0 */
#include "client/answers.h"
#include "tests/support/cmocka_main.h"

#include <jansson.h>
#include <stdlib.h>

/* An event as it comes from the wire: packed and unpacked, so that it owns what it holds. */
static Platen__V1__Event *event_of(int32_t question, int32_t token, const char *text, const char *finish,
                                   Platen__V1__Figures *figures)
{
    Platen__V1__Event e = PLATEN__V1__EVENT__INIT;
    Platen__V1__Event *owned;
    uint8_t *bytes;
    size_t n;

    e.question_index = question;
    if (token >= 0) {
        e.has_token_case = PLATEN__V1__EVENT__HAS_TOKEN_TOKEN_ID;
        e.token_id = token;
    }
    e.text = (ProtobufCBinaryData){ strlen(text), (uint8_t *)text };
    e.finish_reason = (char *)finish;
    e.figures = figures;
    n = platen__v1__event__get_packed_size(&e);
    bytes = malloc(n + 1);
    platen__v1__event__pack(&e, bytes);
    owned = platen__v1__event__unpack(NULL, n, bytes);
    free(bytes);
    return owned;
}

static void take(struct answers *a, int32_t question, int32_t token, const char *text, const char *finish)
{
    assert_int_equal(answers_take(a, event_of(question, token, text, finish, NULL), NULL), ST_OK);
}

static void mixed_events_become_one_answer_per_question(void **state)
{
    const char *items[] = { "one?", "two \"?\"" };
    struct opt_list questions = { items, 2 };
    Platen__V1__Figures figures = PLATEN__V1__FIGURES__INIT;
    struct answers a;
    struct text out = { 0 };
    json_t *json, *second;

    (void)state;
    answers_open(&a, &questions);
    take(&a, 1, 7, "B", "");
    take(&a, 0, 5, "A", "");
    take(&a, 1, 8, "C\n", "");
    take(&a, 0, 2, "", "stop");
    take(&a, 1, -1, "", "length");
    figures.kept_bytes = 77;
    figures.transport = (char *)"grpc";
    assert_int_equal(answers_take(&a, event_of(0, -1, "", "", &figures), NULL), ST_OK);
    answers_json(&a, &out);
    json = json_loads(text_str(&out), 0, NULL);
    assert_non_null(json);
    second = json_array_get(json_object_get(json, "answers"), 1);
    assert_string_equal(json_string_value(json_object_get(second, "question")), "two \"?\"");
    assert_string_equal(json_string_value(json_object_get(second, "text")), "BC\n");
    assert_int_equal(json_array_size(json_object_get(second, "tokens")), 2);
    assert_string_equal(json_string_value(json_object_get(second, "finish_reason")), "length");
    assert_int_equal(json_integer_value(json_object_get(json, "kept_bytes")), 77);
    assert_string_equal(json_string_value(json_object_get(json, "transport")), "grpc");
    assert_true(json_is_object(json_object_get(json, "timings_ms")));
    json_decref(json);
    text_fini(&out);
    answers_close(&a);
}

static void no_question_is_one_empty_question(void **state)
{
    struct opt_list none = { NULL, 0 };
    struct answers a;

    (void)state;
    answers_open(&a, &none);
    assert_int_equal(a.count, 1);
    assert_string_equal(a.list[0].question, "");
    answers_close(&a);
}

static void an_event_of_a_question_that_was_not_asked_is_refused(void **state)
{
    struct opt_list none = { NULL, 0 };
    struct answers a;
    struct err err = { 0 };

    (void)state;
    answers_open(&a, &none);
    assert_int_equal(answers_take(&a, event_of(1, 5, "x", "", NULL), &err), ST_EINTERNAL);
    assert_int_equal(answers_take(&a, event_of(-1, 5, "x", "", NULL), &err), ST_EINTERNAL);
    assert_int_equal(a.list[0].tokens.count, 0);
    answers_close(&a);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mixed_events_become_one_answer_per_question),
        cmocka_unit_test(no_question_is_one_empty_question),
        cmocka_unit_test(an_event_of_a_question_that_was_not_asked_is_refused),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
