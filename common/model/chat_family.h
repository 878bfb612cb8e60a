/* SPDX-License-Identifier: Apache-2.0 */
/* chat_family.h - recognising a chat template; private to common/model. */
#ifndef PLATEN_MODEL_CHAT_FAMILY_H
#define PLATEN_MODEL_CHAT_FAMILY_H

#include "common/base/arena.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a template renders around the content of one user message. Texts in the arena given to chat_recognise, or static. */
struct chat_shape {
    const char *name;
    const char *prefix;
    const char *date_format; /* strftime; today's date and then after_date follow the prefix; NULL: nothing follows */
    const char *after_date;
    const char *suffix;
    bool trim; /* white space at the content's beginning goes */
};

/* True when the template is one whose rendering is known. `bos` is the text of the beginning-of-text token ("" without). */
bool chat_recognise(struct chat_shape *out, const char *template_text, const char *bos, struct arena *arena);

#ifdef __cplusplus
}
#endif
#endif
