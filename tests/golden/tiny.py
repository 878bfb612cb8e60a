# SPDX-License-Identifier: Apache-2.0
"""Small random models that a C test can make again, bit for bit, from a formula.

    value(seed, i):  z = seed + (i+1) * 0x9E3779B97F4A7C15;  z = (z ^ z>>30) * 0xBF58476D1CE4E5B9;
                     z = (z ^ z>>27) * 0x94D049BB133111EB;  z ^= z>>31   (mod 2^64);
                     u = z >> 40 (24 bits);  value = 2 u / 2^24 - 1       (exact in float32)

Tensor t of model m has seed 1000 m + t and is row-major in HF's shape [out][in]; element i is value(seed, i) * 2^-shift,
exact in float32; a norm's weight is (float)(1.0 + 0.25 * value), one rounding. The order of the tensors:
    t = 0 embedding [vocab][hidden];  layer l: t = 1 + 9 l + j with
    j = 0 input norm, 1 q, 2 k, 3 v, 4 o, 5 post-attention norm, 6 gate, 7 up, 8 down;
    t = 1 + 9 L final norm;  t = 2 + 9 L head [vocab][hidden], where it is not tied.
Token i of the context is (u of value(1000 m + 900, i)) mod vocab, where vocab is 2048 and the first 256 ids are the bytes,
so that a text's ids are its UTF-8 bytes (no merges).
Parameter files (what the learned presses read) have seeds 1000 m + 500 + number; see `files`.

    tiny.py --write DIR     writes every model as a HF directory with its parameter files in DIR/<name>/press
"""
import json
import os
import sys

import numpy as np
import reference as ref
import torch
from transformers import LlamaConfig

VOCAB = 2048
MODELS = {
    #            m  layers q_heads kv_heads head_size hidden inter tied
    "g1": dict(m=1, layers=2, q_heads=4, kv_heads=4, head_size=64, hidden=128, inter=256, tied=True),
    "g2": dict(m=2, layers=3, q_heads=4, kv_heads=2, head_size=64, hidden=128, inter=256, tied=True),
    "g3": dict(m=3, layers=2, q_heads=6, kv_heads=2, head_size=64, hidden=192, inter=384, tied=True),
    "g4": dict(m=4, layers=4, q_heads=8, kv_heads=2, head_size=128, hidden=128, inter=256, tied=False),
}
SHIFTS = {"embed": 0, "q": 2, "k": 2, "v": 3, "o": 3, "gate": 3, "up": 3, "down": 4, "head": 3}


def units(seed, count):
    """The 24 bits of value(seed, 0..count-1)."""
    z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) >> np.uint64(40)


def value(seed, shape):
    """value(seed, .) as float64, in shape."""
    return (units(seed, int(np.prod(shape))).astype(np.float64) / 2**23 - 1).reshape(shape)


def tensors(name):
    """(HF name, array float32) of every tensor of a model."""
    m = MODELS[name]
    seed, d, hidden, inter = 1000 * m["m"], m["head_size"], m["hidden"], m["inter"]
    norm = lambda t: (1.0 + 0.25 * value(seed + t, (hidden,))).astype(np.float32)
    even = lambda t, kind, *shape: (value(seed + t, shape) * 2.0 ** -SHIFTS[kind]).astype(np.float32)
    out = {"model.embed_tokens.weight": even(0, "embed", VOCAB, hidden)}
    for layer in range(m["layers"]):
        p, t = f"model.layers.{layer}.", 1 + 9 * layer
        out[p + "input_layernorm.weight"] = norm(t)
        out[p + "self_attn.q_proj.weight"] = even(t + 1, "q", m["q_heads"] * d, hidden)
        out[p + "self_attn.k_proj.weight"] = even(t + 2, "k", m["kv_heads"] * d, hidden)
        out[p + "self_attn.v_proj.weight"] = even(t + 3, "v", m["kv_heads"] * d, hidden)
        out[p + "self_attn.o_proj.weight"] = even(t + 4, "o", hidden, m["q_heads"] * d)
        out[p + "post_attention_layernorm.weight"] = norm(t + 5)
        out[p + "mlp.gate_proj.weight"] = even(t + 6, "gate", inter, hidden)
        out[p + "mlp.up_proj.weight"] = even(t + 7, "up", inter, hidden)
        out[p + "mlp.down_proj.weight"] = even(t + 8, "down", hidden, inter)
    out["model.norm.weight"] = norm(1 + 9 * m["layers"])
    if not m["tied"]:
        out["lm_head.weight"] = even(2 + 9 * m["layers"], "head", VOCAB, hidden)
    return out


def hf_config(name):
    m = MODELS[name]
    return dict(vocab_size=VOCAB, hidden_size=m["hidden"], intermediate_size=m["inter"], num_hidden_layers=m["layers"],
                num_attention_heads=m["q_heads"], num_key_value_heads=m["kv_heads"], head_dim=m["head_size"],
                max_position_embeddings=8192, rms_norm_eps=1e-5, tie_word_embeddings=m["tied"], attention_bias=False,
                mlp_bias=False, hidden_act="silu", bos_token_id=0, eos_token_id=1)


