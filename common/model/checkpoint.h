/* SPDX-License-Identifier: Apache-2.0 */
/*
 * checkpoint.h - a model as people have it: a directory from the model hub, or one GGUF file.
 *
 *   directory   config.json · model.safetensors or model.safetensors.index.json with its shards · generation_config.json
 *               · tokenizer.json · tokenizer_config.json · chat_template.jinja
 *   file        *.gguf
 *
 * Opened as it is, by mmap: no copy, no conversion on disk. checkpoint_open proves everything before anything is used:
 * every tensor lies inside its file, every weight that the family needs is there with its shape, nothing is there that
 * the family does not know. Each refusal names the tensor or the key. After open, reading cannot fail.
 *
 * What files do differently is undone here, so that whoever computes sees one form: fused q/k/v and gate/up are given as
 * parts; GGUF's permuted q and k of Llama come in HF's half-split row order; Gemma's norms come as (1 + w).
 *
 * An open checkpoint is immutable: any thread may read it. Host only.
 */
#ifndef PLATEN_MODEL_CHECKPOINT_H
#define PLATEN_MODEL_CHECKPOINT_H

#include "common/base/status.h"
#include "common/model/hparams.h"
#include "common/tensor/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum slot {
#define SLOT(name, per_layer, hf, gguf) SLOT_##name,
#include "common/model/slot.def"
#undef SLOT
    SLOT_COUNT
};

/*
 * One weight, borrowed from the mapped file: `rows` rows of `cols` values (outputs x inputs for a matrix; rows = 1 for a
 * norm or a bias), one after another, in the file's dtype, not aligned to anything. Row r of the weight stands at row
 * tensor_ref_row(t, r) of the file; only a permuted q or k differs from r (their biases: the values). `add` is added to every value (Gemma's norms).
 */
struct tensor_ref {
    const uint8_t *data;
    enum dtype dtype;
    int64_t rows, cols;
    uint64_t bytes;
    int32_t
        permuted_heads; /* > 0: rows (of a bias: values) of each of so many heads are interleaved as GGUF's llama has them */
    float add;
};

struct checkpoint;
struct gguf;

/* Opens the directory or file at `path`. Waits for the disk only for headers. ST_ENOTFOUND when there is nothing there,
 * ST_EINVAL for a file that is not what it should be, ST_EUNIMPLEMENTED for a family or quantisation that this program
 * does not have; each sentence names path and tensor or key. The caller closes it, after everything borrowed from it. */
enum status checkpoint_open(struct checkpoint **out, const char *path, struct err *err);
void checkpoint_close(struct checkpoint *c);

const struct hparams *checkpoint_hparams(const struct checkpoint *c);

/* The family's name ("llama"), and the last part of the path, as shown to people. Borrowed. */
const char *checkpoint_family(const struct checkpoint *c);
const char *checkpoint_name(const struct checkpoint *c);

/* Where it was opened, and the GGUF file's tables (NULL for a directory). Borrowed. */
const char *checkpoint_path(const struct checkpoint *c);
const struct gguf *checkpoint_gguf(const struct checkpoint *c);

/* The weight in a slot; false where this model has none (LM_HEAD of a tied head, biases, ...; hparams say the same).
 * `layer` is ignored for slots that are not per layer. */
bool checkpoint_tensor(const struct checkpoint *c, enum slot slot, int32_t layer, struct tensor_ref *out);

/* Rows [first, first + count) of a weight as f32 into out[count][cols], in HF's row order, dequantised, `add` added.
 * Allocates nothing; several threads may read rows of one weight. */
void tensor_ref_rows(const struct tensor_ref *t, int64_t first, int64_t count, float *out);
int64_t tensor_ref_row(const struct tensor_ref *t, int64_t row);

/* "EMBEDDING", "Q", ... for messages. */
const char *slot_word(enum slot slot);

/* What two nodes compare before they exchange rows: 64-bit hashes that are the same on every machine. `weights` covers
 * the name, shape and dtype of every tensor and samples of its bytes (first, last and 14 places between, 256 bytes
 * each): it tells models and quantisations apart without reading gigabytes, and does not prove the files equal.
 * tokenizer_hash() is the third. Touches some pages of every tensor (cold: about a disk read per tensor). */
struct checkpoint_identity {
    uint64_t hparams;
    uint64_t weights;
};
void checkpoint_identify(const struct checkpoint *c, struct checkpoint_identity *out);

#ifdef __cplusplus
}
#endif
#endif
