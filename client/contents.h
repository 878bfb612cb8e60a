/* SPDX-License-Identifier: Apache-2.0 */
/* contents.h - all bytes of a file, a pipe or a terminal. */
#ifndef PLATEN_CLIENT_CONTENTS_H
#define PLATEN_CLIENT_CONTENTS_H

#include "common/base/status.h"
#include "common/base/text.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Appends what `path` holds ("-": stdin) to *out, NUL bytes too. Read, not mapped: the file may be a pipe, and may change
 * meanwhile. ST_ENOTFOUND: no such file; ST_EINVAL: a directory, not readable; each names the path. Waits for the input. */
enum status contents_read(struct text *out, const char *path, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
