/* SPDX-License-Identifier: Apache-2.0 */
/* small_vectors.h - the vectors about the small layer, and the back end that they are held against. */
#ifndef PLATEN_TESTS_SMALL_VECTORS_H
#define PLATEN_TESTS_SMALL_VECTORS_H

#include "kernels/backend.h"

#include <jansson.h>
#include <stdbool.h>

/* tests/golden/press_vectors.json and the CPU in f32 with two threads. False: not there; what is wrong is printed. */
bool small_vectors_open(json_t **doc, struct backend **be);
void small_vectors_close(json_t *doc, struct backend *be);

#endif
