/* SPDX-License-Identifier: Apache-2.0 */
/* small_files.h - parameter files for the small layer (small_layer.h): qfilter, stats, kvzap-linear, kvzap-mlp, fast, duo,
 * lukv, by the formula of tests/golden/press_vectors.json. */
#ifndef PLATEN_TESTS_SMALL_FILES_H
#define PLATEN_TESTS_SMALL_FILES_H

#include "presses/files.h"

/* Writes them into a new folder under /tmp; removes them and it. */
void small_files_write(void);
void small_files_remove(void);

/* All of them as entries under these names; the caller closes. */
struct press_files *small_files(const struct hparams *hp);

#endif
