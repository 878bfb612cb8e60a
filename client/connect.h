/* SPDX-License-Identifier: Apache-2.0 */
/* connect.h - the way to a node: address, credentials, the time a call may take. Shared by every command that asks one. */
#ifndef PLATEN_CLIENT_CONNECT_H
#define PLATEN_CLIENT_CONNECT_H

#include "common/base/opt.h"
#include "common/base/status.h"
#include "common/rpc/rpc_channel.h"

#ifdef __cplusplus
extern "C" {
#endif

struct server_options {
    const char *server, *token_file, *tls_ca, *tls_cert, *tls_key, *tls_name;
    double timeout_s; /* 0: none */
};

/* Rows for the options table of a struct `type` whose member `at` is a struct server_options. */
#define SERVER_ROWS(type, at, must)                                                                                   \
    { "server", OPT_TEXT, offsetof(type, at.server), 0, 0, NULL, NULL, "HOST:PORT", "the node to ask", must },        \
        { "timeout", OPT_FLOAT, offsetof(type, at.timeout_s),                                                         \
          0.001,     1e6,       NULL,                                                                                 \
          NULL,      "SECONDS", "the whole call may take so long; no limit unless given",                             \
          false },                                                                                                    \
        { "token-file",                                                                                               \
          OPT_TEXT,                                                                                                   \
          offsetof(type, at.token_file),                                                                              \
          0,                                                                                                          \
          0,                                                                                                          \
          NULL,                                                                                                       \
          NULL,                                                                                                       \
          "FILE",                                                                                                     \
          "sends this file's text as the caller's token",                                                             \
          false },                                                                                                    \
        { "tls-ca", OPT_TEXT, offsetof(type, at.tls_ca),                                                              \
          0,        0,        NULL,                                                                                   \
          NULL,     "FILE",   "TLS: the server must show a certificate of these",                                     \
          false },                                                                                                    \
        { "tls-cert", OPT_TEXT, offsetof(type, at.tls_cert),                                                          \
          0,          0,        NULL,                                                                                 \
          NULL,       "FILE",   "TLS: certificate shown to the server",                                               \
          false },                                                                                                    \
        { "tls-key", OPT_TEXT, offsetof(type, at.tls_key), 0, 0, NULL, NULL, "FILE", "TLS: its private key", false }, \
    {                                                                                                                 \
        "tls-name", OPT_TEXT, offsetof(type, at.tls_name), 0, 0, NULL, NULL, "NAME",                                  \
            "TLS: the name to expect instead of the host's", false                                                    \
    }

/* Usage: the address is one. Connects to nothing. */
enum status server_check(const struct server_options *o, struct err *err);

struct connection {
    struct rpc_client *client;
    struct rpc_channel *channel;
    char *token;         /* NULL: none */
    int64_t deadline_ns; /* of every call on it together */
};

/* Connects. ST_EUNAVAILABLE within RPC_CONNECT_MS when there is no server; ST_ENOTFOUND, ST_EINVAL: files. */
enum status connection_open(struct connection *c, const struct server_options *o, struct err *err);
void connection_close(struct connection *c);

/* What came of a call that decode nodes alone answer: `st`, and the sentence says so where another server is there, which is
 * asked what it is. */
enum status connection_explain(const struct connection *c, enum status st, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
