# SPDX-License-Identifier: Apache-2.0
"""contexts.json: the token ids of every context, template included.  make_contexts.py MODEL.gguf"""
import os
import sys

import reference as ref


def main(path):
    tokenizer = ref.load_tokenizer(path)
    items = []
    for name, files in ref.CONTEXTS.items():
        ids, after = ref.context_ids(tokenizer, name)
        items.append({"name": name, "texts": files, "tokens": len(ids), "suffix": after,
                      "suffix_ids": ref.encode(tokenizer, after), "ids": ids})
    empty, _ = ref.template_split(tokenizer, "")
    head = {"versions": ref.versions(), "model": os.path.basename(path), "prefix_length": len(ref.encode(tokenizer, empty))}
    ref.write_json(os.path.join(ref.HERE, "contexts.json"), head, contexts=items)


if __name__ == "__main__":
    main(sys.argv[1])
