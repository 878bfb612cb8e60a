/* SPDX-License-Identifier: Apache-2.0 */
/* jsonfile.h - one JSON file of a model directory, read into jansson's tree; private to common/model. */
#ifndef PLATEN_MODEL_JSONFILE_H
#define PLATEN_MODEL_JSONFILE_H

#include "common/base/status.h"

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct json_t;

/* Parses text[0..bytes), which must be an object. ST_EINVAL gives line and column. The caller gives *out back with
 * json_decref. */
enum status json_parse(struct json_t **out, const char *text, size_t bytes, struct err *err);

/* The object in dir/name. ST_ENOTFOUND when there is no such file; sentences begin with the path. */
enum status json_read(struct json_t **out, const char *dir, const char *name, struct err *err);

/* The same, but *out is NULL and the status ST_OK when there is no such file. */
enum status json_read_optional(struct json_t **out, const char *dir, const char *name, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
