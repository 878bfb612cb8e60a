/* SPDX-License-Identifier: Apache-2.0 */
/* rpc_token.h - the file that holds a token; the same rule for who asks for it and for who sends it. */
#ifndef PLATEN_RPC_TOKEN_H
#define PLATEN_RPC_TOKEN_H

#include "common/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { RPC_TOKEN_MAX = 1024 }; /* bytes */

/* The text of a token file without the newlines at its end, 1 to RPC_TOKEN_MAX printable ASCII characters; the caller
 * frees *out, which is NULL without a path. The file may be a pipe; waits 5 s for its text. ST_ENOTFOUND: no such file;
 * ST_EINVAL: not readable, empty, too long, another character; ST_EDEADLINE: nobody writes. Each names the path, none
 * shows the text. */
enum status rpc_token_read(char **out, const char *path, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
