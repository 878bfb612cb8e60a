/* SPDX-License-Identifier: Apache-2.0 */
/*
 * status.h - what a function returns, and the sentence that goes with it.
 *
 * The first function that knows what is wrong writes the sentence into the caller's `struct err`; those above only
 * pass the code on; only a program's main or a node's request end prints it, once.
 */
#ifndef PLATEN_BASE_STATUS_H
#define PLATEN_BASE_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

enum status {
#define STATUS(name, number, word, grpc, text) name = number,
#include "common/base/status.def"
#undef STATUS
};

enum { ERR_TEXT_MAX = 4096 };

/* The sentence of the first failure. Zero-initialise it: `struct err err = { 0 }` (C++: `= {}`). Owned by the caller. */
struct err {
    enum status code;
    char text[ERR_TEXT_MAX];
};

/* "INVALID_ARGUMENT" for ST_EINVAL. Static text; never NULL. */
const char *status_word(enum status st);

/* The gRPC code (0..16) of a status. ST_AGAIN has none and gives 13. */
int status_grpc(enum status st);

/* The status of a gRPC code; a code this program does not use (2 UNKNOWN, 10 ABORTED, ...) gives ST_EINTERNAL. */
enum status status_from_grpc(int code);

/* Writes the sentence (printf style, cut at ERR_TEXT_MAX - 1 bytes on a UTF-8 boundary) and returns `st`, so that
 * `return err_set(err, ST_EINVAL, "...")` is the whole failure path. `err` may be NULL: only the code goes up. An err
 * that already holds a sentence keeps it: the first one who knew is right. */
enum status err_set(struct err *err, enum status st, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " in front of the sentence that is already there (for file names, request stages). No-op if empty. */
void err_prefix(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Forgets the sentence, for a retry. */
void err_clear(struct err *err);

#ifdef __cplusplus
}
#endif
#endif
