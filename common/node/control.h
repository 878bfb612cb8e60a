/* SPDX-License-Identifier: Apache-2.0 */
/* control.h - platen.v1.Control: the methods, and the answers that are alike on both kinds of nodes. */
#ifndef PLATEN_NODE_CONTROL_H
#define PLATEN_NODE_CONTROL_H

#include "common/node/parts.h"
#include "common/rpc/rpc_server.h"
#include "proto/platen/v1/control.pb-c.h"

#ifdef __cplusplus
extern "C" {
#endif

/* An answer to GetInfo with all that it points to; valid while the node lives and this is not moved. */
struct control_info {
    Platen__V1__GetInfoResponse reply;
    Platen__V1__Limits limits; /* the node's to fill */
    Platen__V1__DeviceBytes bytes;
    Platen__V1__ModelInfo model;
    char *transports[STATIONS_MAX];
    char device[1024];
};

/* Everything but the limits. Allocates nothing. */
void control_info_init(struct control_info *out, const struct node_parts *p, const char *role);

/* What a node answers itself. */
struct control_events {
    const struct rpc_events *info, *loads, *selftest;
};

/* Adds all four methods for `node`, before the server starts; ListPresses is answered here. */
void control_add(struct rpc_server *server, const struct control_events *events, void *node);

#ifdef __cplusplus
}
#endif
#endif
