/* SPDX-License-Identifier: Apache-2.0 */
/*
 * selftest.c - platen selftest: does it work here, how fast do blocks move.
 *
 *   (nothing)              a small random model: the same context twice gives the same logits and the same, exact choice
 *   --transfer grpc        blocks from a child process to this one, over loopback
 *   --server HOST:PORT     asks a node to test itself; with --transfer between it and its prefill node
 */
#include "client/command.h"
#include "client/connect.h"
#include "client/local.h"
#include "client/transfer.h"

#include "common/base/arena.h"
#include "common/base/bytes.h"
#include "common/rpc/rpc_message.h"
#include "common/transport/transport.h"
#include "proto/platen/v1/control.pb-c.h"
#include "presses/chain.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TOKENS = 300, MIB = 64 };

struct selftest_options {
    bool help;
    struct server_options server;
    const char *transfer;
    int64_t mib; /* 0: not given */
    bool json;
};

#define AT(field) offsetof(struct selftest_options, field)

static const struct opt rows[] = {
    HELP_ROW,
    { "transfer", OPT_TEXT, AT(transfer), 0, 0, NULL, NULL, "TRANSPORT",
      "moves blocks over this transport: grpc; between a --server and its prefill node also nccl, ipc", false },
    { "mib", OPT_INT, AT(mib), 1, 4096, NULL, NULL, "N", "with --transfer: so many MiB; 64 unless given", false },
    SERVER_ROWS(struct selftest_options, server, false),
    { "json", OPT_FLAG, AT(json), 0, 0, NULL, "off", NULL, "prints one object", false },
};

static const struct opt_set options = { rows, ARRAY_LEN(rows) };

static int64_t mib_of(const struct selftest_options *o)
{
    return o->mib > 0 ? o->mib : MIB;
}

static enum status check(const void *options_, struct err *err)
{
    const struct selftest_options *o = options_;
    enum status st = server_check(&o->server, err);

    if (st == ST_OK && o->mib > 0 && !o->transfer)
        st = err_set(err, ST_EINVAL, "--mib is what a --transfer moves: give --transfer TRANSPORT, too");
    if (st == ST_OK && o->transfer)
        st = transport_list_check(o->transfer, err);
    if (st == ST_OK && o->transfer && !o->server.server && strcmp(o->transfer, "grpc") != 0)
        st = err_set(err, ST_EINVAL, "--transfer %s is between two running nodes: give --server", o->transfer);
    return st;
}

/* ---- on a small model ------------------------------------------------------------------------------------------- */

struct choice {
    int64_t rows[8]; /* kept of each layer, all heads */
    float *logits;
};

static enum status count_rows(void *ctx, const struct press_layer *layer, const struct press_result *result,
                              struct err *err)
{
    (void)err;
    ((struct choice *)ctx)->rows[layer->layer] = result->first[layer->kv.heads];
    return ST_OK;
}

static enum status run_small(struct local *l, const struct chain *chain, const int32_t *token, struct choice *out,
                             struct err *err)
{
    memset(out->rows, 0, sizeof out->rows);
    return local_prefill(l, token, TOKENS, 0, chain, count_rows, out, out->logits, NULL, err);
}

static enum status judge(const struct local *l, const struct choice *a, const struct choice *b, struct err *err)
{
    for (int32_t i = 0; i < l->hp.vocab; i++)
        if (!isfinite(a->logits[i]) || a->logits[i] != b->logits[i])
            return err_set(err, ST_EINTERNAL, "logit %d was %g and then %g", i, (double)a->logits[i],
                           (double)b->logits[i]);
    for (int32_t i = 0; i < l->hp.layers; i++)
        if (a->rows[i] != l->hp.kv_heads * (TOKENS / 2) || b->rows[i] != a->rows[i])
            return err_set(err, ST_EINTERNAL, "layer %d kept %lld rows instead of %d", i, (long long)a->rows[i],
                           l->hp.kv_heads * (TOKENS / 2));
    return ST_OK;
}

static enum status test_small(struct text *device, struct err *err)
{
    static const char press[] = "snapkv | adakv | ratio=0.5";
    const struct local_options o = { .random = "tiny", .backend = "cpu", .dtype = DT_F32 };
    struct local l = { 0 };
    struct chain *chain = NULL;
    struct choice a = { 0 }, b = { 0 };
    int32_t token[TOKENS];
    enum status st = local_open_model(&l, &o, err);

    if (st == ST_OK)
        st = local_open_device(&l, &o, TOKENS, 1, err);
    if (st == ST_OK)
        st = chain_parse(&chain, press, sizeof press - 1, NULL, err);
    if (st != ST_OK)
        goto out;
    for (int32_t i = 0; i < TOKENS; i++)
        token[i] = i * 97 % l.hp.vocab;
    a.logits = mem_zero((size_t)l.hp.vocab, sizeof *a.logits);
    b.logits = mem_zero((size_t)l.hp.vocab, sizeof *b.logits);
    st = run_small(&l, chain, token, &a, err);
    if (st == ST_OK)
        st = run_small(&l, chain, token, &b, err);
    if (st == ST_OK)
        st = judge(&l, &a, &b, err);
    text_puts(device, l.be->ops->describe(l.be));
out:
    free(a.logits);
    free(b.logits);
    chain_close(chain);
    local_close(&l);
    return st;
}

static enum status run_here(const struct selftest_options *o, struct err *err)
{
    struct text device = { 0 };
    enum status st = test_small(&device, err);

    if (st == ST_OK)
        printf(o->json ? "{\"ok\":true,\"kernels\":\"%s\"}\n" : "ok: %s\n", text_str(&device));
    text_fini(&device);
    return st;
}

/* ---- between two processes --------------------------------------------------------------------------------------- */

