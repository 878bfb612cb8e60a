# SPDX-License-Identifier: Apache-2.0
"""dms_answers.json: generations in which DMSPress goes on masking rows (decoding=True).  make_dms_answers.py MODEL.gguf"""
import os
import sys

import kvpress as kv
import reference as ref
import torch
from transformers import DynamicCache

ITEMS = [("note", "Write the numbers from 1 to 1000, one per line.", 120, -16, 16),
         ("lighthouse", "Write a very long story about the keeper.", 100, -17, 40)]


def generate(model, press, context, question, most):
    tokens, gaps, cache, place, feed = [], [], DynamicCache(), len(context), question
    with torch.no_grad(), press(model):
        model.model(input_ids=torch.tensor([context]), past_key_values=cache)
        while len(tokens) < most:
            positions = torch.arange(place, place + len(feed)).unsqueeze(0)
            logits = model(input_ids=torch.tensor([feed]), past_key_values=cache, position_ids=positions,
                           logits_to_keep=1).logits[0, -1]
            two = torch.topk(logits, 2).values
            place += len(feed)
            tokens.append(int(logits.argmax()))
            gaps.append(float(f"{float(two[0] - two[1]):.3g}"))
            feed = tokens[-1:]
            if tokens[-1] == model.generation_config.eos_token_id:
                break
    return tokens, gaps


def main(path):
    tokenizer, model, answers = ref.load_tokenizer(path), ref.load_model(path), []
    for name, question, most, threshold, window in ITEMS:
        ids, after = ref.context_ids(tokenizer, name)
        press = kv.DMSPress(kv.KnormPress(), threshold=threshold, sliding_window_size=window, decoding=True)
        tokens, gaps = generate(model, press, ids, ref.encode(tokenizer, question + after), most)
        answers.append({"context": name, "question": question, "max_new_tokens": most,
                        "chain": f"knorm | dms:threshold={threshold},window={window},decoding=on",
                        "masked": press.compression_ratio, "tokens": tokens, "gaps": gaps})
        print(answers[-1]["chain"], len(tokens), press.compression_ratio, min(gaps), flush=True)
    ref.write_json(os.path.join(ref.HERE, "dms_answers.json"), {"versions": ref.versions(), "model": os.path.basename(path)},
                   answers=answers)


if __name__ == "__main__":
    main(sys.argv[1])
