#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""shape_model.py SHAPE FOLDER - a model directory of a well-known shape (client/shapes.def) without weights worth the name.

config.json, a tokenizer of bytes, and a safetensors file whose tensors are a hole: as large as the true one to look at, a few
pages on the disk. For nodes with --random-weights, which read nothing of it but shapes. Python's own library only.
"""
import json
import os
import re
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "e2e"))

import tiny_model  # noqa: E402

FIELDS = ("layers", "dim", "q_heads", "kv_heads", "head", "inter", "vocab", "theta", "tied")


def shape_of(name):
    text = open(os.path.join(HERE, "..", "..", "client", "shapes.def")).read()
    rows = {m[0]: m[1] for m in re.findall(r'^SHAPE\("([^"]+)", (.*)\)$', text, re.M)}
    if name not in rows:
        raise SystemExit(f"shape_model: no shape {name}; there are {', '.join(rows)}")
    return dict(zip(FIELDS, (float(v) if "." in v else int(v) for v in rows[name].split(", "))))


def tensors(s):
    q, kv = s["q_heads"] * s["head"], s["kv_heads"] * s["head"]
    yield "model.embed_tokens.weight", (s["vocab"], s["dim"])
    for layer in range(s["layers"]):
        p = f"model.layers.{layer}."
        for name, shape in (("self_attn.q_proj", (q, s["dim"])), ("self_attn.k_proj", (kv, s["dim"])),
                            ("self_attn.v_proj", (kv, s["dim"])), ("self_attn.o_proj", (s["dim"], q)),
                            ("mlp.gate_proj", (s["inter"], s["dim"])), ("mlp.up_proj", (s["inter"], s["dim"])),
                            ("mlp.down_proj", (s["dim"], s["inter"])), ("input_layernorm", (s["dim"],)),
                            ("post_attention_layernorm", (s["dim"],))):
            yield f"{p}{name}.weight", shape
    yield "model.norm.weight", (s["dim"],)
    if not s["tied"]:
        yield "lm_head.weight", (s["vocab"], s["dim"])


def write_hole(path, s):
    header, at = {}, 0
    for name, shape in tensors(s):
        count = 1
        for n in shape:
            count *= n
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + 2 * count]}
        at += 2 * count
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        out.truncate(8 + len(text) + at)


def write(name, folder):
    s = shape_of(name)
    os.makedirs(folder, exist_ok=True)
    tiny_model.write_texts(folder, {
        "hidden_size": s["dim"], "num_hidden_layers": s["layers"], "num_attention_heads": s["q_heads"],
        "num_key_value_heads": s["kv_heads"], "head_dim": s["head"], "intermediate_size": s["inter"], "vocab_size": s["vocab"],
        "max_position_embeddings": 1 << 20, "rope_theta": s["theta"], "tie_word_embeddings": bool(s["tied"]),
        "torch_dtype": "bfloat16"})
    write_hole(os.path.join(folder, "model.safetensors"), s)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    write(*sys.argv[1:])
