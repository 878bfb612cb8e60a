/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chain.h - a press as text becomes a list of stages, or a sentence that says what is wrong and where.
 *
 *      "snapkv:window=32|ratio=.5"  ──chain_parse──▶  struct chain  ──chain_text──▶  "snapkv:window=32 | ratio=0.5"
 *
 * Parsing needs no model and no device; what depends on them is refused by chain_check, before any work is done. A chain
 * never changes after chain_parse: any thread may read it. Grammar and words: docs/PRESSES.md.
 */
#ifndef PLATEN_PRESSES_CHAIN_H
#define PLATEN_PRESSES_CHAIN_H

#include "presses/press.h"

#ifdef __cplusplus
extern "C" {
#endif

struct chain;

/*
 * Reads a press text of `bytes` bytes (it may hold anything). files: the parameter files that the text may name; NULL:
 * none. The chain is the caller's; files must outlive it. Allocates; does not wait.
 * ST_EINVAL: three lines in err: a sentence that names the word and what was expected, the text, `^` under the word.
 */
enum status chain_parse(struct chain **out, const char *text, size_t bytes, struct press_files *files, struct err *err);
void chain_close(struct chain *c); /* NULL is fine */

/* The canonical form: "none", or stages with defaults left out, options in the order of the table, single blanks. Two
 * equal presses have the same. Lives with the chain. */
const char *chain_text(const struct chain *c);

/* Whether anything is pressed at prefill (false: every row stays, no need is set), and whether decode goes on. */
bool chain_presses_prefill(const struct chain *c);

/* The decode part. False where there is none. */
bool chain_decode_part(const struct chain *c, struct chain_decode *out);

/* What the forward pass must keep for the prefill part (decode = false) or for the decode part. */
void chain_needs_of(const struct chain *c, int64_t query_tokens, bool decode, struct chain_needs *out);

/* Refuses at the door what cannot be met: an operation the back end has not got, a query that is not there, a list of
 * ratios that does not fit the layers, an empty context. ST_EINVAL (where a stage is to blame with the three lines of
 * chain_parse), ST_ERANGE or ST_EUNIMPLEMENTED with the reason. */
enum status chain_check(const struct chain *c, const struct hparams *hp, const struct backend_ops *ops, int64_t tokens,
                        int64_t query_tokens, struct err *err);

/* Upper bound of the rows, over all heads, that the prefill part keeps of a layer; exact for methods whose count depends
 * on the length alone. chain_rows_max_all: the same over all pressed layers (less than the sum where layers compete). */
int64_t chain_rows_max(const struct chain *c, const struct hparams *hp, int32_t layer, int64_t tokens);
int64_t chain_rows_max_all(const struct chain *c, const struct hparams *hp, int64_t tokens);

/* Whether keys are given new, consecutive positions by the chain itself (`rerotate`). */
bool chain_rerotates(const struct chain *c);

/* Where generation goes on: after the context's last token; after the longest head (rows_most, over layers and heads)
 * when keys were given consecutive positions by the chain or because the caller asked (compact). */
int64_t chain_next_position(const struct chain *c, bool compact, int64_t tokens, int64_t rows_most);

/* For presses.def, docs, ListPresses: every word there is, in the order of presses.def; NULL past the end. Words that
 * are known but not built have no hooks: press_built says so. */
const struct press *press_at(size_t i);
const struct press *press_find(const char *name);
bool press_built(const struct press *p);
const char *press_kind_word(enum press_kind kind);
/* "snapkv:window=64,kernel=5", and what prefill must keep for it, in words. */
void press_usage(const struct press *p, struct text *out);
void press_needs_text(const struct press *p, struct text *out);

/* docs/PRESSES.md, and the table that `platen presses` shows. */
void presses_markdown(struct text *out);
void presses_table(struct text *out);
void presses_json(struct text *out);

/* Adds the presses of a shared object (operators only), before the first chain_parse and in one thread. Refuses what was
 * built against another ABI, and names that exist. */
enum status press_plugin_open(const char *path, struct err *err);

#ifdef __cplusplus
}
#endif
#endif
