# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of fuzz_wire: python3 make_wire.py FOLDER. Needs xxhash (4.1.0 was used)."""
import struct
import sys

import xxhash


def varint(v):
    v &= (1 << 64) - 1
    out = b""
    while v >= 0x80:
        out += bytes([v & 0x7F | 0x80])
        v >>= 7
    return out + bytes([v])


def number(field, v):
    return varint(field << 3) + varint(v)


def fixed64(field, v):
    return varint(field << 3 | 1) + struct.pack("<Q", v)


def data(field, b):
    return varint(field << 3 | 2) + varint(len(b)) + b


def part_bytes(codec, rows, dim, k_dim):
    """Bytes of the parts of a block of f32 rows (docs/WIRE.md)."""
    r, masks = sum(rows), len(rows) * ((dim + 7) // 8) if k_dim < dim else 0
    if codec == 0:
        return [r * k_dim * 4, r * dim * 4, 0, 0, 0, 0, masks]
    if codec < 3:
        return [r * k_dim, r * dim, r * 4, r * 4, 0, 0, masks]
    c = sum(max(n // 32 - 1, 0) * 32 for n in rows)
    return [c * ((k_dim + 1) // 2), c * ((dim + 1) // 2), c // 32 * k_dim * 4, c * 4, (r - c) * k_dim * 4, (r - c) * dim * 4,
            masks]


def block(layer, rows, dim=16, codec=0, k_dim=16, scored=0):
    parts = part_bytes(codec, rows, dim, k_dim) + [sum((min(n, scored) + 7) // 8 for n in rows)]
    padded = [(p + 63) // 64 * 64 for p in parts]
    body = bytes((i * 7 + layer) & 255 for i in range(sum(padded)))
    extra = sum(padded[2:7]) + parts[7] if scored else sum(padded[2:6]) + parts[6]
    head = number(1, layer) + number(2, codec) + number(3, 0) + number(4, dim) + number(5, k_dim)
    head += data(6, b"".join(varint(r) for r in rows)) + number(7, len(body))
    head += fixed64(8, xxhash.xxh3_64(body).intdigest()) + number(9, extra) + (number(11, scored) if scored else b"")
    return body, data(2, head)


def chunk(layer, offset, body):
    return data(15, number(1, layer) + number(2, offset) + data(15, body))


def commit(bodies, rows):
    sums = b"".join(struct.pack("<Q", xxhash.xxh3_64(b).intdigest()) for b in bodies)
    total = number(1, len(bodies)) + number(2, rows) + number(3, sum(map(len, bodies)))
    return data(3, total + fixed64(4, xxhash.xxh3_64(sums).intdigest()))


def whole(layers, piece, codec=0, k_dim=16, many=0, scored=0):
    messages, bodies, rows = [], [], 0
    for layer in range(layers):
        r = [layer + many, 3 - layer + many // 2]
        body, announced = block(layer, r, codec=codec, k_dim=k_dim, scored=scored)
        rows += sum(r)
        bodies.append(body)
        messages.append(announced)
        messages += [chunk(layer, at, body[at:at + piece]) for at in range(0, len(body), piece)]
    return messages + [commit(bodies, rows)]


def order():
    identity = number(1, 1) + fixed64(2, 1) + fixed64(3, 2) + fixed64(4, 3) + data(5, b"f32")
    tokens = b"".join(varint(t) for t in (5, 700, 31))
    body = data(1, identity) + data(2, b"id") + data(4, tokens) + number(5, 1) + data(6, b"knorm | ratio=0.5")
    return data(1, body + data(9, b"grpc") + number(13, 1))


def write(folder, name, mode, messages):
    with open(f"{folder}/{name}", "wb") as f:
        f.write(bytes([mode]))
        for m in messages:
            f.write(struct.pack("<H", len(m)) + m)


def main(folder):
    accepted = data(1, data(1, b"p:1") + data(2, b"grpc") + number(5, 3))
    beat = data(4, data(1, b"forward") + number(2, 1))
    write(folder, "whole", 0, [beat, accepted, beat] + whole(3, 100))
    write(folder, "whole_in_one_piece", 1, whole(3, 1 << 14))
    write(folder, "two_layers", 1, whole(2, 64))
    write(folder, "only_accepted", 0, [accepted])
    write(folder, "commit_first", 1, whole(3, 100)[-1:])
    write(folder, "order", 2, [order(), data(2, number(1, 4)), data(3, b""), data(4, data(2, b"grpc") + number(3, 99))])
    body, announced = block(1, [64, 64])
    write(folder, "gap", 1, [announced, chunk(1, 0, body[:64]), chunk(1, 128, body[128:])])
    for codec, word in ((1, "int8"), (2, "fp8"), (3, "int4")):
        write(folder, word, 3 * codec + 1, whole(3, 1 << 14, codec, many=61))
        write(folder, word + "_channels", 3 * codec + 1, whole(3, 1000, codec, k_dim=9, many=61))
        write(folder, word + "_comes_plain", 3 * codec + 1, whole(3, 1 << 14))
    write(folder, "plain_channels", 1, whole(3, 1000, k_dim=9, many=61))
    write(folder, "scored", 1, whole(3, 1000, many=61, scored=40))
    write(folder, "int4_scored", 10, whole(3, 1000, 3, k_dim=9, many=61, scored=40))
    write(folder, "verdicts_on_other_rows", 1, whole(3, 1000, many=61, scored=41))
    write(folder, "overlap", 1, [announced, chunk(1, 0, body[:640]), chunk(1, 64, body[64:])])


main(sys.argv[1])
