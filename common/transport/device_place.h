/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_place.h - one CUDA device as transports between devices see it, and how two processes tell whether they share a
 * machine or even a device.
 */
#ifndef PLATEN_TRANSPORT_DEVICE_PLACE_H
#define PLATEN_TRANSPORT_DEVICE_PLACE_H

#include "common/base/bytes.h"
#include "common/base/status.h"
#include "common/base/text.h"
#include "common/transport/nccl_table.h"
#include "common/transport/transport.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { PROCESS_BYTES = 16, MACHINE_BYTES = 36, DEVICE_WHO_BYTES = PROCESS_BYTES + MACHINE_BYTES + CUDA_UUID_BYTES };

/* Who a station is; on the wire byte by byte in this order. */
struct device_who {
    uint8_t process[PROCESS_BYTES]; /* random, new for every station */
    uint8_t machine[MACHINE_BYTES]; /* the kernel's boot id */
    struct cuda_uuid device;
};

struct device_place {
    struct cuda_table own; /* where the caller brought none */
    const struct cuda_table *cuda;
    int device;
    void *context; /* the device's primary one, counted */
    struct device_who who;
};

/* ST_EUNAVAILABLE: no such device here, with the sentence. */
enum status device_place_open(struct device_place *p, const struct station_config *config, struct err *err);
void device_place_close(struct device_place *p); /* zeroed is fine */

void device_who_write(struct text *out, const struct device_who *who);
void device_who_read(struct device_who *out, struct cursor *from);
bool device_who_same_machine(const struct device_who *a, const struct device_who *b);
bool device_who_same_device(const struct device_who *a, const struct device_who *b);

#ifdef __cplusplus
}
#endif
#endif
