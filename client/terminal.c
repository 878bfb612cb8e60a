/* SPDX-License-Identifier: Apache-2.0 */
/* terminal.c - "\r" + text + "clear to the end of the line". */
#include "client/terminal.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

void terminal_progress(const char *fmt, ...)
{
    va_list ap;

    if (!isatty(STDERR_FILENO))
        return;
    fputc('\r', stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputs("\033[K", stderr);
}

void terminal_clear(void)
{
    if (isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
}
