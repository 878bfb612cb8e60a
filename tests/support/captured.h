/* SPDX-License-Identifier: Apache-2.0 */
/* captured.h - what is written to stderr between two calls: log lines, above all. For cmocka programs; one at a time. */
#ifndef PLATEN_TESTS_CAPTURED_H
#define PLATEN_TESTS_CAPTURED_H

#include <stdio.h>

struct capture {
    FILE *file;
    int before;
};

/* Puts stderr on a temporary file. */
struct capture capture_begin(void);

/* Puts stderr back; what was written meanwhile, of which 1 MiB is kept, valid until the next end. */
char *capture_end(struct capture c);

#endif
