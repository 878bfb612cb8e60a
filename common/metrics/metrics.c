/* SPDX-License-Identifier: Apache-2.0 */
/*
 * metrics.c - the table of metrics and its text form.
 *
 * A value is a double in an atomic 64-bit word: counters stay exact to 2^53 (nine petabytes), and seconds need no
 * second type. Adding is a compare-and-swap loop; metrics are changed some hundred times a second, not some million.
 * Readers see each word whole; a histogram printed while it is changed may be one observation ahead in one of its rows.
 *
 * https://prometheus.io/docs/instrumenting/exposition_formats/
 */
#include "common/metrics/metrics.h"

#include "common/base/arena.h"

#include <assert.h>
#include <dirent.h>
#include <malloc.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum metric_kind { COUNTER, GAUGE, GAUGE_READ, HISTOGRAM };

struct metric {
    enum metric_kind kind;
    const char *name, *labels, *help;
    _Atomic uint64_t bits; /* the value; of a histogram the sum */
    double (*read)(void *arg);
    void *arg;
    const double *bounds;
    size_t bound_count;
    _Atomic uint64_t *buckets; /* [bound_count + 1], each for itself, the last beyond all bounds */
};

/* owned by: main; rows are added by one thread before others start */
struct metrics {
    struct metric *rows;
    size_t count, capacity;
};

const double metric_seconds[14] = { 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30, 60 };

struct metrics *metrics_open(size_t capacity)
{
    struct metrics *m = (struct metrics *)mem_zero(1, sizeof(*m));

    m->rows = (struct metric *)mem_zero(capacity, sizeof(*m->rows));
    m->capacity = capacity;
    return m;
}

void metrics_close(struct metrics *m)
{
    if (m == NULL)
        return;
    for (size_t i = 0; i < m->count; i++)
        free(m->rows[i].buckets);
    free(m->rows);
    free(m);
}

/* The same name with the same labels twice, or rows of one name with others between them. */
static bool misplaced(const struct metrics *m, const char *name, const char *labels)
{
    for (size_t i = 0; i < m->count; i++) {
        const struct metric *x = &m->rows[i];

        if (strcmp(x->name, name) != 0)
            continue;
        if (strcmp(m->rows[m->count - 1].name, name) != 0)
            return true;
        if (strcmp(x->labels, labels) == 0)
            return true;
    }
    return false;
}

static struct metric *row_add(struct metrics *m, enum metric_kind kind, const char *name, const char *labels,
                              const char *help)
{
    struct metric *x;

    labels = labels != NULL ? labels : "";
    assert(m->count < m->capacity && !misplaced(m, name, labels));
    x = &m->rows[m->count++];
    x->kind = kind;
    x->name = name;
    x->labels = labels;
    x->help = help;
    return x;
}

struct metric *metrics_counter(struct metrics *m, const char *name, const char *labels, const char *help)
{
    return row_add(m, COUNTER, name, labels, help);
}

struct metric *metrics_gauge(struct metrics *m, const char *name, const char *labels, const char *help)
{
    return row_add(m, GAUGE, name, labels, help);
}

struct metric *metrics_gauge_read(struct metrics *m, const char *name, const char *labels, const char *help,
                                  double (*read)(void *arg), void *arg)
{
    struct metric *x = row_add(m, GAUGE_READ, name, labels, help);

    x->read = read;
    x->arg = arg;
    return x;
}

struct metric *metrics_histogram(struct metrics *m, const char *name, const char *labels, const char *help,
                                 const double *bounds, size_t count)
{
    struct metric *x = row_add(m, HISTOGRAM, name, labels, help);

    assert(count >= 1 && count <= METRIC_BOUNDS_MAX);
    x->bounds = bounds;
    x->bound_count = count;
    x->buckets = (_Atomic uint64_t *)mem_zero(count + 1, sizeof(*x->buckets));
    return x;
}

