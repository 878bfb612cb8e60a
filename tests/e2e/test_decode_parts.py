# SPDX-License-Identifier: Apache-2.0
"""Presses that go on while answers are generated: rows leave the cache, the context stays as it is."""
import os
import sys

from nodes import wait_until
from test_cancel import LAYER_S
from test_golden import NEAR, context_of, field, golden

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../golden"))
import gates  # noqa: E402
import tiny_model  # noqa: E402

TEXT = "The keeper of the lighthouse wrote down every ship that passed, its name and its flag. " * 3
KNORM = "; decode:every=8,buffer=4 | knorm | rows=40"
GATED = "kvzap:file=gate | dms:threshold=0,window=10,decoding=on"


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


def test_golden_answers_of_a_tiny_model_while_expected_stats_cuts_their_rows(scene):
    model = os.path.join(scene.root, "tests/golden/families/llama")
    named = ("--press-file", "stats=" + scene.file("stats", gates.safetensors(gates.query_stats(4, 4, 16))))
    prefill = scene.prefill(model=model, more=named)
    decode = scene.decode([prefill], model=model, more=named)
    scene.ready(decode)
    answers = golden(scene, "decode_answers.json")["tiny"]
    for a in answers:
        made = generate(scene, decode, a["chain"], a["max_new_tokens"], a["question"], text=a["context"]).json()["answers"][0]
        wrong = equal_or_near(a, made)
        assert not wrong, wrong
        assert made["held_rows"]["max"] <= a["largest"], (made, a["largest"])
    assert answers


def gate_pair(scene, model, layers, dim, heads, hidden):
    """Both nodes with kvzap's networks of these widths."""
    more = []
    for width in hidden:
        path = scene.file(f"gate-{width}", gates.safetensors(gates.tensors(layers, dim, heads, width)))
        more += ["--press-file", f"gate-{width}={path}"]
    prefill = scene.prefill(model=model, more=("--threads", "0", *more))
    decode = scene.decode([prefill], model=model, more=("--threads", "0", *more))
    scene.ready(decode)
    return prefill, decode


def dms_answers_equal(scene, decode, answers, text_of):
    for a in answers:
        made = generate(scene, decode, a["chain"], a["max_new_tokens"], a["question"], text=text_of(a["context"])).json()
        assert made["press"] == a["chain"].replace(",window=128", ""), made["press"]
        wrong = equal_or_near(a, made["answers"][0])
        assert not wrong, wrong
        held, wanted = made["answers"][0]["held_rows"], field(a["held"])
        if made["answers"][0]["tokens"] == field(a["tokens"]):
            assert held["min"] == wanted["min"] and held["max"] == wanted["max"], (a["chain"], held, wanted)
            assert abs(held["mean"] - wanted["mean"]) < 1e-3, (a["chain"], held, wanted)
    assert answers


def test_golden_answers_while_dms_goes_on(scene):
    prefill, decode = pair(scene, scene.default_model())
    answers = [a for a in golden(scene, "dms_answers.json")["answers"] if a["chain"].startswith("knorm")]
    dms_answers_equal(scene, decode, answers, lambda name: context_of(scene, name))


def test_golden_answers_while_dms_goes_on_by_learned_scores(scene):
    prefill, decode = gate_pair(scene, scene.default_model(), 30, 576, 3, (0, 16))
    answers = [a for a in golden(scene, "dms_answers.json")["answers"] if a["chain"].startswith("kvzap")]
    dms_answers_equal(scene, decode, answers, lambda name: context_of(scene, name))


def test_golden_answers_of_a_tiny_model_while_dms_goes_on_by_learned_scores(scene):
    model = os.path.join(scene.root, "tests/golden/families/llama")
    prefill, decode = gate_pair(scene, model, 4, 32, 2, (0, 8))
    dms_answers_equal(scene, decode, golden(scene, "dms_answers.json")["tiny"], lambda text: text)


def test_learned_scores_that_go_on_want_their_file_on_both_nodes(scene):
    path = scene.file("gate", gates.safetensors(gates.tensors(tiny_model.LAYERS, tiny_model.HIDDEN, tiny_model.KV_HEADS, 0)))
    named = ("--press-file", f"gate={path}")
    for at, (prefill_more, decode_more) in enumerate(((named, ()), ((), named))):
        prefill = scene.prefill(name=f"prefill-{at}", more=prefill_more)
        decode = scene.decode([prefill], name=f"decode-{at}", more=decode_more)
        scene.ready(decode)
        asked = scene.ask(decode, "--context", TEXT, "--press", GATED)
        assert asked.code == 1 and asked.err.startswith("platen: INVALID_ARGUMENT: "), asked.err
        assert '"gate"; the operator named none' in asked.err, asked.err


