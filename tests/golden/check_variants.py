# SPDX-License-Identifier: Apache-2.0
"""Configurations as the hub holds them, old keys and new, defaults left out: `platen inspect` against transformers.

    pip install transformers==5.2.0 torch==2.15.0 && python check_variants.py PLATEN [NAME...]

For each variant a tiny random checkpoint is written, its config.json is edited, and both programs read the edited directory in f32. A
line says the largest difference of the logits after contexts of some lengths; the program fails where one is 1e-4 or more.
"""
import json
import os
import subprocess
import sys
import tempfile

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

import make_tiny_models as tiny

transformers.logging.set_verbosity_error()
BASE = dict(vocab_size=300, hidden_size=48, intermediate_size=80, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2,
            max_position_embeddings=640, bos_token_id=1, eos_token_id=2, pad_token_id=0)
GONE = object()
LENGTHS = (1, 33, 160, 161, 333)
SHORT, LONG = [1.0 + 0.02 * i for i in range(4)], [1.0 + 0.5 * i for i in range(4)]
LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
YARN = {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 80}
LONGROPE = {"type": "longrope", "short_factor": SHORT, "long_factor": LONG}
FIRST = {"use_sliding_window": True, "sliding_window": 16, "layer_types": GONE}
MIXED = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
PHI = {"num_key_value_heads": 6}
GEMMA = {"head_dim": 16, "num_hidden_layers": 7, "sliding_window": 24}
NO_TYPES = {"layer_types": GONE, "_sliding_window_pattern": GONE}


def old(theta, scaling, **more):
    """Edits towards the older keys."""
    return {"rope_parameters": GONE, "rope_theta": theta, "rope_scaling": scaling} | more


