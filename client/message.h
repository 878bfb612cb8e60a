/* SPDX-License-Identifier: Apache-2.0 */
/* message.h - options as fields of a request. Everything is borrowed. */
#ifndef PLATEN_CLIENT_MESSAGE_H
#define PLATEN_CLIENT_MESSAGE_H

#include "common/base/text.h"

#include <protobuf-c/protobuf-c.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

static inline ProtobufCBinaryData message_bytes(const char *text, size_t bytes)
{
    ProtobufCBinaryData b = { bytes, (uint8_t *)text };
    return b;
}

/* A text that may not have been given. */
static inline ProtobufCBinaryData message_text(const char *text)
{
    return message_bytes(text, text ? strlen(text) : 0);
}

/* protobuf-c's fields are not const, though it does not write to them. */
static inline char *message_word(const char *text)
{
    return (char *)(text ? text : "");
}

#ifdef __cplusplus
}
#endif
#endif
