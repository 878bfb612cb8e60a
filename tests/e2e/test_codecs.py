# SPDX-License-Identifier: Apache-2.0
"""Rows that are coded on the wire and in the cache: answers, and bytes as they are declared."""
import os

from test_model import pair as default_pair
from test_refused import refused
from tiny_model import HEAD, KV_HEADS, LAYERS

TEXT = "In the harbour of Tormund stand seven lamps, and the keeper lights them from the left to the right. " * 4
CODECS = ("int8", "fp8", "int4")


def head_bytes(kv, rows, channels=HEAD, number=4):
    """Bytes of one head's rows in one layer: docs/WIRE.md, `A block`. `channels`: of K; `number`: bytes of one."""
    if kv == "plain":
        return rows * (channels + HEAD) * number
    if kv != "int4":
        return rows * (channels + HEAD + 8)
    coded = max(rows // 32 - 1, 0) * 32
    return (coded * ((channels + 1) // 2 + HEAD // 2 + 4) + coded // 32 * channels * 4 +
            (rows - coded) * (channels + HEAD) * number)


def check_wire(r):
    assert r["kept_bytes"] <= r["wire_bytes"] <= 1.001 * r["kept_bytes"] + 4096 * LAYERS, r


def test_bytes_are_those_of_the_codec(scene):
    prefill, decode = scene.pair()
    for kv in ("plain",) + CODECS:
        for press, rows, channels in (("none", 401, HEAD), ("streaming | rows=97", 97, HEAD), ("knorm | rows=33", 33, HEAD),
                                      ("think:ratio=0.3 | knorm | rows=200", 200, 12), ("streaming | rows=150 | rerotate", 150, HEAD)):
            r = scene.ask(decode, "--context", TEXT[:400], "--press", press, "--kv", kv, "--max-new-tokens", "4").json()
            assert r["kv"] == kv and r["kept_rows"] == {"min": rows, "mean": rows, "max": rows}, r
            assert r["kept_bytes"] == LAYERS * KV_HEADS * head_bytes(kv, rows, channels), (press, r)
            assert r["dense_bytes"] == 401 * LAYERS * KV_HEADS * HEAD * 2 * 4, r
            check_wire(r)
            assert len(r["answers"][0]["tokens"]) == 4, r


def test_heads_of_different_lengths_are_coded(scene):
    prefill, decode = scene.pair()
    for kv in CODECS:
        r = scene.ask(decode, "--context", TEXT, "--press", "snapkv:window=16 | adakv:alpha=0.1 | ratio=0.5", "--kv", kv).json()
        assert r["kept_rows"]["min"] < r["kept_rows"]["max"], r
        rows = round(r["kept_rows"]["mean"] * LAYERS * KV_HEADS)
        if kv == "int4":
            assert rows * (HEAD + 8) < r["kept_bytes"] < rows * HEAD * 2 * 4, r
        else:
            assert r["kept_bytes"] == rows * (2 * HEAD + 8), r
        check_wire(r)


def test_a_coded_context_answers_the_same_every_time(scene):
    prefill, decode = scene.pair()
    for kv in CODECS:
        ask = ("--press", "knorm | ratio=0.5", "--kv", kv)
        fresh = scene.ask(decode, "--context", TEXT, "--question", "a?", "--question", "b?", *ask).json()
        made = scene.platen("create", "--server", decode.address, "--context", TEXT, "--json", *ask).json()
        assert made["kept_bytes"] == fresh["kept_bytes"], made
        for _ in range(2):
            r = scene.ask(decode, "--handle", made["handle"], "--question", "a?", "--question", "b?").json()
            assert r["answers"] == fresh["answers"] and r["kv"] == kv and r["kept_bytes"] == fresh["kept_bytes"], r
        alone = scene.ask(decode, "--context", TEXT, "--question", "b?", *ask).json()
        assert alone["answers"][0] == fresh["answers"][1]


def test_contexts_of_every_codec_live_beside_each_other(scene):
    prefill, decode = scene.pair()
    handles, answers = {}, {}
    for kv in ("plain",) + CODECS:
        made = scene.platen("create", "--server", decode.address, "--context", TEXT, "--json", "--kv", kv).json()
        handles[kv] = made["handle"]
        answers[kv] = scene.ask(decode, "--handle", made["handle"], "--question", "?").json()["answers"]
    assert len(set(handles.values())) == 4
    running = {kv: scene.start_ask(decode, "--json", "--handle", h, "--question", "?") for kv, h in handles.items()}
    for kv, asked in running.items():
        r = asked.end().json()
        assert r["answers"] == answers[kv] and r["kv"] == kv, r


def test_an_unknown_codec_is_refused_with_the_words_there_are(scene):
    prefill, decode = scene.pair()
    for word, near in (("int9", "int8"), ("fp9", "fp8"), ("plian", "plain"), ("in8", "int8")):
        for command in ("ask", "create"):
            asked = scene.platen(command, "--server", decode.address, "--context", TEXT, "--kv", word)
            refused(asked, 1, "INVALID_ARGUMENT", word, "plain, int8, fp8, int4")
            assert f"`{near}`" in asked.err, asked.err


def test_the_decode_node_promises_room_for_coded_rows(scene):
    prefill = scene.prefill()
    context = "x" * 3000  # 8.8 MiB plain, 2.7 MiB as int8
    decode = scene.decode([prefill], more=("--block-mib", "12"))
    scene.ready(decode)
    for kv, count in (("plain", 1), ("int8", 4)):
        handles = []
        while True:
            made = scene.platen("create", "--server", decode.address, "--context", context, "--kv", kv, "--json")
            if made.code != 0:
                refused(made, 1, "RESOURCE_EXHAUSTED")
                break
            handles.append(made.json()["handle"])
        assert len(handles) == count, (kv, len(handles))
        for handle in handles:
            assert scene.platen("release", "--server", decode.address, "--handle", handle).code == 0


def test_the_default_model_answers_from_coded_rows(scene):
    prefill, decode = default_pair(scene)
    document = os.path.join(scene.root, "deploy/quickstart/observatory.txt")
    for kv in CODECS:
        r = scene.ask(decode, "--context-file", document, "--kv", kv, "--press", "snapkv:window=64 | adakv | ratio=0.5",
                      "--question", "What does a ticket cost?").json()
        whole = "12 crowns for adults and 5 crowns for children" if kv != "int4" else "12 crowns"
        assert whole in r["answers"][0]["text"], (kv, r)
        assert r["kept_bytes"] < 0.3 * r["dense_bytes"], r


def test_bench_decodes_coded_rows(scene):
    common = ("bench", "--model", scene.tiny, "--decode", "4", "--batch", "2", "--context", "300", "--rounds", "1", "--json",
              "--dtype", "f32")
    tail = 2 * LAYERS * KV_HEADS * HEAD * 2 * 4 * 2.5
    for kv in ("f32", "plain") + CODECS:
        r = scene.platen(*common, "--kv", kv).json()
        assert r["kv"] == ("plain" if kv == "f32" else kv), r
        assert r["kv_bytes"] == 2 * LAYERS * KV_HEADS * head_bytes(r["kv"], 300) + tail, r
    refused(scene.platen(*common, "--kv", "bf16"), 1, "INVALID_ARGUMENT", "bf16")


def test_bench_codes_the_rows_of_a_prefill_where_asked(scene):
    """--press none keeps all rows: what is added is the coding alone, so it shows in press_ms, and says so."""
    common = ("bench", "--model", scene.tiny, "--prefill", "600", "--rounds", "3", "--json", "--dtype", "f32", "--threads", "1")
    bare = scene.platen(*common, "--press", "none").json()
    assert "kv" not in bare, bare
    for kv in ("f32", "plain") + CODECS:
        r = scene.platen(*common, "--kv", kv).json()
        assert r["kv"] == ("plain" if kv == "f32" else kv) and r["press"] == "none", r
        assert r["first_tokens"] == bare["first_tokens"] and r["press_ms"] > bare["press_ms"], (r, bare)
    pressed = scene.platen(*common, "--kv", "int8", "--press", "knorm | ratio=0.5").json()
    assert pressed["kv"] == "int8" and pressed["press_ms"] > 0, pressed
    refused(scene.platen(*common, "--kv", "bf16"), 1, "INVALID_ARGUMENT", "bf16")
