# SPDX-License-Identifier: Apache-2.0
"""The second judge of tokenizer_smollm2.json: llama.cpp's ids of the same 2,000 lines.

    check_llama_ids.py MODEL.gguf      with llama-cpp-python; exit 1 and the first differing lines where any differs

Run with llama-cpp-python 0.3.36: 2,000 of 2,000 equal, special tokens parsed on both sides.
"""
import json
import os
import sys

import llama_cpp

HERE = os.path.dirname(os.path.abspath(__file__))


def main(path):
    model = llama_cpp.Llama(path, vocab_only=True, verbose=False)
    lines = json.load(open(os.path.join(HERE, "tokenizer_lines.json")))["lines"]
    rows = json.load(open(os.path.join(HERE, "tokenizer_smollm2.json")))["rows"]
    differ = []
    for row in rows:
        text, want = lines[row["line"]], [int(i) for i in row["ids"].split()]
        got = model.tokenize(text.encode(), add_bos=False, special=True)
        if got != want:
            differ.append(f"{row['line']}: {text!r}: tokenizers {want}, llama.cpp {got}")
    print(f"llama-cpp-python {llama_cpp.__version__}: {len(rows) - len(differ)} of {len(rows)} lines equal")
    print("\n".join(differ[:10]))
    return 1 if differ or len(rows) != len(lines) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