def test_what_goes_on_by_learned_scores_travels_in_few_bytes(scene):
    prefill, decode = gate_pair(scene, None, tiny_model.LAYERS, tiny_model.HIDDEN, tiny_model.KV_HEADS, (0,))
    for kv in ("plain", "int8", "fp8", "int4"):
        made = generate(scene, decode, "kvzap:file=gate-0 | dms:threshold=0,window=900,decoding=on", 200, text=TEXT * 4, more=("--kv", kv)).json()
        assert made["kept_rows"]["min"] < made["context_tokens"] and made["answers"][0]["compressions"] == 199, made
        assert made["kept_bytes"] <= made["wire_bytes"] <= 1.001 * made["kept_bytes"] + 4096 * tiny_model.LAYERS, made


def test_rows_leave_by_learned_scores_beside_answers_without_a_decode_part(scene):
    prefill, decode = gate_pair(scene, None, tiny_model.LAYERS, tiny_model.HIDDEN, tiny_model.KV_HEADS, (0, 8))
    baseline = decode.work()
    chains = ("none", GATED.replace("gate", "gate-0"), KNORM, GATED.replace("gate", "gate-8"), "knorm | ratio=0.5 | " + GATED.replace("gate", "gate-8"))
    asks = [("--question", f"{i}? " * 20, "--press", chain) for i in range(3) for chain in chains]
    alone = [scene.ask(decode, "--context", TEXT, *a, "--max-new-tokens", "80").json()["answers"] for a in asks]
    running = [scene.start_ask(decode, "--json", "--context", TEXT, *a, "--max-new-tokens", "80") for a in asks]
    for wanted, one in zip(alone, running):
        assert one.end().json()["answers"] == wanted
    for (_, _, _, chain), (made,) in zip(asks, alone):
        if "dms" in chain:
            assert made["held_rows"]["min"] < made["held_rows"]["max"] <= len(TEXT) + 1 + 60 + 1 + 80, (chain, made)
            assert made["held_rows"]["min"] >= 10 and made["compressions"] == 79, (chain, made)
    made = scene.platen("create", "--server", decode.address, "--context", TEXT, "--json", "--press", asks[1][3]).json()
    for i in (1, 6, 1):  # every question goes on from the context's own rows and scores
        r = scene.ask(decode, "--handle", made["handle"], *asks[i][:2], "--max-new-tokens", "80").json()
        assert r["answers"] == alone[i], (r, alone[i])
    assert scene.platen("release", "--server", decode.address, "--handle", made["handle"]).code == 0
    for kv in ("int8", "int4"):
        coded = generate(scene, decode, asks[1][3], 60, more=("--kv", kv)).json()
        assert coded["answers"][0]["compressions"] == 59 and coded["kept_rows"]["max"] <= coded["context_tokens"], coded
    decode.wait_idle(baseline)


def test_rows_leave_while_an_answer_runs_and_everything_comes_back(scene):
    prefill, decode = pair(scene)
    baseline = decode.work()
    asking = scene.start_ask(decode, "--json", "--context", TEXT, "--press", KNORM, "--max-new-tokens", "20000")
    wait_until("rows have left", lambda: decode.metrics()["platen_decode_compressions_total"] > 3, 30)
    for _ in range(50):
        now = decode.metrics()
        assert 40 <= now["platen_decode_part_head_rows_min"] <= now["platen_decode_part_head_rows_max"] <= 47, now
        assert now["platen_decode_tail_pages"] <= 1 and now["platen_decode_own_blocks"] == 1, now
    asking.process.kill()
    decode.wait_idle(baseline, LAYER_S)
    after = decode.metrics()
    assert after["platen_decode_own_blocks_bytes"] == 0 and after["platen_decode_part_head_rows_max"] == 0, after


def test_an_answer_longer_than_a_tail_fits_where_its_rows_leave(scene):
    prefill, decode = pair(scene, more=("--tail-tokens", "256"))
    assert scene.ask(decode, "--context", TEXT, "--question", "?", "--max-new-tokens", "1500").code == 1
    made = generate(scene, decode, "; decode:every=128 | knorm | rows=256", 1500).json()["answers"][0]
    assert made["finish_reason"] == "stop" or len(made["tokens"]) == 1500, made
    assert made["compressions"] == 0 or made["held_rows"]["max"] <= 383, made


def test_a_generation_of_1500_tokens_holds_256_to_383_rows_at_every_step(scene):
    prefill, decode = pair(scene)
    made = generate(scene, decode, "; decode:every=128 | knorm | rows=256", 1500, text=TEXT * 4).json()["answers"][0]
    if made["finish_reason"] == "length":
        assert made["compressions"] == 11, made
    assert made["held_rows"]["min"] == 256 and made["held_rows"]["max"] <= 383, made


def test_other_questions_of_the_context_are_not_affected(scene):
    prefill, decode = pair(scene)
    chain = "snapkv:window=16 | ratio=0.5 ; decode:every=8 | tova | rows=40"
    together = generate(scene, decode, chain, 60, "one?", "two?", "three?").json()
    assert together["press"] == chain, together
    made = scene.platen("create", "--server", decode.address, "--context", TEXT, "--json", "--press", chain).json()
    for _ in range(2):
        for i, q in enumerate(("one?", "two?", "three?")):
            r = scene.ask(decode, "--handle", made["handle"], "--question", q, "--max-new-tokens", "60").json()
            assert r["answers"][0] == together["answers"][i], (r, together)
    assert scene.platen("release", "--server", decode.address, "--handle", made["handle"]).code == 0


