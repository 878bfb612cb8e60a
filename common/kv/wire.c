/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wire.c - checksums of what travels.
 *
 * XXH3 because it is faster than memory: the sum of a block costs less than its copy, so every byte can be proven on both
 * sides. It proves against accident (a bad wire, a slipped offset), not against an enemy; TLS does that.
 */
#include "common/kv/wire.h"

#include "common/base/arena.h"
#include "common/base/bytes.h"

#include <assert.h>
#include <stdlib.h>
#include <xxhash.h>

struct wire_sum {
    XXH3_state_t *state;
};

uint64_t wire_checksum(const void *data, size_t bytes)
{
    return XXH3_64bits(data, bytes);
}

uint64_t wire_checksum_layers(const uint64_t *checksums, size_t layers)
{
    struct wire_sum *sum = wire_sum_open();
    uint64_t value;

    for (size_t i = 0; i < layers; i++) {
        uint8_t le[8];

        store_u64(le, checksums[i]);
        wire_sum_add(sum, le, sizeof le);
    }
    value = wire_sum_value(sum);
    wire_sum_close(sum);
    return value;
}

struct wire_sum *wire_sum_open(void)
{
    struct wire_sum *s = mem_zero(1, sizeof *s);

    s->state = XXH3_createState();
    assert(s->state);
    wire_sum_reset(s);
    return s;
}

void wire_sum_reset(struct wire_sum *s)
{
    XXH3_64bits_reset(s->state);
}

void wire_sum_add(struct wire_sum *s, const void *data, size_t bytes)
{
    if (bytes > 0)
        XXH3_64bits_update(s->state, data, bytes);
}

uint64_t wire_sum_value(const struct wire_sum *s)
{
    return XXH3_64bits_digest(s->state);
}

void wire_sum_close(struct wire_sum *s)
{
    if (!s)
        return;
    XXH3_freeState(s->state);
    free(s);
}
