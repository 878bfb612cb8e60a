# SPDX-License-Identifier: Apache-2.0
"""Small whole files of every format that common/model reads, for the fuzzers to start from.  make_model_seeds.py

    pip install gguf==0.19.0 numpy
"""
import json
import os
import struct

import gguf
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
FAMILIES = os.path.join(HERE, "..", "golden", "families")


def put(folder, name, data):
    os.makedirs(os.path.join(HERE, folder), exist_ok=True)
    with open(os.path.join(HERE, folder, name), "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())


def write_gguf(name, model, tokens, more):
    os.makedirs(os.path.join(HERE, "gguf"), exist_ok=True)
    w = gguf.GGUFWriter(os.path.join(HERE, "gguf", name), "llama")
    w.add_block_count(1)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_tokenizer_model(model)
    w.add_token_list(tokens)
    w.add_token_types([3 if t.startswith("<s") else 6 if t.startswith("<0x") else 1 for t in tokens])
    more(w)
    w.add_tensor("blk.0.attn_norm.weight", np.ones(4, np.float32))
    w.add_tensor("token_embd.weight", np.ones((2, 4), np.float16))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def byte_level(w):
    w.add_tokenizer_pre("smollm")
    w.add_token_merges(["a b", "ab \u0120"])
    w.add_bos_token_id(0)


def scored(w):
    w.add_token_scores([0.0, 0.0, -1.0, -2.0, -3.0, -1.5])
    w.add_unk_token_id(1)
    w.add_add_space_prefix(True)


def main():
    write_gguf("byte_level.gguf", "gpt2", ["<s>", "a", "b", "ab", "\u0120", "ab\u0120"], byte_level)
    write_gguf("sentencepiece.gguf", "llama", ["<s>", "<0x41>", "a", "b", "\u2581", "\u2581a"], scored)
    header = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "b.w": {"dtype": "BF16", "shape": [2, 1], "data_offsets": [8, 12]},
              "__metadata__": {"format": "pt"}}
    text = json.dumps(header)
    put("safetensors", "two.safetensors", struct.pack("<Q", len(text)) + text.encode() + bytes(12))
    for name in sorted(os.listdir(FAMILIES)):
        put("config", f"{name}.json", open(os.path.join(FAMILIES, name, "config.json")).read())
    vocab = {"a": 0, "b": 1, "ab": 2, "\u2581": 3, "<0xC3>": 4, "<0xA9>": 5, "\u0120": 6}
    added = [{"id": 7, "content": "<s>", "single_word": False, "lstrip": True, "rstrip": True, "normalized": False, "special": True}]
    bpe = {"type": "BPE", "vocab": vocab, "merges": ["a b"], "unk_token": "a", "fuse_unk": True}
    put("tokenizer", "byte_level.json", json.dumps({
        "added_tokens": added, "normalizer": {"type": "NFC"}, "decoder": {"type": "ByteLevel"}, "model": bpe | {"ignore_merges": True},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "Split", "pattern": {"Regex": "\\s+(?!\\S)|\\p{L}+"}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]}}))
    put("tokenizer", "sentencepiece.json", json.dumps({
        "added_tokens": added, "model": bpe | {"byte_fallback": True, "merges": [["a", "b"]]},
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"},
                                                           {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}}))
    put("tokenizer", "metaspace.json", json.dumps({
        "added_tokens": added, "model": bpe, "decoder": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first"},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True}}))
    turn = "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' }}"
    put("chat", "chatml.jinja", "{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}" + turn + "{{ '<|im_start|>assistant\\n' }}")
    put("chat", "llama3.jinja", "{{ bos_token }}<|start_header_id|>{{ c | trim }}<|eot_id|>{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}")
    put("chat", "inst.jinja", "{{ bos_token }}{{ '[INST] ' + content.strip() + ' [/INST]' }}")


if __name__ == "__main__":
    main()
