# SPDX-License-Identifier: Apache-2.0
"""Writes a small random Llama as a hub directory, with nothing but Python's own library.

Its vocabulary is `<s>`, `</s>` and the bytes but 0x04, so a text has as many tokens as bytes (and 0x04 vanishes). `</s>`'s
embedding is zero and the head is tied, so its logit is 0 and never the largest: answers always have max_new_tokens tokens.
Positions go to 2^20 and there are many thin layers: a prefill takes as long as a test wants, a layer of it does not.
"""
import array
import json
import os
import random
import struct
import subprocess
import sys

HIDDEN, LAYERS, Q_HEADS, KV_HEADS, HEAD, INTER = 64, 12, 4, 2, 16, 128
MISSING = 0x04


def byte_chars():
    """GPT-2's map from bytes to printable characters."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    chars, extra = {}, 0
    for b in range(256):
        chars[b] = chr(b) if b in plain else chr(256 + extra)
        extra += b not in plain
    return chars


def vocabulary():
    words = ["<s>", "</s>"] + [c for b, c in byte_chars().items() if b != MISSING]
    return {word: i for i, word in enumerate(words)}


def numbers(seed, count, scale):
    r = random.Random(seed)
    return array.array("f", (r.uniform(-scale, scale) for _ in range(count)))


def tensors(seed):
    vocab = len(vocabulary())
    embedding = numbers(f"{seed} embedding", vocab * HIDDEN, 1.0)
    embedding[HIDDEN:2 * HIDDEN] = array.array("f", [0.0] * HIDDEN)
    yield "model.embed_tokens.weight", (vocab, HIDDEN), embedding
    for layer in range(LAYERS):
        p = f"model.layers.{layer}."
        for name, rows, cols in (("self_attn.q_proj", Q_HEADS * HEAD, HIDDEN), ("self_attn.k_proj", KV_HEADS * HEAD, HIDDEN),
                                 ("self_attn.v_proj", KV_HEADS * HEAD, HIDDEN), ("self_attn.o_proj", HIDDEN, Q_HEADS * HEAD),
                                 ("mlp.gate_proj", INTER, HIDDEN), ("mlp.up_proj", INTER, HIDDEN),
                                 ("mlp.down_proj", HIDDEN, INTER)):
            yield f"{p}{name}.weight", (rows, cols), numbers(f"{seed} {p}{name}", rows * cols, 0.3)
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{p}{name}.weight", (HIDDEN,), array.array("f", [1.0] * HIDDEN)
    yield "model.norm.weight", (HIDDEN,), array.array("f", [1.0] * HIDDEN)


def write_safetensors(path, seed):
    header, parts, at = {}, [], 0
    for name, shape, values in tensors(seed):
        data = values.tobytes()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + len(data)]}
        parts.append(data)
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text + b"".join(parts))


def write_texts(part, numbers):
    """Everything but the weights: config.json with these numbers, and the tokenizer of bytes."""
    save = lambda name, what: json.dump(what, open(os.path.join(part, name), "w"))
    vocab = vocabulary()
    special = [{"id": i, "content": w, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                "special": True} for i, w in enumerate(("<s>", "</s>"))]
    save("config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "bos_token_id": 0, "eos_token_id": 1, **numbers})
    save("generation_config.json", {"bos_token_id": 0, "eos_token_id": 1})
    save("tokenizer_config.json", {"bos_token": "<s>", "eos_token": "</s>"})
    save("tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None, "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": []}})


def write(folder, seed=1):
    """Whole or not at all: other tests may be looking."""
    part = f"{folder}.{os.getpid()}"
    os.makedirs(part)
    write_texts(part, {
        "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": Q_HEADS, "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD, "intermediate_size": INTER, "vocab_size": len(vocabulary()), "max_position_embeddings": 1 << 20,
        "rope_theta": 10000.0, "tie_word_embeddings": True, "torch_dtype": "float32"})
    write_safetensors(os.path.join(part, "model.safetensors"), seed)
    os.rename(part, folder)


if __name__ == "__main__":  # tiny_model.py FOLDER PLATEN: the model, and beside it how fast this build reads 2,000 tokens, in ms
    folder, platen = sys.argv[1:]
    if not os.path.isdir(folder):
        write(folder)
    measured = subprocess.run([platen, "bench", "--model", folder, "--prefill", "2000", "--rounds", "3", "--threads", "1",
                               "--dtype", "f32", "--json"], check=True, capture_output=True, text=True)
    with open(folder + ".speed", "w") as out:
        out.write(str(json.loads(measured.stdout)["prefill_ms"]))
