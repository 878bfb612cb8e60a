# SPDX-License-Identifier: Apache-2.0
"""dms_answers.json: generations in which DMSPress goes on masking rows (decoding=True).  make_dms_answers.py MODEL.gguf

By knorm on the default model; by kvzap (parameters: gates.py) on it and on the tiny checkpoint families/llama.
"""
import os
import sys

import reference as ref

ref.install_ragged_attention()

import gates  # noqa: E402
import kvpress as kv  # noqa: E402
import torch  # noqa: E402
from kvpress.presses.kvzap_press import KVzapConfig, KVzapModel  # noqa: E402
from transformers import AutoModelForCausalLM, DynamicCache  # noqa: E402

NUMBERS = "Write the numbers from 1 to 1000, one per line."
TEXT = "The keeper of the lighthouse wrote down every ship that passed, its name and its flag. " * 2

# context, question, most new tokens, width of kvzap's network (None: knorm), threshold, window
ITEMS = [("note", NUMBERS, 120, None, -16, 16),
         ("lighthouse", "Write a very long story about the keeper.", 100, None, -17, 40),
         ("note", NUMBERS, 120, 0, -0.442, 16),
         ("lighthouse", "Write a very long story about the keeper.", 100, 16, 1.368, 40)]
TINY = [(TEXT, "?", 150, 0, 0.52, 12), (TEXT, "And then, in the winter?", 150, 8, -0.41, 128),
        (TEXT, "And then?", 120, 8, 0.312, 1)]


class Gate(kv.KVzapPress):
    """Its network is given, not fetched. Remembers how near a score came to the threshold."""

    def __init__(self, model, hidden, threshold):
        super().__init__()
        c = model.config
        self.kvzap_model = KVzapModel(KVzapConfig(input_dim=c.hidden_size, output_dim=c.num_key_value_heads,
                                                  n_modules=c.num_hidden_layers, hidden_dim=hidden or None)).eval()
        told = gates.tensors(c.num_hidden_layers, c.hidden_size, c.num_key_value_heads, hidden)
        self.kvzap_model.load_state_dict({name: torch.tensor(values).reshape(shape) for name, (shape, values) in told.items()})
        self.threshold, self.nearest = threshold, float("inf")

    def post_init_from_model(self, model):
        pass

    def score(self, *args):
        scores = super().score(*args)
        self.nearest = min(self.nearest, float((scores - self.threshold).abs().min()))
        return scores


class Held:
    """Rows that every head holds after a forward call."""

    def __init__(self, model):
        self.model, self.rows = model, []

    def see(self, cache):
        for layer, module in zip(cache.layers, self.model.model.layers):
            heads, gone = layer.keys.shape[1], module.self_attn.masked_key_indices
            masked = torch.zeros(heads, dtype=torch.long) if gone is None else torch.bincount(gone[1], minlength=heads)
            self.rows[-1] += (layer.keys.shape[2] - masked).tolist()

    def told(self):
        rows = [n for call in self.rows[:-1] for n in call]  # after the last call nobody holds them any more
        return {"min": min(rows), "max": max(rows), "mean": sum(rows) / len(rows)}


def generate(model, press, context, question, most):
    tokens, gaps, cache, place, feed, held = [], [], DynamicCache(), len(context), question, Held(model)
    end = model.generation_config.eos_token_id
    with torch.no_grad(), press(model):
        model.model(input_ids=torch.tensor([context]), past_key_values=cache)
        while len(tokens) < most:
            positions = torch.arange(place, place + len(feed)).unsqueeze(0)
            logits = model(input_ids=torch.tensor([feed]), past_key_values=cache, position_ids=positions,
                           logits_to_keep=1).logits[0, -1]
            held.rows.append([])
            held.see(cache)
            two = torch.topk(logits, 2).values
            place += len(feed)
            tokens.append(int(logits.argmax()))
            gaps.append(float(f"{float(two[0] - two[1]):.3g}"))
            feed = tokens[-1:]
            if tokens[-1] in (end if isinstance(end, list) else [end]):
                break
    return tokens, gaps, held.told()


def answer(model, name, ids, question_ids, question, most, hidden, threshold, window):
    gate = kv.KnormPress() if hidden is None else Gate(model, hidden, threshold)
    press = kv.DMSPress(gate, threshold=threshold, sliding_window_size=window, decoding=True)
    tokens, gaps, held = generate(model, press, ids, question_ids, most)
    score = "knorm" if hidden is None else f"kvzap:file=gate-{hidden}"
    told = {} if hidden is None else {"nearest": float(f"{gate.nearest:.2g}")}
    out = {"context": name, "question": question, "max_new_tokens": most,
           "chain": f"{score} | dms:threshold={threshold},window={window},decoding=on"} | told | \
          {"masked": press.compression_ratio, "held": held, "tokens": tokens, "gaps": gaps}
    print(out["chain"], told, len(tokens), len(set(tokens)), press.compression_ratio, held, min(gaps), flush=True)
    return out


def main(path):
    tiny = AutoModelForCausalLM.from_pretrained(os.path.join(ref.HERE, "families/llama"), dtype=torch.float32).eval()
    # bytes are ids; without a template a newline ends the question
    short = [answer(tiny, text, list(text.encode()), list((question + "\n").encode()), question, *rest)
             for text, question, *rest in TINY]
    tokenizer, model, answers = ref.load_tokenizer(path), ref.load_model(path), []
    for name, question, *rest in ITEMS:
        ids, after = ref.context_ids(tokenizer, name)
        answers.append(answer(model, name, ids, ref.encode(tokenizer, question + after), question, *rest))
    ref.write_json(os.path.join(ref.HERE, "dms_answers.json"), {"versions": ref.versions(), "model": os.path.basename(path)},
                   answers=answers, tiny=short)


if __name__ == "__main__":
    main(sys.argv[1])
