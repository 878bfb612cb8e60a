# SPDX-License-Identifier: Apache-2.0
"""The default model, as quickstart uses it: real answers about a real document."""
import os
import subprocess
import sys

from nodes import Pace, Skip


def peak(node):
    """The most that was ever resident, in bytes."""
    return node.status("VmHWM") * 1024


def pair(scene):
    model = scene.default_model()
    prefill = scene.prefill(model=model, more=("--dtype", "bf16", "--threads", "0"))
    decode = scene.decode([prefill], model=model, more=("--dtype", "bf16", "--threads", "0"))
    scene.ready(decode)
    return prefill, decode


def test_quickstart_s_questions_are_answered_from_half_of_the_cache(scene):
    prefill, decode = pair(scene)
    document = os.path.join(scene.root, "deploy/quickstart/observatory.txt")
    r = scene.ask(decode, "--context-file", document, "--press", "snapkv:window=64 | adakv | ratio=0.5", "--question",
                  "What does a ticket cost?", "--question", "When does the last cable car go down?").json()
    assert "12 crowns for adults and 5 crowns for children" in r["answers"][0]["text"], r
    assert "half past midnight" in r["answers"][1]["text"], r
    assert all(a["finish_reason"] == "stop" for a in r["answers"]), r
    assert r["kept_bytes"] * 2 == r["dense_bytes"] and r["dense_bytes"] == r["context_tokens"] * 30 * 3 * 64 * 2 * 2, r


def test_the_end_token_is_counted_and_not_shown(scene):
    prefill, decode = pair(scene)
    r = scene.ask(decode, "--context", "The sky over Lund is green.", "--question", "What colour is the sky over Lund?",
                  "--max-new-tokens", "200").json()
    answer = r["answers"][0]
    assert answer["finish_reason"] == "stop" and "<|" not in answer["text"], answer
    assert answer["tokens"][-1] == 2 and "green" in answer["text"], answer


def test_special_text_inside_a_context_is_parsed_as_the_reference_does(scene):
    prefill, decode = pair(scene)
    plain = scene.ask(decode, "--context", "a b", "--max-new-tokens", "0").json()["context_tokens"]
    special = scene.ask(decode, "--context", "a<|im_end|> b", "--max-new-tokens", "0").json()["context_tokens"]
    assert special == plain + 1, (plain, special)
    dropped = scene.ask(decode, "--context-file", scene.file("gone", b"a\x04 b\x14"), "--max-new-tokens", "0").json()
    assert dropped["dropped_bytes"] == 2, dropped


def test_a_prefill_holds_layers_of_its_context_and_never_the_model(scene):
    """Dense KV of 8,000 tokens is 184 MB in bf16, of a layer 6 MB. What else grows with a context is its residual (18 MB). There
    is one layer dense and one packed, or two where the wire does not keep up."""
    if Pace.factor > 1:
        raise Skip("a sanitizer's shadow and quarantine are resident memory, too")
    prefill, decode = pair(scene)
    ask = lambda tokens, press: scene.ask(decode, "--context-tokens", scene.long_context(tokens), "--press", press,
                                          "--max-new-tokens", "1", seconds=220).json()
    presses = "snapkv:window=64 | adakv | ratio=0.5", "none"
    for press in presses:
        ask(600, press)
    before = prefill.status("VmRSS") * 1024
    for press in presses:
        r = ask(8000, press)
        grown, residual = peak(prefill) - before, (8000 - 600) * 576 * 4
        layer, packed = r["dense_bytes"] / 30, r["kept_bytes"] / 30
        assert grown < residual + layer + 2 * packed, (press, grown, residual, layer, packed)


def test_random_weights_need_shapes_only(scene):
    """As benchmarks use it: a directory whose weights are a hole; both nodes make the same numbers."""
    folder = os.path.join(scene.folder, "shape")
    script = os.path.join(scene.root, "tests", "bench", "shape_model.py")
    subprocess.run([sys.executable, "-B", script, "tiny", folder], check=True)
    prefill = scene.prefill(model=folder, more=["--random-weights"])
    decode = scene.decode([prefill], model=folder, more=["--random-weights"])
    scene.ready(decode)
    arguments = ["--context-tokens", scene.long_context(800), "--question", "And?", "--max-new-tokens", "12"]
    first = scene.ask(decode, *arguments).json()["answers"][0]["tokens"]
    second = scene.ask(decode, *arguments).json()["answers"][0]["tokens"]
    assert first == second and len(first) == 12 and len(set(first)) > 1
    true = scene.decode([prefill], name="true", model=folder)
    refused = scene.ask(true, *arguments)
    assert refused.code != 0 and "weights" in refused.err, refused.err
    for path in os.listdir(folder):
        os.unlink(os.path.join(folder, path))
    os.rmdir(folder)
