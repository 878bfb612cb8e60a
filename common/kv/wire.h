/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wire.h - what both ends of a transfer agree on: the version and the checksum. docs/WIRE.md tells the rest.
 *
 * A block's checksum is XXH3-64 (seed 0) of all of its bytes, padding included. The checksum of a whole context is XXH3-64
 * of its blocks' checksums, in order of layers, each as eight little-endian bytes.
 */
#ifndef PLATEN_KV_WIRE_H
#define PLATEN_KV_WIRE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Nodes with different versions refuse each other. */
enum { WIRE_VERSION = 1 };

/* The checksum of host bytes. */
uint64_t wire_checksum(const void *data, size_t bytes);

/* The checksum of a context from those of its `layers` blocks, in order of layers. */
uint64_t wire_checksum_layers(const uint64_t *checksums, size_t layers);

/* The same as wire_checksum, for bytes that come piece by piece. One allocation at open; owned by one thread. */
struct wire_sum;

struct wire_sum *wire_sum_open(void);
void wire_sum_reset(struct wire_sum *s);
void wire_sum_add(struct wire_sum *s, const void *data, size_t bytes);
uint64_t wire_sum_value(const struct wire_sum *s);
void wire_sum_close(struct wire_sum *s); /* NULL is fine */

#ifdef __cplusplus
}
#endif
#endif
