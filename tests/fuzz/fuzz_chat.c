/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_chat.c - a chat template from anywhere: recognised or not, never read past its end. */
#include "common/model/chat_family.h"

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct arena arena = { 0 };
    struct chat_shape shape;

    if (chat_recognise(&shape, arena_strndup(&arena, (const char *)data, bytes), "<s>", &arena))
        assert(shape.prefix && shape.suffix && (!shape.date_format || shape.after_date));
    arena_fini(&arena);
    return 0;
}