# name: family, what differs from BASE when the model is made, edits of config.json
VARIANTS = {
    "llama2": ("llama", dict(num_key_value_heads=6), old(GONE, GONE, head_dim=GONE, tie_word_embeddings=GONE, num_key_value_heads=GONE)),
    "linear": ("llama", {}, old(50000.0, {"type": "linear", "factor": 2.5})),
    "dynamic": ("llama", dict(max_position_embeddings=100), old(10000, {"type": "dynamic", "factor": 4.0})),
    "llama3": ("llama", dict(num_attention_heads=9, num_key_value_heads=3, head_dim=20, tie_word_embeddings=True), old(5e5, LLAMA3)),
    "yarn": ("llama", dict(head_dim=32), old(10000.0, YARN | {"beta_fast": 16, "beta_slow": 2})),
    "yarn_mscale": ("llama", dict(head_dim=32), old(10000.0, YARN | {"mscale": 0.707, "mscale_all_dim": 0.5, "truncate": False})),
    "yarn_factor": ("llama", dict(head_dim=32), old(10000.0, YARN | {"attention_factor": 1.3})),
    "yarn_top": ("llama", dict(head_dim=32), old(10000.0, YARN, original_max_position_embeddings=100)),
    "longrope": ("llama", {}, old(10000.0, LONGROPE | {"original_max_position_embeddings": 160})),
    "biases": ("llama", dict(attention_bias=True, mlp_bias=True), {}),
    "theta_top": ("llama", {}, {"rope_parameters": {"rope_type": "default"}, "rope_theta": 123456.0}),
    "scaling_null": ("llama", {}, old(77777.0, None)),
    "odd_sizes": ("llama", dict(hidden_size=30, num_attention_heads=5, num_key_value_heads=5, intermediate_size=37, head_dim=6), {}),
    "qwen2": ("qwen2", {}, old(1e6, GONE, use_sliding_window=GONE, layer_types=GONE, sliding_window=16, max_window_layers=1)),
    "qwen2_window": ("qwen2", {}, old(1e6, GONE, **FIRST, max_window_layers=1)),
    "qwen2_28": ("qwen2", {}, old(1e6, GONE, **FIRST, max_window_layers=GONE)),
    "qwen2_types": ("qwen2", {}, FIRST | {"layer_types": MIXED}),
    "qwen2_yarn": ("qwen2", dict(head_dim=16), old(1e6, YARN)),
    "qwen3": ("qwen3", dict(head_dim=24, tie_word_embeddings=True), old(1e6, None)),
    "qwen3_128": ("qwen3", dict(head_dim=128), old(1e6, None, head_dim=GONE, tie_word_embeddings=GONE)),
    "qwen3_bias": ("qwen3", dict(head_dim=16, attention_bias=True), {}),
    "mistral": ("mistral", dict(sliding_window=20), old(10000.0, GONE)),
    "nemo": ("mistral", dict(head_dim=20, sliding_window=None), old(1e6, GONE)),
    "mistral_4096": ("mistral", {}, old(1e6, GONE, sliding_window=GONE, head_dim=None)),
    "phi3": ("phi3", PHI, old(10000.0, None, sliding_window=262144)),
    "phi3_window": ("phi3", PHI, old(10000.0, None, sliding_window=25)),
    "phi3_longrope": ("phi3", PHI, old(10000.0, LONGROPE, sliding_window=640, original_max_position_embeddings=160)),
    "phi3_both": ("phi3", PHI, {"original_max_position_embeddings": 160, "rope_parameters":
                                LONGROPE | {"rope_theta": 10000.0, "original_max_position_embeddings": 50}}),
    "phi4_mini": ("phi3", dict(hidden_size=96, tie_word_embeddings=True),
                  old(10000.0, LONGROPE, partial_rotary_factor=0.5, original_max_position_embeddings=160)),
    "gemma3": ("gemma3_text", GEMMA | dict(query_pre_attn_scalar=20),
               old(1e6, {"rope_type": "linear", "factor": 8.0}, rope_local_base_freq=5000.0, tie_word_embeddings=GONE, **NO_TYPES)),
    "gemma3_pattern": ("gemma3_text", GEMMA, old(1e6, None, **NO_TYPES) | {"sliding_window_pattern": 2}),
    "gemma3_types": ("gemma3_text", GEMMA, {"layer_types": ["full_attention", *MIXED, *MIXED[:2]]}),
    "gemma3_wide": ("gemma3_text", GEMMA, {"sliding_window": 4096}),
    "smollm3": ("smollm3", {}, old(5e6, GONE, tie_word_embeddings=GONE, no_rope_layers=GONE, layer_types=GONE)),
    "smollm3_list": ("smollm3", {}, {"no_rope_layers": [1, 0, 0, 1]}),
    "smollm3_window": ("smollm3", {}, FIRST),
    "smollm3_types": ("smollm3", {}, {"use_sliding_window": False, "sliding_window": 24, "layer_types": MIXED}),
}
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def make(folder, family, sizes, edits, dtype):
    """Writes the directory; returns what transformers reads from it."""
    path = os.path.join(folder, "config.json")
    AutoConfig.for_model(family, **(BASE | sizes)).save_pretrained(folder)
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    config = {key: value for key, value in (config | edits).items() if value is not GONE}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    for key, p in model.named_parameters():
        scale, mean = (0.25, 0.0) if p.ndim == 2 else (0.1, 1.0 if "norm" in key and family != "gemma3_text" else 0.0)
        p.copy_((torch.randn_like(p) * scale + mean).to(dtype).float())
    model.to(dtype).save_pretrained(folder, max_shard_size="40KB")
    with open(path, "w", encoding="utf-8") as file:  # as it was: save_pretrained writes it anew
        json.dump(config, file)
    with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as file:
        json.dump(tiny.byte_tokenizer(), file)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def logits(platen, folder, ids):
    path = os.path.join(folder, "ids.txt")
    with open(path, "w", encoding="utf-8") as file:
        file.write(" ".join(map(str, ids)))
    done = subprocess.run([platen, "inspect", "--model", folder, "--context-tokens", path, "--press", "none", "--dtype", "f32", "--raw",
                           "--logits", "300", "--json"], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.strip())
    return dict(json.loads(done.stdout)["logits"])


def main(platen, *names):
    wrong = 0
    for number, (name, (family, sizes, edits)) in enumerate(VARIANTS.items()):
        if names and name not in names:
            continue
        torch.manual_seed(number)
        with tempfile.TemporaryDirectory() as folder:
            model, worst = make(folder, family, sizes, edits, DTYPES[number % 3]), []
            for length in LENGTHS:
                ids = [(7919 * i * i + 31 * i + 5) % 293 + 3 for i in range(length)]
                want, got = model(input_ids=torch.tensor([ids])).logits[0, -1], logits(platen, folder, ids)
                worst.append(max(abs(float(want[i]) - got[i]) for i in range(300)))
        wrong += max(worst) >= 1e-4
        print(f"{name:16} {'ok' if max(worst) < 1e-4 else 'DIFFERS':8}", *(f"{d:.1e}" for d in worst), flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) > 0)
