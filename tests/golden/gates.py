# SPDX-License-Identifier: Apache-2.0
"""Parameters of kvzap and expected-stats by a formula, for any model: what makes golden answers and the tests of them both use. Plain Python."""
import json
import struct


def numbers(seed, count, scale):
    """In [-scale, scale), eight bits each: float32 holds them exactly."""
    x, out = seed * 2654435761 % 2**32 or 1, []
    for _ in range(count):
        x ^= x << 13 & 0xffffffff
        x ^= x >> 17
        x ^= x << 5 & 0xffffffff
        out.append(((x >> 24) - 128) / 128 * scale)
    return out


def tensors(layers, dim, heads, hidden):
    """name -> (shape, values); hidden 0: linear."""
    out = {}
    for l in range(layers):
        parts = [("", heads, dim)] if hidden == 0 else [("0.", hidden, dim), ("2.", heads, hidden)]
        for at, (part, rows, cols) in enumerate(parts):
            out[f"layers.{l}.{part}weight"] = [rows, cols], numbers(4 * l + 2 * at + 1, rows * cols, 1)
            out[f"layers.{l}.{part}bias"] = [rows], numbers(4 * l + 2 * at + 2, rows, 1 / 4)
    return out


def query_stats(layers, heads, dim):
    """What expected-stats reads: name -> (shape, values). Every covariance is A + A' with a heavy diagonal."""
    cov = []
    for at in range(layers * heads):
        a = numbers(at + 1000, dim * dim, 1 / 8)
        cov += [a[i * dim + j] + a[j * dim + i] + 2 * (i == j) for i in range(dim) for j in range(dim)]
    return {"query_mean": ([layers, heads, dim], numbers(999, layers * heads * dim, 2)),
            "query_cov": ([layers, heads, dim, dim], cov)}


def safetensors(tensors):
    """The bytes of a file."""
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        more = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(more)]}
        data += more
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data
