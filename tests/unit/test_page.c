/* SPDX-License-Identifier: Apache-2.0 */
/* test_page.c - the page, asked over a real socket. */
#include "tests/support/cmocka_main.h"

#include "common/metrics/page.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static int port_of(const struct page *p)
{
    return atoi(strrchr(page_address(p), ':') + 1);
}

/* Sends `request`; the socket that it was sent on. */
static int send_to(int port, const char *request)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(write(fd, request, strlen(request)), (ssize_t)strlen(request));
    return fd;
}

/* The whole answer; closes the socket. */
static void answer_of(int fd, char *answer, size_t room)
{
    size_t have = 0;
    ssize_t got;

    while ((got = read(fd, answer + have, room - 1 - have)) > 0)
        have += (size_t)got;
    answer[have] = '\0';
    close(fd);
}

static void ask(int port, const char *request, char *answer, size_t room)
{
    answer_of(send_to(port, request), answer, room);
}

static void the_page_shows_the_metrics(void **state)
{
    struct metrics *m = metrics_open(4);
    struct metric *x = metrics_counter(m, "orders_total", NULL, "orders");
    struct page *p = NULL;
    char answer[8192];

    (void)state;
    metric_add(x, 3);
    assert_int_equal(page_open(&p, m, "127.0.0.1", 0, NULL), ST_OK);
    assert_int_equal(page_start(p, NULL), ST_OK);
    assert_memory_equal(page_address(p), "127.0.0.1:", 10);
    ask(port_of(p), "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", answer, sizeof(answer));
    assert_memory_equal(answer, "HTTP/1.1 200", 12);
    assert_non_null(strstr(answer, "text/plain; version=0.0.4"));
    assert_non_null(strstr(answer, "\norders_total 3\n"));
    metric_add(x, 1);
    ask(port_of(p), "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", answer, sizeof(answer));
    assert_non_null(strstr(answer, "\norders_total 4\n"));
    page_close(p);
    page_close(NULL);
    metrics_close(m);
}

static void other_pages_and_methods_are_refused(void **state)
{
    struct metrics *m = metrics_open(4);
    struct page *p = NULL;
    char answer[8192];

    (void)state;
    assert_int_equal(page_open(&p, m, "localhost", 0, NULL), ST_OK);
    page_close(p);
    assert_int_equal(page_open(&p, m, "127.0.0.1", 0, NULL), ST_OK);
    assert_int_equal(page_start(p, NULL), ST_OK);
    ask(port_of(p), "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", answer, sizeof(answer));
    assert_memory_equal(answer, "HTTP/1.1 404", 12);
    ask(port_of(p), "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc", answer,
        sizeof(answer));
    assert_memory_equal(answer, "HTTP/1.1 405", 12);
    ask(port_of(p), "HEAD /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", answer, sizeof(answer));
    assert_memory_equal(answer, "HTTP/1.1 200", 12);
    assert_null(strstr(answer, "process_"));
    page_close(p);
    metrics_close(m);
}

static void a_port_in_use_is_refused_by_name(void **state)
{
    struct metrics *m = metrics_open(4);
    struct page *p = NULL, *second = NULL;
    struct err err = { 0 };

    (void)state;
    assert_int_equal(page_open(&p, m, "127.0.0.1", 0, NULL), ST_OK);
    assert_int_equal(page_open(&second, m, "127.0.0.1", port_of(p), &err), ST_EUNAVAILABLE);
    assert_null(second);
    assert_non_null(strstr(err.text, page_address(p)));
    assert_non_null(strstr(err.text, "in use"));
    err_clear(&err);
    assert_int_equal(page_open(&second, m, "no.such.host.invalid", 1, &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "no.such.host.invalid"));
    page_close(p);
    metrics_close(m);
}

static double count_reading(void *arg)
{
    return __atomic_add_fetch((int *)arg, 1, __ATOMIC_RELAXED);
}

/* What a gauge reads may not be there yet while a node starts, and no longer while it ends. */
static void gauges_are_read_between_start_and_close(void **state)
{
    struct metrics *m = metrics_open(4);
    struct page *p = NULL;
    char answer[8192];
    int readings = 0, early;

    (void)state;
    metrics_gauge_read(m, "orders_queued", NULL, "orders", count_reading, &readings);
    assert_int_equal(page_open(&p, m, "127.0.0.1", 0, NULL), ST_OK);
    early = send_to(port_of(p), "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    usleep(50000);
    assert_int_equal(__atomic_load_n(&readings, __ATOMIC_RELAXED), 0);
    assert_int_equal(page_start(p, NULL), ST_OK);
    answer_of(early, answer, sizeof(answer));
    assert_non_null(strstr(answer, "\norders_queued 1\n"));
    page_close(p);
    assert_int_equal(readings, 1);
    metrics_close(m);
}

static void a_page_that_never_started_closes(void **state)
{
    struct metrics *m = metrics_open(4);
    struct page *p = NULL, *again = NULL;
    char at[64];

    (void)state;
    assert_int_equal(page_open(&p, m, "127.0.0.1", 0, NULL), ST_OK);
    snprintf(at, sizeof(at), "%s", page_address(p));
    page_close(p);
    assert_int_equal(page_open(&again, m, "127.0.0.1", atoi(strrchr(at, ':') + 1), NULL), ST_OK); /* the port is free */
    page_close(again);
    metrics_close(m);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_page_shows_the_metrics),       cmocka_unit_test(other_pages_and_methods_are_refused),
        cmocka_unit_test(a_port_in_use_is_refused_by_name), cmocka_unit_test(gauges_are_read_between_start_and_close),
        cmocka_unit_test(a_page_that_never_started_closes),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