/* The sending process; it ends with this one. Forked before this process has any thread. */
static pid_t start_sender(int *port_fd, struct err *err)
{
    int fds[2];
    pid_t pid;

    if (pipe(fds) != 0)
        return err_set(err, ST_EINTERNAL, "no pipe: %s", strerror(errno)), -1;
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        struct err why = { 0 };

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(fds[0]);
        transfer_serve(fds[1], &why);
        fprintf(stderr, "platen: %s: sender: %s\n", status_word(why.code), why.text);
        _exit(EXIT_FAILED);
    }
    close(fds[1]);
    if (pid < 0) {
        close(fds[0]);
        return err_set(err, ST_EINTERNAL, "no process: %s", strerror(errno)), -1;
    }
    *port_fd = fds[0];
    return pid;
}

static void show_transfer(const struct selftest_options *o, const struct transfer_result *r)
{
    double gib_s = (double)r->bytes / (1 << 30) / r->seconds;
    long long mib = (long long)mib_of(o);

    if (o->json)
        printf("{\"mib\":%lld,\"gib_s\":%.4f,\"checksum_ok\":true}\n", mib, gib_s);
    else
        printf("%s: %lld MiB at %.2f GiB/s, every checksum right\n", o->transfer, mib, gib_s);
}

static enum status run_transfer(const struct selftest_options *o, struct err *err)
{
    struct transfer_result result;
    int32_t port;
    int port_fd = -1;
    pid_t pid = start_sender(&port_fd, err);
    enum status st = ST_OK;

    if (pid < 0)
        return ST_EINTERNAL;
    if (read(port_fd, &port, sizeof port) != sizeof port)
        st = err_set(err, ST_EINTERNAL, "the sending process did not start");
    if (st == ST_OK)
        st = transfer_receive(port, o->transfer, (uint64_t)mib_of(o) << 20, &result, err);
    if (st == ST_OK)
        show_transfer(o, &result);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    close(port_fd);
    return st;
}

/* ---- on a node ----------------------------------------------------------------------------------------------------- */

static void transfers_json(struct text *out, const Platen__V1__SelfTestResponse *r)
{
    text_puts(out, ",\"transfers\":[");
    for (size_t i = 0; i < r->n_transfers; i++) {
        const Platen__V1__TransferResult *t = r->transfers[i];

        text_printf(out,
                    "%s{\"transport\":\"%s\",\"mib\":%lld,\"gib_s\":%.4f,\"checksum_ok\":%s,\"prefill_node\":\"%s\","
                    "\"detail\":",
                    i > 0 ? "," : "", t->transport, (long long)t->mib, t->gib_s, t->checksum_ok ? "true" : "false",
                    t->prefill_node);
        text_json(out, t->detail, strlen(t->detail));
        text_puts(out, "}");
    }
    text_puts(out, "]");
}

static void transfer_line(struct text *out, const Platen__V1__TransferResult *t)
{
    text_printf(out, "%s from %s: ", t->transport, t->prefill_node);
    if (t->gib_s > 0)
        text_printf(out, "%lld MiB at %.2f GiB/s, checksums %s\n", (long long)t->mib, t->gib_s,
                    t->checksum_ok ? "right" : "WRONG");
    else
        text_puts(out, "nothing moved\n");
}

static void show_node(const struct selftest_options *o, const Platen__V1__SelfTestResponse *r)
{
    struct text out = { 0 };

    if (o->json) {
        text_printf(&out, "{\"ok\":%s,\"detail\":", r->ok ? "true" : "false");
        text_json(&out, r->detail, strlen(r->detail));
        transfers_json(&out, r);
        text_puts(&out, "}\n");
    } else {
        text_printf(&out, "%s\n", r->ok ? "ok" : r->detail);
        for (size_t i = 0; i < r->n_transfers; i++)
            transfer_line(&out, r->transfers[i]);
    }
    fwrite(text_str(&out), 1, out.bytes, stdout);
    text_fini(&out);
}

static enum status run_node(const struct selftest_options *o, struct err *err)
{
    Platen__V1__SelfTestRequest request = PLATEN__V1__SELF_TEST_REQUEST__INIT;
    char *transfer[] = { (char *)o->transfer };
    ProtobufCMessage *reply = NULL;
    struct connection c;
    enum status st = connection_open(&c, &o->server, err);

    if (st != ST_OK)
        return st;
    request.transfer = transfer;
    request.n_transfer = o->transfer ? 1 : 0;
    request.has_mib_case = PLATEN__V1__SELF_TEST_REQUEST__HAS_MIB_MIB;
    request.mib = mib_of(o);
    st = rpc_call_unary(c.channel, "/platen.v1.Control/SelfTest", &request.base,
                        &platen__v1__self_test_response__descriptor, c.deadline_ns, &reply, err);
    if (st == ST_OK) {
        const Platen__V1__SelfTestResponse *r = (const Platen__V1__SelfTestResponse *)reply;

        show_node(o, r);
        if (!r->ok)
            st = err_set(err, ST_EINTERNAL, "%s: %s", o->server.server, r->detail);
    }
    rpc_message_free(reply);
    connection_close(&c);
    return st;
}

static enum status run(const void *options_, struct arena *arena, struct err *err)
{
    const struct selftest_options *o = options_;

    (void)arena;
    if (o->server.server)
        return run_node(o, err);
    return o->transfer ? run_transfer(o, err) : run_here(o, err);
}

const struct command command_selftest = {
    .name = "selftest",
    .summary = "checks that the program works here, or a node, and how fast blocks move",
    .usage = "[--transfer grpc --mib N] [--server HOST:PORT] [--json]",
    .options = &options,
    .options_bytes = sizeof(struct selftest_options),
    .check = check,
    .run = run,
};
