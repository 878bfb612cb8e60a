/* SPDX-License-Identifier: Apache-2.0 */
/* terminal.h - one line of progress on stderr, only where stderr is a terminal. */
#ifndef PLATEN_CLIENT_TERMINAL_H
#define PLATEN_CLIENT_TERMINAL_H

#ifdef __cplusplus
extern "C" {
#endif

/* Shows `text` (printf style) in place of what the line showed before. Call
 * terminal_clear before anything else is printed. */
void terminal_progress(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void terminal_clear(void);

#ifdef __cplusplus
}
#endif
#endif
