/* SPDX-License-Identifier: Apache-2.0 */
/* small_vectors.c - what every test of press_vectors.json opens. */
#include "tests/support/small_vectors.h"

#include <stdio.h>

bool small_vectors_open(json_t **doc, struct backend **be)
{
    const struct backend_config config = { .dtype = DT_F32, .threads = 2, .memory_fraction = 0.5, .rows_max = 64 };
    json_error_t error;
    struct err err = { 0 };

    *doc = json_load_file("tests/golden/press_vectors.json", 0, &error);
    if (*doc && backend_open(be, "cpu", &config, &err) == ST_OK)
        return true;
    fprintf(stderr, "press_vectors.json: %s%s\n", *doc ? "" : error.text, err.text);
    return false;
}

void small_vectors_close(json_t *doc, struct backend *be)
{
    backend_close(be);
    json_decref(doc);
}