static double from_bits(uint64_t bits)
{
    double value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

static uint64_t to_bits(double value)
{
    uint64_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

/* hot. Relaxed everywhere: a metric orders nothing but itself. */
void metric_add(struct metric *x, double by)
{
    uint64_t old;

    if (x == NULL)
        return;
    assert(x->kind != COUNTER || by >= 0);
    old = atomic_load_explicit(&x->bits, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&x->bits, &old, to_bits(from_bits(old) + by), memory_order_relaxed,
                                                  memory_order_relaxed))
        ;
}

void metric_set(struct metric *x, double to)
{
    if (x == NULL)
        return;
    assert(x->kind == GAUGE);
    atomic_store_explicit(&x->bits, to_bits(to), memory_order_relaxed);
}

void metric_observe(struct metric *x, double value)
{
    size_t i = 0;

    if (x == NULL)
        return;
    assert(x->kind == HISTOGRAM);
    while (i < x->bound_count && value > x->bounds[i])
        i++;
    atomic_fetch_add_explicit(&x->buckets[i], 1, memory_order_relaxed);
    metric_add(x, value);
}

double metric_value(const struct metric *x)
{
    if (x->kind == GAUGE_READ)
        return x->read(x->arg);
    return from_bits(atomic_load_explicit(&((struct metric *)x)->bits, memory_order_relaxed));
}

/* As few digits as give the same number again. */
static void print_number(struct text *out, double value)
{
    char digits[40];

    if (!isfinite(value)) {
        text_puts(out, isnan(value) ? "NaN" : value > 0 ? "+Inf" : "-Inf");
        return;
    }
    snprintf(digits, sizeof(digits), "%.15g", value);
    if (strtod(digits, NULL) != value)
        snprintf(digits, sizeof(digits), "%.17g", value);
    text_puts(out, digits);
}

static void print_row(struct text *out, const char *name, const char *suffix, const char *labels, const char *le,
                      double value)
{
    text_printf(out, "%s%s", name, suffix);
    if (labels[0] != '\0' || le != NULL)
        text_printf(out, "{%s%s%s%s%s}", labels, labels[0] != '\0' && le != NULL ? "," : "", le != NULL ? "le=\"" : "",
                    le != NULL ? le : "", le != NULL ? "\"" : "");
    text_puts(out, " ");
    print_number(out, value);
    text_puts(out, "\n");
}

static void print_histogram(struct text *out, const struct metric *x)
{
    struct text le = { 0 };
    uint64_t total = 0;

    for (size_t i = 0; i <= x->bound_count; i++) {
        total += atomic_load_explicit(&x->buckets[i], memory_order_relaxed);
        text_clear(&le);
        print_number(&le, i < x->bound_count ? x->bounds[i] : INFINITY);
        print_row(out, x->name, "_bucket", x->labels, text_str(&le), (double)total);
    }
    print_row(out, x->name, "_sum", x->labels, NULL, metric_value(x));
    print_row(out, x->name, "_count", x->labels, NULL, (double)total);
    text_fini(&le);
}

static void print_heading(struct text *out, const char *name, const char *help, const char *type)
{
    text_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void print_process_row(struct text *out, const char *name, const char *help, const char *type, double value)
{
    print_heading(out, name, help, type);
    print_row(out, name, "", "", NULL, value);
}

static size_t folder_entries(const char *path)
{
    DIR *dir = opendir(path);
    size_t count = 0;

    if (dir == NULL)
        return 0;
    for (const struct dirent *e; (e = readdir(dir)) != NULL;)
        count += e->d_name[0] != '.';
    closedir(dir);
    return count;
}

/* The second number of /proc/self/statm. */
static long resident_pages(void)
{
    FILE *f = fopen("/proc/self/statm", "re");
    char line[200] = "";
    const char *second;

    if (f == NULL)
        return 0;
    second = fgets(line, sizeof(line), f) != NULL ? strchr(line, ' ') : NULL;
    fclose(f);
    return second != NULL ? strtol(second, NULL, 10) : 0;
}

/* What is allocated and not yet freed. Resident memory also holds what is kept to be used again, and so shows a leak late. */
static size_t heap_bytes(void)
{
    const struct mallinfo2 m = mallinfo2();

    return m.uordblks + m.hblkhd;
}

static void print_process(struct text *out)
{
    struct timespec cpu;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    print_process_row(out, "process_cpu_seconds_total", "CPU time of all threads", "counter",
                      (double)cpu.tv_sec + (double)cpu.tv_nsec * 1e-9);
    print_process_row(out, "process_resident_memory_bytes", "resident memory", "gauge",
                      (double)resident_pages() * (double)sysconf(_SC_PAGESIZE));
    print_process_row(out, "process_heap_bytes", "heap memory in use", "gauge", (double)heap_bytes());
    print_process_row(out, "process_open_fds", "open descriptors", "gauge", (double)folder_entries("/proc/self/fd"));
    print_process_row(out, "process_threads", "threads", "gauge", (double)folder_entries("/proc/self/task"));
}

void metrics_print(const struct metrics *m, struct text *out)
{
    static const char *const types[] = { "counter", "gauge", "gauge", "histogram" };

    for (size_t i = 0; i < m->count; i++) {
        const struct metric *x = &m->rows[i];

        if (i == 0 || strcmp(x->name, x[-1].name) != 0)
            print_heading(out, x->name, x->help, types[x->kind]);
        if (x->kind == HISTOGRAM)
            print_histogram(out, x);
        else
            print_row(out, x->name, "", x->labels, NULL, metric_value(x));
    }
    print_process(out);
}
