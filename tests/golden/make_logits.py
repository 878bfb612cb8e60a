# SPDX-License-Identifier: Apache-2.0
"""smollm2_logits.json: the largest logits after the last token of three contexts, and a fixed set of others, in
float32; `error` is the largest difference to the float64 model over the whole vocabulary.  make_logits.py MODEL.gguf
"""
import os
import sys

import reference as ref
import torch

OTHERS = [0, 1, 2, 3, 17, 198, 260, 1000, 4093, 9999, 20000, 30000, 40000, 49151]


def logits(model, ids):
    return model(input_ids=torch.tensor([ids]), logits_to_keep=1).logits[0, -1]


def main(path):
    tokenizer = ref.load_tokenizer(path)
    single, double = ref.load_model(path), ref.load_model(path, torch.float64)
    items = []
    for name in ("fox", "lighthouse", "survey"):
        ids, _ = ref.context_ids(tokenizer, name)
        values = logits(single, ids)
        top = torch.topk(values, 20).indices.tolist()
        items.append({"context": name, "tokens": len(ids), "error": float((values - logits(double, ids)).abs().max()),
                      "top": [[i, round(float(values[i]), 6)] for i in top],
                      "others": [[i, round(float(values[i]), 6)] for i in OTHERS]})
        print(name, items[-1]["error"], items[-1]["top"][:2])
    head = {"versions": ref.versions(), "model": os.path.basename(path)}
    ref.write_json(os.path.join(ref.HERE, "smollm2_logits.json"), head, sequences=items)


if __name__ == "__main__":
    main(sys.argv[1])
