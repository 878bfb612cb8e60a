/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmocka_main.h - the main of a test program: all promises, or the one named on the command line.
 *
 *      int main(int argc, char **argv)
 *      {
 *          return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
 *      }
 *
 * A program that includes this gets one ctest entry per promise (platen_test in deploy/cmake/Layer.cmake).
 */
#ifndef PLATEN_TESTS_CMOCKA_MAIN_H
#define PLATEN_TESTS_CMOCKA_MAIN_H

#include "common/base/bytes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* Runs the `count` promises of `tests`, or those called argv[1..]. Exit code: how many were broken (at most 100); 2 for
 * a name that is none of them, since cmocka alone would run nothing and call that a success. */
static inline int cmocka_main(int argc, char **argv, const struct CMUnitTest *tests, size_t count,
                              CMFixtureFunction setup, CMFixtureFunction teardown)
{
    int broken = 0;

    if (argc < 2)
        broken = _cmocka_run_group_tests(argv[0], tests, count, setup, teardown);
    for (int i = 1; i < argc; i++) {
        size_t at = 0;

        while (at < count && strcmp(tests[at].name, argv[i]) != 0)
            at++;
        if (at == count) {
            fprintf(stderr, "%s: no promise is called %s\n", argv[0], argv[i]);
            return 2;
        }
        broken += _cmocka_run_group_tests(argv[i], &tests[at], 1, setup, teardown);
    }
    return broken > 100 ? 100 : broken;
}

#endif
