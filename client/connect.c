/* SPDX-License-Identifier: Apache-2.0 */
/* connect.c - opens the way to a node, or says why it cannot. */
#include "client/connect.h"

#include "common/base/clock.h"
#include "common/rpc/rpc_message.h"
#include "common/rpc/rpc_token.h"
#include "proto/platen/v1/control.pb-c.h"

#include <stdlib.h>
#include <string.h>

enum { EXPLAIN_MS = 3000 };

static enum status tls_check(const struct server_options *o, struct err *err)
{
    if ((o->tls_cert || o->tls_key || o->tls_name) && !o->tls_ca)
        return err_set(err, ST_EINVAL, "%s needs --tls-ca, the authorities that the server's certificate is of",
                       o->tls_cert  ? "--tls-cert"
                       : o->tls_key ? "--tls-key"
                                    : "--tls-name");
    if ((o->tls_cert == NULL) != (o->tls_key == NULL))
        return err_set(err, ST_EINVAL, "--tls-cert and --tls-key go together; give both or none");
    return ST_OK;
}

enum status server_check(const struct server_options *o, struct err *err)
{
    char host[RPC_ADDRESS_MAX];
    int port = 1; /* of a dns: target nothing is known here */
    enum status st = ST_OK;

    if (!o->server)
        return ST_OK;
    if (strncmp(o->server, "dns:", 4) != 0)
        st = rpc_address_parse(o->server, host, &port, err);
    if (st == ST_OK && port == 0)
        st = err_set(err, ST_EINVAL, "%s: port 0 is no port to connect to", o->server);
    if (st != ST_OK)
        err_prefix(err, "--server");
    return st == ST_OK ? tls_check(o, err) : st;
}

enum status connection_open(struct connection *c, const struct server_options *o, struct err *err)
{
    struct rpc_channel_options channel;
    int64_t connect_by = clock_in_ms(RPC_CONNECT_MS);
    enum status st;

    memset(c, 0, sizeof *c);
    c->deadline_ns = o->timeout_s > 0 ? clock_now_ns() + (int64_t)(o->timeout_s * 1e9) : INT64_MAX;
    rpc_channel_options_init(&channel);
    channel.tls.ca_path = o->tls_ca;
    channel.tls.cert_path = o->tls_cert;
    channel.tls.key_path = o->tls_key;
    channel.tls.peer_name = o->tls_name;
    channel.receive_max_bytes = 64 << 20;
    channel.send_queue_bytes = 1 << 30; /* one request, however long its context */
    st = rpc_token_read(&c->token, o->token_file, err);
    channel.token = c->token;
    if (st == ST_OK)
        st = rpc_client_open(&c->client, 1, err);
    if (st == ST_OK)
        st = rpc_channel_open(&c->channel, c->client, o->server, &channel, err);
    if (st == ST_OK)
        st = rpc_channel_connect(c->channel, c->deadline_ns < connect_by ? c->deadline_ns : connect_by, err);
    if (st == ST_EUNAVAILABLE && o->tls_ca)
        err_prefix(err, "over TLS"); /* what else may be wrong there */
    if (st == ST_EUNAVAILABLE && clock_now_ns() >= c->deadline_ns)
        st = err->code = ST_EDEADLINE;
    if (st != ST_OK)
        connection_close(c);
    return st;
}

void connection_close(struct connection *c)
{
    rpc_channel_close(c->channel);
    rpc_client_close(c->client);
    free(c->token);
    memset(c, 0, sizeof *c);
}

static bool is_decode_node(const struct connection *c)
{
    Platen__V1__GetInfoRequest request = PLATEN__V1__GET_INFO_REQUEST__INIT;
    ProtobufCMessage *reply = NULL;
    struct err err = { 0 };
    bool is =
        rpc_call_unary(c->channel, "/platen.v1.Control/GetInfo", &request.base,
                       &platen__v1__get_info_response__descriptor, clock_in_ms(EXPLAIN_MS), &reply, &err) == ST_OK &&
        strcmp(((const Platen__V1__GetInfoResponse *)reply)->role, "decode") == 0;

    rpc_message_free(reply);
    return is;
}

enum status connection_explain(const struct connection *c, enum status st, struct err *err)
{
    if (st == ST_EUNIMPLEMENTED && !is_decode_node(c))
        err_prefix(err, "not a decode node");
    return st;
}
