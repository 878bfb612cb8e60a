# SPDX-License-Identifier: Apache-2.0
"""Answers of the default model in f32, through both nodes, equal the reference's token for token (tests/golden)."""
import json
import os

NEAR = 1e-3  # of the two largest logits: there another correct program may go on differently
TOPICS = ("fox", "note", "mixed")


def golden(scene, name):
    with open(os.path.join(scene.root, "tests/golden", name)) as f:
        return json.load(f)


def field(value):
    """Lists are kept as text, one item a line."""
    return json.loads(value) if isinstance(value, str) else value


def context_of(scene, topic):
    for context in golden(scene, "contexts.json")["contexts"]:
        if context["name"] == topic:
            names = field(context["texts"])
            return "".join(open(os.path.join(scene.root, "tests/golden/texts", n if n.endswith(".txt") else n + ".txt")).read() for n in names)
    raise AssertionError(f"no golden context is called {topic}")


def same_or_near(answer, made):
    """None, or what differs and is not excused by a near tie or by rows on the edge of a choice."""
    wanted, gaps = field(answer["tokens"]), field(answer["gaps"])
    if made == wanted:
        return None
    at = next((i for i, (a, b) in enumerate(zip(made, wanted)) if a != b), min(len(made), len(wanted)))
    if int(answer["edges"]) > 0 or (at < len(gaps) and gaps[at] < NEAR):
        return None
    return f"{answer['context']} | {answer['chain']} | {answer['question']}: token {at} is {made[at:at + 1]}, not {wanted[at:at + 1]}"


def answers_of(scene, data, wanted):
    """Asks both nodes for all answers that are wanted, and fails with those that differ; how many there were."""
    model = scene.default_model()
    prefill = scene.prefill(model=model, more=("--dtype", "f32", "--threads", "0"))
    decode = scene.decode([prefill], model=model, more=("--dtype", "f32", "--threads", "0"))
    scene.ready(decode)
    groups = {}
    for a in data["answers"]:
        if wanted(a):
            groups.setdefault((a["context"], a["chain"]), []).append(a)
    assert groups, "the golden file has no such chain"
    wrong = []
    for (topic, chain), answers in groups.items():
        questions = [word for a in answers for word in ("--question", a["question"])]
        press = () if chain == "none" else ("--press", chain)
        r = scene.ask(decode, "--context", context_of(scene, topic), *questions, *press, "--max-new-tokens",
                      str(data["max_new_tokens"])).json()
        wrong += [w for w in (same_or_near(a, m["tokens"]) for a, m in zip(answers, r["answers"])) if w]
    assert not wrong, wrong
    return sum(len(answers) for answers in groups.values())


def answers_equal(scene, wanted_chain):
    answers_of(scene, golden(scene, "smollm2_answers.json"), lambda a: a["context"] in TOPICS and wanted_chain(a["chain"]))


def test_golden_answers_without_a_press(scene):
    answers_equal(scene, lambda chain: chain == "none")


def test_golden_answers_with_knorm(scene):
    answers_equal(scene, lambda chain: chain.startswith("knorm") and "rerotate" not in chain)


def test_golden_answers_with_snapkv(scene):
    answers_equal(scene, lambda chain: chain.startswith("snapkv") and "adakv" not in chain)


def test_golden_answers_with_adakv(scene):
    answers_equal(scene, lambda chain: "adakv" in chain)


def test_golden_answers_with_streaming(scene):
    answers_equal(scene, lambda chain: chain.startswith("streaming"))


def test_golden_answers_with_rerotate(scene):
    answers_equal(scene, lambda chain: "rerotate" in chain)