def model(name, dtype=torch.float32):
    config = LlamaConfig(**hf_config(name), rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    state = {key: torch.from_numpy(array).to(dtype) for key, array in tensors(name).items()}
    return ref.model_from_state(config, state, dtype)


def context(name, length):
    return [int(u % VOCAB) for u in units(1000 * MODELS[name]["m"] + 900, length)]


def encode(text):
    return list(text.encode())


# ---- parameter files ------------------------------------------------------------------------------------------

def arrays(name):
    """Parameter files as arrays, float32: file -> {tensor: array}."""
    m = MODELS[name]
    L, H, G, d, D = m["layers"], m["q_heads"], m["kv_heads"], m["head_size"], m["hidden"]
    group, seed = H // G, 1000 * m["m"] + 500
    v = lambda n, *shape: value(seed + n, shape)
    f = lambda array: np.ascontiguousarray(array.astype(np.float32))
    a = v(2, L, H, d, d)
    cov = (a + a.swapaxes(-1, -2)) / 32
    at = np.arange(d)
    cov[:, :, at, at] = 1 + a[:, :, at, at] / 2
    files = {
        "qfilter": {"q_filters": f(v(0, L, G, d))},
        "stats": {"query_mean": f(v(1, L, H, d)), "query_cov": f(cov)},
        "kvzap-linear": {}, "kvzap-mlp": {}, "fast": {},
        "duo": {"scores": (v(60, L, G) + 1) / 2, "sink_size": 4, "recent_size": 16},
        "lukv": {"curve": 0.5 + v(61, 99, L, G) / 4},
    }
    for l in range(L):
        files["kvzap-linear"] |= {f"layers.{l}.weight": f(v(100 + 2 * l, G, D) / 8), f"layers.{l}.bias": f(v(101 + 2 * l, G))}
        files["kvzap-mlp"] |= {f"layers.{l}.0.weight": f(v(120 + 4 * l, 64, D) / 8), f"layers.{l}.0.bias": f(v(121 + 4 * l, 64)),
                               f"layers.{l}.2.weight": f(v(122 + 4 * l, G, 64) / 4), f"layers.{l}.2.bias": f(v(123 + 4 * l, G))}
        t = 200 + 10 * l
        files["fast"] |= {
            f"layers.{l}.q_proj.weight": f(v(t, G * group * 16, D) / 4), f"layers.{l}.q_proj.bias": f(v(t + 1, G * group * 16)),
            f"layers.{l}.k_proj.weight": f(v(t + 2, G * 16, D) / 4), f"layers.{l}.q_norm.weight": f(1 + v(t + 3, 16) / 4),
            f"layers.{l}.k_norm.weight": f(1 + v(t + 4, 16) / 4), f"layers.{l}.k_base": f(v(t + 5, G, 1, 16, 16)),
            f"layers.{l}.b": f(v(t + 6, G, 1, group))}
    return files


def files(name, dtype=torch.float32):
    """The same as kvpress' classes hold them."""
    from kvpress.presses.fastkvzip_press import FastKVzipGate
    from kvpress.presses.kvzap_press import KVzapConfig, KVzapModel

    m, data = MODELS[name], arrays(name)
    G, D, L = m["kv_heads"], m["hidden"], m["layers"]
    t = lambda array: torch.from_numpy(np.asarray(array)).to(dtype)
    out = {"qfilter": t(data["qfilter"]["q_filters"]),
           "stats": (t(data["stats"]["query_mean"]), t(data["stats"]["query_cov"])),
           "duo": (data["duo"]["scores"], data["duo"]["sink_size"], data["duo"]["recent_size"]),
           "lukv": data["lukv"]["curve"]}
    for kind, hidden in (("kvzap-linear", None), ("kvzap-mlp", 64)):
        net = KVzapModel(KVzapConfig(input_dim=D, output_dim=G, n_modules=L, hidden_dim=hidden)).to(dtype)
        net.load_state_dict({key: t(array) for key, array in data[kind].items()})
        out[kind] = net.eval()
    out["fast"] = []
    for l in range(L):
        gate = FastKVzipGate(l, D, G, m["q_heads"] // G, dtype, 16, 16).to(dtype)
        gate.load_state_dict({key.split(".", 2)[2]: t(array) for key, array in data["fast"].items()
                              if key.startswith(f"layers.{l}.")})
        out["fast"].append(gate)
    return out


def byte_tokenizer():
    """tokenizer.json whose ids 0..255 are the bytes and 256.. unused words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letter, spare = {}, 256
    for byte in range(256):
        letter[byte] = chr(byte) if byte in plain else chr(spare)
        spare += byte not in plain
    vocab = {letter[byte]: byte for byte in range(256)} | {f"word{i}": i for i in range(256, VOCAB)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def write(folder):
    from safetensors.numpy import save_file

    for name in MODELS:
        to = os.path.join(folder, name)
        os.makedirs(os.path.join(to, "press"), exist_ok=True)
        save_file(tensors(name), os.path.join(to, "model.safetensors"))
        config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32",
                  "rope_theta": 10000.0} | hf_config(name)
        for file, content in (("config.json", config), ("generation_config.json", {"eos_token_id": 1})):
            with open(os.path.join(to, file), "w") as out:
                json.dump(content, out, indent=1)
        byte_tokenizer().save(os.path.join(to, "tokenizer.json"))
        for file, content in arrays(name).items():
            path = os.path.join(to, "press", file)
            if file == "lukv":
                np.save(path + ".npy", content["curve"])
            elif file == "duo":
                np.savetxt(path + ".tsv", content["scores"], delimiter="\t", fmt="%.17g")
                with open(os.path.join(to, "press", "config.json"), "w") as out:
                    json.dump({key: content[key] for key in ("sink_size", "recent_size")}, out)
            else:
                save_file(content, path + ".safetensors")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"] and len(sys.argv) == 3:
        write(sys.argv[2])
    else:
        sys.exit(__doc__)
