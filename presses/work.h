/* SPDX-License-Identifier: Apache-2.0 */
/* work.h - scratch that presses ask for while they run. Inside presses/ only. */
#ifndef PLATEN_PRESSES_WORK_H
#define PLATEN_PRESSES_WORK_H

#include "presses/press.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { WORK_BUFFERS = 24 };

/* Parameters that went up, by where they lie on the host. */
struct work_file {
    const void *host;
    void *device;
};

/* Buffers in the order in which they are asked for since the last reset: the same press asks for the same ones at every
 * layer, so after the first layer nothing is allocated. Zero-initialise. owned by: engine thread */
struct press_work {
    struct backend *be;
    void *device[WORK_BUFFERS], *host[WORK_BUFFERS];
    uint64_t device_bytes[WORK_BUFFERS], host_bytes[WORK_BUFFERS];
    int32_t device_used, host_used;
    bool keeps_files; /* parameters of files go up once, until work_fini */
    struct work_file *file;
    int32_t files;
};

void work_fini(struct press_work *w);

/* Marks and returns: what was asked for since the mark may be given out again. */
struct press_scratch work_mark(const struct press_work *w);
void work_back(struct press_work *w, struct press_scratch mark);

#ifdef __cplusplus
}
#endif
#endif
