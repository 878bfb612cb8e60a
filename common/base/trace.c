/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trace.c - a ring of spans, and its JSON.
 *
 * A slot is free of tears: its number is 0 while it is written and the span's own number + 1 after, and whoever reads looks
 * at the number before and after. Fields are atomics because the next writer may be there already.
 *
 * Perfetto wants the spans of one track not to overlap. What runs for several orders at once (send, receive) therefore has
 * lanes: a span goes into the first lane that is free when it begins.
 */
#include "common/base/trace.h"

#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "common/base/text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LANES_MAX = 32 };

struct span {
    uint64_t number, order, amount;
    int64_t begin_ns, end_ns;
    int32_t layer, what;
};

struct trace {
    const char *path;
    struct text name;
    uint64_t next; /* atomic: number of the next span */
    struct span spans[TRACE_SPANS];
};

static const struct {
    const char *word, *unit;
} kinds[] = {
#define TRACE(name, word, unit) { word, unit },
#include "common/base/trace.def"
#undef TRACE
};

enum status trace_open(struct trace **out, const char *path, struct err *err)
{
    struct stat there;
    FILE *f;

    *out = NULL;
    if (!path)
        return ST_OK;
    if (stat(path, &there) == 0 && !S_ISREG(there.st_mode)) /* the written file is renamed to it */
        return err_set(err, ST_EINVAL, "--trace %s: is there and no regular file", path);
    f = fopen(path, "w");
    if (!f)
        return err_set(err, ST_EINVAL, "--trace %s: %s", path, strerror(errno));
    fclose(f);
    *out = mem_zero(1, sizeof **out);
    (*out)->path = path;
    return ST_OK;
}

void trace_close(struct trace *t)
{
    if (!t)
        return;
    text_fini(&t->name);
    free(t);
}

void trace_name(struct trace *t, const char *program, const char *address)
{
    if (!t)
        return;
    text_clear(&t->name);
    text_printf(&t->name, "%s %s", program, address);
}

uint64_t trace_order(const char *request_id)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325); /* FNV-1a */

    for (; *request_id; request_id++)
        hash = (hash ^ (uint8_t)*request_id) * UINT64_C(0x100000001b3);
    return hash ? hash : 1;
}

/* hot */
void trace_add(struct trace *t, enum trace_what what, uint64_t order, int32_t layer, int64_t begin_ns, int64_t end_ns,
               uint64_t amount)
{
    struct span *s;
    uint64_t number;

    if (!t)
        return;
    number = __atomic_fetch_add(&t->next, 1, __ATOMIC_RELAXED);
    s = &t->spans[number % TRACE_SPANS];
    __atomic_store_n(&s->number, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&s->order, order, __ATOMIC_RELEASE); /* release: not before the 0 */
    __atomic_store_n(&s->amount, amount, __ATOMIC_RELEASE);
    __atomic_store_n(&s->begin_ns, begin_ns, __ATOMIC_RELEASE);
    __atomic_store_n(&s->end_ns, end_ns, __ATOMIC_RELEASE);
    __atomic_store_n(&s->layer, layer, __ATOMIC_RELEASE);
    __atomic_store_n(&s->what, (int32_t)what, __ATOMIC_RELEASE);
    __atomic_store_n(&s->number, number + 1, __ATOMIC_RELEASE);
}

/* ---- writing --------------------------------------------------------------------------------------------------- */

/* False: the slot is empty, or is being written. */
static bool span_read(const struct span *s, struct span *out)
{
    out->number = __atomic_load_n(&s->number, __ATOMIC_ACQUIRE);
    out->order = __atomic_load_n(&s->order, __ATOMIC_ACQUIRE);
    out->amount = __atomic_load_n(&s->amount, __ATOMIC_ACQUIRE);
    out->begin_ns = __atomic_load_n(&s->begin_ns, __ATOMIC_ACQUIRE);
    out->end_ns = __atomic_load_n(&s->end_ns, __ATOMIC_ACQUIRE);
    out->layer = __atomic_load_n(&s->layer, __ATOMIC_ACQUIRE);
    out->what = __atomic_load_n(&s->what, __ATOMIC_ACQUIRE);
    return out->number != 0 && out->number == __atomic_load_n(&s->number, __ATOMIC_RELAXED);
}

