/* SPDX-License-Identifier: Apache-2.0 */
/* options.c - the table of a decode node's options. */
#include "decode-node/options.h"

#include "common/base/bytes.h"
#include "decode-node/peers.h"

#include <stddef.h>
#include <string.h>

#define AT(field) offsetof(struct options, node.field)
#define OWN(field) offsetof(struct options, field)
#define CALLERS "clients"
#define WORK "answers"

static const struct opt rows[] = {
#include "common/node/first_options.def"
    { "prefill", OPT_LIST, OWN(prefill), 0, 0, NULL, NULL, "TARGET[,TARGET...]",
      "prefill nodes: HOST:PORT, or dns:NAME:PORT for every address of a name", true },
    { "slots", OPT_INT, OWN(slots), 1, 4096, NULL, "64", "N", "answers that run in one step", false },
    { "sequences-limit", OPT_INT, OWN(sequences), 1, 1000000, NULL, "512", "N",
      "answers running and waiting; more are refused", false },
    { "tail-tokens", OPT_INT, OWN(tail_tokens), 64, 1 << 30, NULL, "65536", "N",
      "room for questions and answers, in tokens", false },
    { "step-rows", OPT_INT, OWN(step_rows), 1, 65536, NULL, "256", "N",
      "rows of one step; longer questions are fed in pieces", false },
    { "block-mib", OPT_INT, OWN(block_mib), 1, 1 << 24, NULL, "1024", "N", "room for pressed contexts, in MiB", false },
    { "contexts-limit", OPT_INT, OWN(contexts), 0, 1000000, NULL, "256", "N", "contexts kept by Contexts.Create",
      false },
    { "grpc-channels", OPT_INT, OWN(grpc_channels), 1, PEER_CHANNELS_MAX, NULL, "1", "N",
      "connections to each prefill node, which orders take in turn; more where one does not fill the network", false },
    { "link-floor-gb-s", OPT_FLOAT, OWN(link_floor_gb_s), 0, 10000, NULL, "0", "G",
      "not serving while no prefill node's link moves so many GB/s; 0: any link will do", false },
    { "special-text", OPT_WORD, OWN(special_text), 0, 0, "parse|plain", "parse", "parse|plain",
      "whether the text of special tokens inside a context counts as such", false },
    { "chat-template", OPT_TEXT, OWN(chat_template), 0, 0, NULL, NULL, "FILE",
      "JSON with `prefix` and `suffix`, instead of the model's template", false },
    { "prefill-tls-ca", OPT_TEXT, OWN(prefill_tls_ca), 0, 0, NULL, NULL, "FILE",
      "prefill nodes must show a certificate of these", false },
    { "prefill-tls-cert", OPT_TEXT, OWN(prefill_tls_cert), 0, 0, NULL, NULL, "FILE",
      "certificate shown to prefill nodes", false },
    { "prefill-tls-key", OPT_TEXT, OWN(prefill_tls_key), 0, 0, NULL, NULL, "FILE", "its private key", false },
    { "prefill-token-file", OPT_TEXT, OWN(prefill_token_file), 0, 0, NULL, NULL, "FILE", "token sent to prefill nodes",
      false },
#include "common/node/last_options.def"
};

const struct opt_set options_table = { rows, ARRAY_LEN(rows) };

/* "a:1,b:2" given once or "a:1" "b:2" given twice are the same list. */
static void split_targets(struct options *o, struct arena *arena)
{
    struct opt_list out = { 0 };
    size_t room = 0;

    for (size_t i = 0; i < o->prefill.count; i++)
        room += strlen(o->prefill.items[i]) + 1;
    out.items = arena_array(arena, room + 1, sizeof *out.items);
    for (size_t i = 0; i < o->prefill.count; i++) {
        char *save = NULL;
        for (char *word = strtok_r(arena_strdup(arena, o->prefill.items[i]), ", ", &save); word;
             word = strtok_r(NULL, ", ", &save))
            out.items[out.count++] = word;
    }
    o->prefill = out;
}

enum status options_read(struct options *o, int argc, char **argv, struct arena *arena, struct err *err)
{
    enum status st = node_options_read(&options_table, &o->node, sizeof *o, argc, argv, arena, err);

    if (st != ST_OK || o->node.help)
        return st;
    split_targets(o, arena);
    return o->prefill.count > 0 ? ST_OK : err_set(err, ST_EINVAL, "--prefill names no node");
}
