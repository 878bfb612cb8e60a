/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.c - time=2026-01-31T23:59:59.123Z level=info event=committed request=… layers=30 …
 *
 * The line is put together on the stack, without allocation, and leaves with one write(2): lines of several threads do
 * not mix. A line that is too long is cut; control bytes become blanks, so one event is always one line.
 *
 * A reader of stderr that has stopped stops nobody here: once a line has waited PATIENCE_MS for room, it and those after it
 * are dropped, until there is room again; then a line says how many.
 */
#include "common/base/log.h"
#include "common/base/clock.h"

#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES_MAX = 2048, LOST_BYTES_MAX = 256, PATIENCE_MS = 100 };

/* A pipe says POLLOUT while so many bytes fit. */
_Static_assert(LINE_BYTES_MAX + LOST_BYTES_MAX <= PIPE_BUF,
               "a line, and the one before it about lost ones, never wait");

static const char *const words[] = { "error", "warn", "info", "debug" };

/* The program's one switch; relaxed, because nothing else is ordered by it. */
static _Atomic int level_max = LOG_INFO;

void log_set_level(enum log_level level)
{
    atomic_store_explicit(&level_max, (int)level, memory_order_relaxed);
}

int log_level_parse(const char *word)
{
    for (int i = 0; i <= LOG_DEBUG; i++)
        if (strcmp(word, words[i]) == 0)
            return i;
    return -1;
}

/* Writes the words that every line begins with; returns their bytes. */
static size_t line_begin(char *line, size_t room, enum log_level level, const char *event)
{
    int64_t now_ns = clock_wall_ns();
    time_t seconds = (time_t)(now_ns / NS_PER_S);
    struct tm utc;
    size_t at;

    gmtime_r(&seconds, &utc);
    at = strftime(line, room, "time=%Y-%m-%dT%H:%M:%S", &utc);
    at += (size_t)snprintf(line + at, room - at, ".%03dZ level=%s event=%.64s", (int)(now_ns % NS_PER_S / NS_PER_MS),
                           words[level], event);
    return at;
}

const char *log_quote(struct log_text *q, const char *text)
{
    static const char more[] = "...\"";
    const size_t room = sizeof q->at - sizeof more - 2; /* of what goes before `more`; a character takes two at most */
    size_t n = 0;

    q->at[n++] = '"';
    for (; *text && n < room; text++) {
        if (*text == '"' || *text == '\\')
            q->at[n++] = '\\';
        q->at[n++] = *text;
    }
    strcpy(q->at + n, *text ? more : more + 3);
    return q->at;
}

/* ---- out ----------------------------------------------------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of what follows, and of looking for room and writing */
static bool stuck;
static long long lost;

static bool room(void)
{
    struct pollfd out = { .fd = STDERR_FILENO, .events = POLLOUT };

    return poll(&out, 1, stuck ? 0 : PATIENCE_MS) > 0; /* closed: the write fails at once */
}

static void put(const char *line, size_t bytes)
{
    if (write(STDERR_FILENO, line, bytes) < 0)
        return; /* nobody is left to tell */
}

static void put_lost(void)
{
    char line[LOST_BYTES_MAX];
    size_t at = line_begin(line, sizeof line, LOG_WARN, "log-lines-lost");

    at += (size_t)snprintf(line + at, sizeof line - at, " lines=%lld\n", lost);
    put(line, at);
    lost = 0;
}

static void put_or_drop(const char *line, size_t bytes)
{
    pthread_mutex_lock(&lock);
    stuck = !room();
    if (stuck)
        lost++;
    if (!stuck && lost > 0)
        put_lost();
    if (!stuck)
        put(line, bytes);
    pthread_mutex_unlock(&lock);
}

void log_event(enum log_level level, const char *event, const char *fmt, ...)
{
    char line[LINE_BYTES_MAX];
    size_t at;
    va_list ap;

    if ((int)level > atomic_load_explicit(&level_max, memory_order_relaxed))
        return;
    at = line_begin(line, sizeof line - 1, level, event);
    if (fmt && fmt[0]) {
        line[at++] = ' ';
        va_start(ap, fmt);
        vsnprintf(line + at, sizeof line - 1 - at, fmt, ap);
        va_end(ap);
        at += strlen(line + at);
    }
    for (size_t i = 0; i < at; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = ' ';
    line[at++] = '\n';
    put_or_drop(line, at);
}
