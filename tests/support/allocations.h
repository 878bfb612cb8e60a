/* SPDX-License-Identifier: Apache-2.0 */
/* allocations.h - how often malloc and its kin were called in this program, by whomever: a program that links
 * allocations.c has them counted. Sanitizers have their own, which are left alone. */
#ifndef PLATEN_TESTS_ALLOCATIONS_H
#define PLATEN_TESTS_ALLOCATIONS_H

#include <stdint.h>

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define ALLOCATIONS_ARE_COUNTED 1
#else
#define ALLOCATIONS_ARE_COUNTED 0
#endif

/* Any thread. */
int32_t allocations_so_far(void);

#endif
