# SPDX-License-Identifier: Apache-2.0
"""decode_answers.json: long generations in which rows leave the cache.  make_decode_answers.py MODEL.gguf

The scores are those that do not look at storage positions, so that kvpress' order of rows makes no difference.
"""
import os
import sys

import reference as ref

ref.install_ragged_attention()

import gates  # noqa: E402
import torch  # noqa: E402
from chains import Context  # noqa: E402
from decoding import decode_press, feed, following, split  # noqa: E402
from pressing import Prefill, press_rows  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

ITEMS = [
    ("note", "Write the numbers from 1 to 1000, one per line.", 1500, "; decode:every=128 | knorm | rows=256"),
    ("note", "Write the numbers from 1 to 1000, one per line.", 600, "; decode:every=128 | keydiff | rows=256"),
    ("recipe", "Write a very long story about the baker.", 600, "; decode:every=128 | tova | rows=256"),
    ("recipe", "Write a very long story about the baker.", 600, "; decode:every=128 | expected | rows=256"),
    ("lighthouse", "Write a very long story about the keeper.", 400, "; decode:every=64 | knorm | ratio=0.5"),
    ("lighthouse", "Write a very long story about the keeper.", 400,
     "snapkv:window=16 | ratio=0.5 ; decode:every=64 | keydiff | rows=200"),
    ("minutes", "Write a very long story about the meeting.", 250,
     "expected | ratio=0.5 ; decode:every=100 | tova | rows=300"),
    ("lighthouse", "Write a very long story about the sea.", 250,
     "knorm | ratio=0.3 | snapkv:window=16 | ratio=0.3 ; decode:every=64 | expected | rows=150"),
    ("note", "Write the numbers from 1 to 1000, one per line.", 250,
     "; decode:every=50,buffer=20 | expected | rows=100"),
    ("note", "Write a very long letter.", 150, "; decode:every=1 | keydiff | rows=80"),
]

# of the tiny checkpoint families/llama, whose ids are bytes: where parameters come from a file (gates.query_stats)
TINY = [
    ("The keeper wrote down every ship that passed.", "And then, in the winter?", 90,
     "; decode:every=5 | expected-stats:file=stats,future=30,sink=1,eps=0.01 | rows=31"),
    ("The keeper wrote down every ship that passed.", "?", 90,
     "; decode:every=9,buffer=3 | expected-stats:file=stats,future=7,sink=0 | rows=20"),
    ("The keeper wrote down every ship.", "When?", 60,
     "; decode:every=4,buffer=0 | expected-stats:file=stats,future=2,sink=0,cov=off | ratio=0.5"),
]


def generate(model, follow, question, most):
    """As reference.generate, and the length of a head after each forward pass, at its largest and smallest."""
    tokens, gaps, held, feed_next = [], [], [], question
    while len(tokens) < most:
        logits = feed(model, follow, feed_next)
        held.append(follow.cache.layers[0].keys.shape[2])
        two = torch.topk(logits, 2).values
        tokens.append(int(logits.argmax()))
        gaps.append(float(f"{float(two[0] - two[1]):.3g}"))
        feed_next = tokens[-1:]
        if tokens[-1] == model.generation_config.eos_token_id:
            break
    return tokens, gaps, held


def answer(context, ids, question, most, chain):
    before, part = split(chain)
    pressed = press_rows(Prefill(context.model, ids), before, context)
    pressed.arm()
    with following(context.model, pressed, decode_press(part, context)) as follow:
        tokens, gaps, held = generate(context.model, follow, question, most)
    print(chain, len(tokens), len(set(tokens)), max(held), min(gaps), flush=True)
    return tokens, {"tokens": tokens, "gaps": gaps, "largest": max(held), "smallest": min(held[-most // 2:]), "last": held[-1]}


def tiny_answers():
    model, items = AutoModelForCausalLM.from_pretrained(os.path.join(ref.HERE, "families/llama"), dtype=torch.float32).eval(), []
    c = model.config
    stats = gates.query_stats(c.num_hidden_layers, c.num_attention_heads, c.head_dim)
    context = Context(model, files={"stats": tuple(torch.tensor(values).reshape(shape) for shape, values in stats.values())})
    for text, question, most, chain in TINY:
        told = answer(context, list(text.encode()), list((question + "\n").encode()), most, chain)[1]
        items.append({"context": text, "question": question, "max_new_tokens": most, "chain": chain} | told)
    return items


def main(path):
    tiny = tiny_answers()
    tokenizer, model = ref.load_tokenizer(path), ref.load_model(path)
    context, answers = Context(model), []
    for name, question, most, chain in ITEMS:
        ids, after = ref.context_ids(tokenizer, name)
        tokens, told = answer(context, ids, ref.encode(tokenizer, question + after), most, chain)
        answers.append({"context": name, "question": question, "max_new_tokens": most, "chain": chain,
                        "text": tokenizer.decode(tokens, skip_special_tokens=True)} | told)
    ref.write_json(os.path.join(ref.HERE, "decode_answers.json"),
                   {"versions": ref.versions(), "model": os.path.basename(path)}, answers=answers, tiny=tiny)


if __name__ == "__main__":
    main(sys.argv[1])
