/* SPDX-License-Identifier: Apache-2.0 */
/* status.c - status codes as words and gRPC codes, and the one sentence that travels with a failure. */
#include "common/base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *status_word(enum status st)
{
    switch (st) {
#define STATUS(name, number, word, grpc, text) \
    case name:                                 \
        return word;
#include "common/base/status.def"
#undef STATUS
    }
    return "INTERNAL";
}

int status_grpc(enum status st)
{
    if (st == ST_AGAIN)
        return 13; /* "not yet" must never reach the wire: if it does, that is a fault of ours */
    switch (st) {
#define STATUS(name, number, word, grpc, text) \
    case name:                                 \
        return grpc;
#include "common/base/status.def"
#undef STATUS
    }
    return 13;
}

enum status status_from_grpc(int code)
{
    static const enum status all[] = {
#define STATUS(name, number, word, grpc, text) name,
#include "common/base/status.def"
#undef STATUS
    };

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i] != ST_AGAIN && status_grpc(all[i]) == code)
            return all[i];
    return ST_EINTERNAL;
}

/* Formats into text[ERR_TEXT_MAX]; a sentence that is too long ends at a whole character. */
__attribute__((format(printf, 2, 0))) static void sentence_format(char *text, const char *fmt, va_list ap)
{
    char whole[ERR_TEXT_MAX + 1]; /* one byte more than fits: tells whether the cut falls inside a character */
    int wanted = vsnprintf(whole, sizeof whole, fmt, ap);
    size_t cut = strnlen(whole, sizeof whole - 1);

    if (wanted >= ERR_TEXT_MAX)
        for (cut = ERR_TEXT_MAX - 1; cut > 0 && ((unsigned char)whole[cut] & 0xC0) == 0x80; cut--)
            ;
    memcpy(text, whole, cut);
    text[cut] = '\0';
}

enum status err_set(struct err *err, enum status st, const char *fmt, ...)
{
    va_list ap;

    if (!err || err->text[0])
        return st;
    va_start(ap, fmt);
    sentence_format(err->text, fmt, ap);
    va_end(ap);
    err->code = st;
    return st;
}

void err_prefix(struct err *err, const char *fmt, ...)
{
    char prefix[ERR_TEXT_MAX], old[ERR_TEXT_MAX];
    enum status st;
    va_list ap;

    if (!err || !err->text[0])
        return;
    va_start(ap, fmt);
    sentence_format(prefix, fmt, ap);
    va_end(ap);
    memcpy(old, err->text, sizeof old);
    st = err->code;
    err_clear(err);
    err_set(err, st, "%s: %s", prefix, old);
}

void err_clear(struct err *err)
{
    if (!err)
        return;
    err->code = ST_OK;
    err->text[0] = '\0';
}
