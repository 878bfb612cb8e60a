/* SPDX-License-Identifier: Apache-2.0 */
/* sequence.c - the words of how an answer ended. */
#include "decode-node/sequence.h"

const char *finish_word(enum finish f)
{
    switch (f) {
    case FINISH_STOP:
        return "stop";
    case FINISH_LENGTH:
        return "length";
    case FINISH_CANCELLED:
        return "cancelled";
    case FINISH_DEADLINE:
        return "deadline";
    default:
        return "";
    }
}
