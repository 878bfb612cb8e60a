/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc.h - what servers and channels share: addresses, TLS files, and the tuning of a process that moves bulk.
 *
 * common/rpc is the only module that includes <grpc/...>. The rest of the program sees five small headers:
 *
 *   rpc_message.h   one message: checking, unpacking, giving back
 *   rpc_chunk.h     one message whose last field is bulk: sent without a copy, received with one
 *   rpc_call.h      one call, the same object on both sides: send, receive, end, cancel
 *   rpc_server.h    methods in, calls out
 *   rpc_channel.h   a way to one peer
 *
 * Threads: each server and each client owns a few "rpc" threads. A call lives on one of them: all its callbacks come
 * from that thread, one after the other, and must not block, because every other call of the thread waits meanwhile.
 * What is sent, ended or cancelled may be so from any thread.
 */
#ifndef PLATEN_RPC_RPC_H
#define PLATEN_RPC_RPC_H

#include "common/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { RPC_ADDRESS_MAX = 300 };

/* PEM files. All NULL: plaintext. Texts are borrowed until the server or channel is closed. */
struct rpc_tls {
    const char *cert_path; /* own certificate chain; a server needs it, a client only where the server asks for it */
    const char *key_path;  /* its private key */
    const char *ca_path;   /* server: clients must show a certificate of these; client: the server must */
    const char *peer_name; /* client: the name to expect in the server's certificate instead of the target's host */
};

/* HOST:PORT, [V6]:PORT -> host and port (0..65535). `host` has room for RPC_ADDRESS_MAX bytes. ST_EINVAL names the
 * text and what is wrong with it. */
enum status rpc_address_parse(const char *text, char *host, int *port, struct err *err);

/* For a process that moves megabytes at a time: keeps freed blocks instead of giving them back to the kernel, which
 * otherwise faults every page in anew (measured: 3.2 -> 5.0 GB/s). Once, from main. */
void rpc_tune_bulk(void);

#ifdef __cplusplus
}
#endif
#endif
