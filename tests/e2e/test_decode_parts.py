# SPDX-License-Identifier: Apache-2.0
"""Presses that go on while answers are generated: rows leave the cache, the context stays as it is."""
import time

from nodes import wait_until
from test_golden import NEAR, context_of, field, golden

TEXT = "The keeper of the lighthouse wrote down every ship that passed, its name and its flag. " * 3
KNORM = "; decode:every=8,buffer=4 | knorm | rows=40"


def pair(scene, model=None, more=()):
    prefill = scene.prefill(model=model, more=("--threads", "0"))
    decode = scene.decode([prefill], model=model, more=("--threads", "0", *more))
    scene.ready(decode)
    return prefill, decode


def generate(scene, decode, chain, max_new, *questions, text=TEXT, more=()):
    asked = [word for q in questions or ("?",) for word in ("--question", q)]
    return scene.ask(decode, "--context", text, *asked, "--press", chain, "--max-new-tokens", str(max_new), *more, seconds=600)


def equal_or_near(answer, made):
    wanted, gaps = field(answer["tokens"]), field(answer["gaps"])
    if made["tokens"] == wanted:
        return None
    at = next((i for i, (a, b) in enumerate(zip(made["tokens"], wanted)) if a != b), min(len(made["tokens"]), len(wanted)))
    if at < len(gaps) and gaps[at] < NEAR:
        return None
    return f"{answer['chain']}: token {at} is {made['tokens'][at:at + 1]}, not {wanted[at:at + 1]}, gap {gaps[at:at + 1]}"


def answers_equal(scene, score):
    model, data = scene.default_model(), golden(scene, "decode_answers.json")
    prefill, decode = pair(scene, model)
    wrong, seen = [], 0
    for a in data["answers"]:
        if score not in a["chain"]:
            continue
        r = generate(scene, decode, a["chain"], a["max_new_tokens"], a["question"], text=context_of(scene, a["context"])).json()
        made = r["answers"][0]
        wrong.append(equal_or_near(a, made))
        assert made["compressions"] > 0, made
        assert made["held_rows"]["min"] == a["smallest"] or "ratio" in a["chain"].split(";")[1], (made, a["smallest"])
        assert made["held_rows"]["max"] <= a["largest"], (made, a["largest"])
        seen += 1
    assert seen > 0 and not any(wrong), wrong


def test_golden_answers_while_knorm_cuts_their_rows(scene):
    answers_equal(scene, "knorm")


def test_golden_answers_while_keydiff_cuts_their_rows(scene):
    answers_equal(scene, "keydiff")


def test_golden_answers_while_tova_cuts_their_rows(scene):
    answers_equal(scene, "tova")


def test_golden_answers_while_expected_cuts_their_rows(scene):
    answers_equal(scene, "expected")
