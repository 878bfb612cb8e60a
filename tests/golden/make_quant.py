#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes quant.txt: random blocks of every quantised GGUF type and what the package gguf makes of them.

    pip install gguf==0.19.0 numpy && python3 tests/golden/make_quant.py > tests/golden/quant.txt

One line per type: WORD, the blocks in hex, the f32 values (little-endian) in hex. The bytes of a block are random but
its halves (scales) are finite; of each type one scale is negative and one subnormal.
"""
import sys

import gguf
import numpy as np

TYPES = {  # word in dtype.def: (type of gguf, where its f16 scales stand)
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, [0]),
    "q4_0": (gguf.GGMLQuantizationType.Q4_0, [0]),
    "q4_1": (gguf.GGMLQuantizationType.Q4_1, [0, 2]),
    "q4_k": (gguf.GGMLQuantizationType.Q4_K, [0, 2]),
    "q5_k": (gguf.GGMLQuantizationType.Q5_K, [0, 2]),
    "q6_k": (gguf.GGMLQuantizationType.Q6_K, [208]),
}
BLOCKS = 4


def blocks(rng, block_bytes, halves):
    data = rng.integers(0, 256, (BLOCKS, block_bytes), dtype=np.uint8)
    scales = np.array([0.0123, -0.75, 3.0e-6, 1.5], dtype=np.float16)  # usual, negative, subnormal, large
    for at in halves:
        data[:, at : at + 2] = rng.permutation(scales).view(np.uint8).reshape(BLOCKS, 2)
    return data


def main():
    rng = np.random.default_rng(20240611)
    print("# gguf 0.19.0, tests/golden/make_quant.py: word, blocks, f32")
    for word, (kind, halves) in TYPES.items():
        data = blocks(rng, gguf.GGML_QUANT_SIZES[kind][1], halves)
        values = gguf.quants.dequantize(data, kind).astype("<f4")
        assert np.isfinite(values).all(), word
        print(word, data.tobytes().hex(), values.tobytes().hex())


if __name__ == "__main__":
    sys.exit(main())
