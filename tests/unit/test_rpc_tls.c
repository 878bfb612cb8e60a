/* SPDX-License-Identifier: Apache-2.0 */
/* test_rpc_tls.c - TLS, client certificates and renewal, with certificates made by the openssl program. */
#include "tests/support/cmocka_main.h"
#include "tests/unit/rpc_pair.h"

#include "common/rpc/rpc_message.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* A folder with two authorities (a, b), each with a server's and a client's certificate. */
struct certs {
    char folder[64];
    char path[8][128];
};

enum { A_CA, A_CERT, A_KEY, B_CA, B_CERT, B_KEY, CERT, KEY };

static int certs_make(void **state)
{
    static struct certs c;
    static const char *const names[] = { "a-ca.pem", "a.pem", "a.key",    "b-ca.pem",
                                         "b.pem",    "b.key", "cert.pem", "key.pem" };
    char command[2000];

    snprintf(c.folder, sizeof(c.folder), "/tmp/platen-tls-XXXXXX");
    if (system("openssl version >/dev/null 2>&1") != 0)
        exit(77);
    if (mkdtemp(c.folder) == NULL)
        return -1;
    for (int i = 0; i < 8; i++)
        snprintf(c.path[i], sizeof(c.path[i]), "%s/%s", c.folder, names[i]);
    snprintf(
        command, sizeof(command),
        "cd %s && for x in a b; do "
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out $x-ca.pem "
        "-subj /CN=ca-$x -days 2 -addext basicConstraints=critical,CA:TRUE && "
        "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $x.key -out r.csr -subj /CN=node && "
        "printf 'subjectAltName=IP:127.0.0.1,DNS:node-%%s' $x > ext && "
        "openssl x509 -req -in r.csr -CA $x-ca.pem -CAkey ca.key -CAcreateserial -out $x.pem -days 2 -extfile ext; "
        "done >/dev/null 2>&1 && cp a.pem cert.pem && cp a.key key.pem",
        c.folder);
    *state = &c;
    return system(command) == 0 ? 0 : -1;
}

static int certs_remove(void **state)
{
    struct certs *c = (struct certs *)*state;
    char command[200];

    snprintf(command, sizeof(command), "rm -r %s", c->folder);
    return system(command);
}

/* One call on a connection of its own. */
static enum status ask(struct rpc_pair *p, const struct rpc_channel_options *o)
{
    Request r = request_of("x");
    struct rpc_channel_options alone = *o;
    struct rpc_channel *ch = NULL;
    ProtobufCMessage *reply = NULL;
    enum status st;

    alone.own_connection = true;
    assert_int_equal(rpc_channel_open(&ch, p->client, p->target, &alone, NULL), ST_OK);
    st = rpc_call_unary(ch, "/test.T/Echo", &r.base, &platen__v1__event__descriptor, clock_in_ms(8000), &reply, NULL);
    rpc_message_free(reply);
    rpc_channel_close(ch);
    return st;
}

static struct rpc_server_options server_options(struct certs *c)
{
    struct rpc_server_options o;

    rpc_server_options_init(&o);
    o.listen = "127.0.0.1:0";
    o.tls.cert_path = c->path[CERT];
    o.tls.key_path = c->path[KEY];
    return o;
}

static void only_the_right_authority_is_believed(void **state)
{
    struct certs *c = (struct certs *)*state;
    struct rpc_server_options so = server_options(c);
    struct rpc_channel_options co;
    struct rpc_pair p;

    rpc_channel_options_init(&co);
    rpc_pair_open(&p, &so, NULL);
    assert_int_equal(ask(&p, &co), ST_EUNAVAILABLE); /* plaintext at a TLS door */
    co.tls.ca_path = c->path[A_CA];
    assert_int_equal(ask(&p, &co), ST_OK);
    co.tls.peer_name = "node-a";
    assert_int_equal(ask(&p, &co), ST_OK);
    co.tls.peer_name = "node-z";
    assert_int_equal(ask(&p, &co), ST_EUNAVAILABLE);
    co.tls.peer_name = NULL;
    co.tls.ca_path = c->path[B_CA];
    assert_int_equal(ask(&p, &co), ST_EUNAVAILABLE);
    rpc_pair_close(&p);
}

