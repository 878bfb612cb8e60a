/* SPDX-License-Identifier: Apache-2.0 */
/*
 * files.h - learned parameters of presses (filters, gates, head scores), named by the operator.
 *
 *      [press-files]
 *      qfilter-llama = /srv/platen/llama_qfilt.safetensors        request: `qfilter:file=qfilter-llama | ratio=0.5`
 *
 * Requests name the entry, never a path. A file is read and its shapes compared with the model when a press first opens
 * it: nodes do that at start (press_files_load), so that a wrong file stops the node and not a request.
 */
#ifndef PLATEN_PRESSES_FILES_H
#define PLATEN_PRESSES_FILES_H

#include "common/base/status.h"
#include "kernels/weights.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct press;
struct press_files;

/* hp: the model that files must fit; kept by reference. paths: texts may name paths too (`platen inspect` only). */
enum status press_files_open(struct press_files **out, const struct hparams *hp, bool paths, struct err *err);
void press_files_close(struct press_files *f); /* NULL is fine */

/* One line of the section. ST_EINVAL: the name is taken, or is no word; no path. */
enum status press_files_add(struct press_files *f, const char *name, const char *path, struct err *err);

/* Reads every entry for each press that can use it. ST_EINVAL: none can, with each one's reason. Waits for the disk. */
enum status press_files_load(struct press_files *f, struct err *err);

/* The parameters that `press` finds in the file called `name`; read at first use (which waits for the disk), kept.
 * ST_EINVAL: no such entry (the sentence lists them), a path where none may be named, or a file
 * that does not fit, and why. Thread safe. */
enum status press_files_find(struct press_files *f, const char *name, const struct press *press, const void **out,
                             struct err *err);

#ifdef __cplusplus
}
#endif
#endif