def test_answers_with_and_without_a_decode_part_share_a_batch(scene):
    prefill, decode = pair(scene)
    asks = [("--question", f"{i}?", "--press", chain) for i in range(4) for chain in
            ("none", KNORM, "; decode:every=5,buffer=3 | expected:sink=1 | rows=30", "knorm | ratio=0.5 ; decode:every=9 | keydiff | adakv | rows=30")]
    alone = [scene.ask(decode, "--context", TEXT, *a, "--max-new-tokens", "80").json()["answers"] for a in asks]
    running = [scene.start_ask(decode, "--json", "--context", TEXT, *a, "--max-new-tokens", "80") for a in asks]
    for wanted, one in zip(alone, running):
        assert one.end().json()["answers"] == wanted


def test_rows_of_a_coded_context_leave_as_well(scene):
    prefill, decode = pair(scene)
    for kv in ("int8", "fp8", "int4"):
        made = generate(scene, decode, KNORM, 60, more=("--kv", kv)).json()
        assert made["kv"] == kv and made["answers"][0]["compressions"] > 5, made
        assert made["answers"][0]["held_rows"]["max"] <= 47, made
        whole = [generate(scene, decode, press, 40, more=("--kv", kv)).json()["answers"][0]["tokens"]
                 for press in ("none", "; decode:every=9 | knorm | rows=100000")]
        assert whole[0][:9] == whole[1][:9], whole  # until the first compression the same rows are read


def test_dms_goes_on_by_what_the_cache_holds(scene):
    """Its first decision is the prefill's, by whole rows; the next ones see codes, or keys without some channels."""
    prefill, decode = pair(scene)
    shown = scene.platen("inspect", "--model", scene.tiny, "--context", TEXT, "--press", "knorm | ratio=0.5", "--scores", "--json").json()
    scores = sorted(score for layer in shown["layers"] for head in layer["scores"] for score in head if score is not None)
    chain = f"knorm | dms:threshold={scores[len(scores) // 2]:.3f},window=10,decoding=on"
    ask = lambda press, kv: generate(scene, decode, press, 60, more=("--kv", kv)).json()
    plain = ask(chain, "plain")
    held = plain["answers"][0]["held_rows"]
    assert plain["kept_rows"]["max"] < plain["context_tokens"] and held["min"] >= plain["kept_rows"]["min"] - 10, plain
    for kv in ("int8", "fp8", "int4"):
        coded = ask(chain, kv)
        answer = coded["answers"][0]
        assert coded["kept_rows"] == plain["kept_rows"] and answer["compressions"] == plain["answers"][0]["compressions"] == 59, coded
        assert 0.95 * held["mean"] < answer["held_rows"]["mean"] < 1.05 * held["mean"], (coded, held)
    for kv in ("plain", "int8"):  # a key without channels is shorter: of those that stayed no more leave
        thin = ask(chain + " | think:ratio=0.5,window=8", kv)
        assert thin["kept_rows"] == plain["kept_rows"] and thin["answers"][0]["compressions"] == 59, thin
        assert thin["answers"][0]["held_rows"]["min"] >= held["min"], (thin, held)


def test_a_decode_part_without_room_is_refused_at_the_door(scene):
    prefill, decode = pair(scene, more=("--block-mib", "1"))
    baseline = decode.work()
    asked = scene.ask(decode, "--context", TEXT, "--press", "; decode:every=512 | knorm | rows=100000", "--max-new-tokens", "60000")
    assert asked.code == 1 and asked.err.startswith("platen: RESOURCE_EXHAUSTED: ") and "decode part" in asked.err, asked.err
    decode.wait_idle(baseline)


def test_an_answer_too_short_for_a_compression_takes_no_blocks_of_its_own(scene):
    prefill, decode = pair(scene)
    asking = scene.start_ask(decode, "--json", "--context", TEXT, "--press", "; decode:every=20000 | knorm | rows=400", "--max-new-tokens", "19999")
    wait_until("the answer runs", lambda: decode.metrics()["platen_decode_sequences_running"] == 1, 30)
    assert decode.metrics()["platen_decode_own_blocks"] == 0
    asking.process.kill()
    made = generate(scene, decode, "; decode:every=9 | knorm | rows=400", 8).json()["answers"][0]
    assert made["compressions"] == 0 and "held_rows" not in made, made


def test_inspect_says_that_it_presses_the_context_only(scene):
    asked = scene.platen("inspect", "--model", scene.tiny, "--context", TEXT, "--press", "knorm | ratio=0.5 ; decode:every=8 | knorm | rows=40", "--json")
    assert asked.code == 0 and "decode:every=8" in asked.json()["press"], asked.err
    assert "decode part" in asked.err, asked.err