static void clients_must_show_a_certificate_when_asked(void **state)
{
    struct certs *c = (struct certs *)*state;
    struct rpc_server_options so = server_options(c);
    struct rpc_channel_options co;
    struct rpc_pair p;

    so.tls.ca_path = c->path[A_CA];
    rpc_channel_options_init(&co);
    co.tls.ca_path = c->path[A_CA];
    rpc_pair_open(&p, &so, NULL);
    assert_int_equal(ask(&p, &co), ST_EUNAVAILABLE);
    co.tls.cert_path = c->path[B_CERT];
    co.tls.key_path = c->path[B_KEY];
    assert_int_equal(ask(&p, &co), ST_EUNAVAILABLE);
    co.tls.cert_path = c->path[A_CERT];
    co.tls.key_path = c->path[A_KEY];
    assert_int_equal(ask(&p, &co), ST_OK);
    rpc_pair_close(&p);
}

static void new_files_are_used_from_the_next_connection_on(void **state)
{
    struct certs *c = (struct certs *)*state;
    struct rpc_server_options so = server_options(c);
    struct rpc_channel_options a, b;
    struct rpc_pair p;
    char command[600];

    rpc_channel_options_init(&a);
    b = a;
    a.tls.ca_path = c->path[A_CA];
    b.tls.ca_path = c->path[B_CA];
    rpc_pair_open(&p, &so, NULL);
    assert_int_equal(ask(&p, &a), ST_OK);
    snprintf(command, sizeof(command), "cd %s && cp b.pem cert.pem && cp b.key key.pem", c->folder);
    assert_int_equal(system(command), 0);
    assert_int_equal(ask(&p, &a), ST_EUNAVAILABLE);
    assert_int_equal(ask(&p, &b), ST_OK);
    snprintf(command, sizeof(command), "echo broken > %s", c->path[CERT]);
    assert_int_equal(system(command), 0);
    assert_int_equal(ask(&p, &b), ST_OK); /* what cannot be read changes nothing */
    rpc_pair_close(&p);
}

static void files_that_are_none_end_the_start(void **state)
{
    struct certs *c = (struct certs *)*state;
    struct rpc_server_options so = server_options(c);
    struct rpc_channel_options co;
    struct rpc_server *s = NULL;
    struct rpc_channel *ch = NULL;
    struct rpc_client *client;
    struct err err = { 0 };

    so.tls.cert_path = "/no/such/file.pem";
    assert_int_equal(rpc_server_open(&s, &so, &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "/no/such/file.pem"));
    err_clear(&err);
    so.tls.cert_path = "/etc/passwd";
    assert_int_equal(rpc_server_open(&s, &so, &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "/etc/passwd"));
    so.tls.cert_path = NULL;
    assert_int_equal(rpc_server_open(&s, &so, NULL), ST_EINVAL);
    assert_int_equal(rpc_client_open(&client, 1, NULL), ST_OK);
    rpc_channel_options_init(&co);
    co.tls.ca_path = "/no/such/file.pem";
    err_clear(&err);
    assert_int_equal(rpc_channel_open(&ch, client, "127.0.0.1:1", &co, &err), ST_EINVAL);
    assert_non_null(strstr(err.text, "/no/such/file.pem"));
    rpc_client_close(client);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(only_the_right_authority_is_believed, certs_make, certs_remove),
        cmocka_unit_test_setup_teardown(clients_must_show_a_certificate_when_asked, certs_make, certs_remove),
        cmocka_unit_test_setup_teardown(new_files_are_used_from_the_next_connection_on, certs_make, certs_remove),
        cmocka_unit_test_setup_teardown(files_that_are_none_end_the_start, certs_make, certs_remove),
    };

    return cmocka_main(argc, argv, tests, ARRAY_LEN(tests), NULL, NULL);
}
