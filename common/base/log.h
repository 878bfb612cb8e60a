/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.h - one line of key=value on stderr: time, level, event word, then what the caller gives.
 *
 *   log_event(LOG_INFO, "committed", "request=%s layers=%d rows=%lld ms=%.1f", ...)
 *   log_event(LOG_WARN, "lost", "request=%s why=%s", id, log_quote(&why, err.text))
 *
 * Never a prompt, a token text or a key. Every number has its unit in its key. Writes with one write(2), so lines of
 * several threads do not mix; waits a tenth of a second at most for a reader that has stopped. Only programs and nodes
 * log; library layers do not.
 */
#ifndef PLATEN_BASE_LOG_H
#define PLATEN_BASE_LOG_H

#ifdef __cplusplus
extern "C" {
#endif

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Set once in main, before threads start. Default: LOG_INFO. */
void log_set_level(enum log_level level);
int log_level_parse(const char *word); /* "error" "warn" "info" "debug" -> level, else -1 */

/* A text of many words as one value: in double quotes, with a \ before each " and \; one that is too long ends in `...`. */
enum { LOG_TEXT_BYTES_MAX = 1024 };

struct log_text {
    char at[LOG_TEXT_BYTES_MAX];
};

/* Writes `text` to `q` and returns q->at. `text` is borrowed. */
const char *log_quote(struct log_text *q, const char *text);

void log_event(enum log_level level, const char *event, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#ifdef __cplusplus
}
#endif
#endif