static int by_track_then_begin(const void *a_, const void *b_)
{
    const struct span *a = a_, *b = b_;

    if (a->what != b->what)
        return a->what < b->what ? -1 : 1;
    return a->begin_ns < b->begin_ns ? -1 : a->begin_ns > b->begin_ns;
}

static size_t collect(const struct trace *t, struct span *out)
{
    size_t count = 0;

    for (size_t i = 0; i < TRACE_SPANS; i++)
        count += span_read(&t->spans[i], &out[count]);
    qsort(out, count, sizeof *out, by_track_then_begin);
    return count;
}

/* The first lane that is free at `begin_ns`; where none is, that which is free first. */
static int lane_take(int64_t free_ns[LANES_MAX], const struct span *s)
{
    int best = 0;

    for (int i = 0; i < LANES_MAX; i++) {
        if (free_ns[i] <= s->begin_ns) {
            best = i;
            break;
        }
        best = free_ns[i] < free_ns[best] ? i : best;
    }
    free_ns[best] = s->end_ns;
    return best;
}

static void write_track(FILE *f, int pid, int what, int lane)
{
    const int tid = what * LANES_MAX + lane + 1;

    fprintf(f, ",\n{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":%d,\"tid\":%d,\"args\":{\"name\":\"%s", pid, tid,
            kinds[what].word);
    if (lane > 0)
        fprintf(f, " %d", lane + 1);
    fprintf(f,
            "\"}},\n{\"ph\":\"M\",\"name\":\"thread_sort_index\",\"pid\":%d,\"tid\":%d,\"args\":{\"sort_index\":%d}}",
            pid, tid, tid);
}

static void write_span(FILE *f, int pid, int lane, const struct span *s)
{
    fprintf(f, ",\n{\"ph\":\"X\",\"name\":\"%s", kinds[s->what].word);
    if (s->layer != TRACE_NO_LAYER)
        fprintf(f, " %d", s->layer);
    fprintf(f, "\",\"cat\":\"%s\",\"pid\":%d,\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f,\"args\":{", kinds[s->what].word, pid,
            s->what * LANES_MAX + lane + 1, (double)s->begin_ns / 1e3, (double)(s->end_ns - s->begin_ns) / 1e3);
    if (s->order)
        fprintf(f, "\"order\":\"%016llx\",", (unsigned long long)s->order);
    if (s->layer != TRACE_NO_LAYER)
        fprintf(f, "\"layer\":%d,", s->layer);
    fprintf(f, "\"%s\":%llu}}", kinds[s->what].unit, (unsigned long long)s->amount);
}

static void write_spans(FILE *f, int pid, const struct span *spans, size_t count)
{
    int64_t free_ns[LANES_MAX] = { 0 };
    int lanes = 0;

    for (size_t i = 0; i < count; i++) {
        int lane;

        if (i == 0 || spans[i].what != spans[i - 1].what) {
            memset(free_ns, 0, sizeof free_ns);
            lanes = 0;
        }
        lane = lane_take(free_ns, &spans[i]);
        for (; lanes <= lane; lanes++)
            write_track(f, pid, spans[i].what, lanes);
        write_span(f, pid, lane, &spans[i]);
    }
}

enum status trace_write(struct trace *t, struct err *err)
{
    struct text part = { 0 }, name = { 0 };
    struct span *spans;
    FILE *f;
    bool whole = false;

    if (!t)
        return ST_OK;
    text_printf(&part, "%s.part", t->path);
    text_json(&name, text_str(&t->name), t->name.bytes);
    f = fopen(text_str(&part), "w");
    if (f) {
        spans = mem_zero(TRACE_SPANS, sizeof *spans);
        fprintf(f,
                "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":%d,"
                "\"args\":"
                "{\"name\":%s}}",
                (int)getpid(), text_str(&name));
        write_spans(f, (int)getpid(), spans, collect(t, spans));
        fputs("\n]}\n", f);
        free(spans);
        whole = ferror(f) == 0;
        whole = fclose(f) == 0 && whole && rename(text_str(&part), t->path) == 0;
    }
    text_fini(&name);
    text_fini(&part);
    return whole ? ST_OK : err_set(err, ST_EINTERNAL, "%s: %s", t->path, strerror(errno));
}
