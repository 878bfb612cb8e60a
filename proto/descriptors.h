/* SPDX-License-Identifier: Apache-2.0 */
/* descriptors.h - every .proto file of this folder as protoc's FileDescriptorSet, inside the program (reflection). */
#ifndef PLATEN_PROTO_DESCRIPTORS_H
#define PLATEN_PROTO_DESCRIPTORS_H

#ifdef __cplusplus
extern "C" {
#endif

extern const unsigned char proto_descriptors[];
extern const unsigned char proto_descriptors_end[];

#ifdef __cplusplus
}
#endif
#endif
