# SPDX-License-Identifier: Apache-2.0
"""What a question gives: answers, figures, and how they hang together."""
import json
import os
import socket
import subprocess

from tiny_model import HEAD, KV_HEADS, LAYERS

ROW = HEAD * 2 * 4  # bytes of a K and a V row in f32

TEXT = "In the harbour of Tormund stand seven lamps, and the keeper lights them from the left to the right. " * 4


def check_figures(r, tokens):
    assert r["context_tokens"] == tokens, r
    assert r["dense_bytes"] == tokens * LAYERS * KV_HEADS * ROW, r
    assert r["kept_bytes"] == round(r["kept_rows"]["mean"] * LAYERS * KV_HEADS) * ROW, r
    assert r["kept_bytes"] <= r["wire_bytes"] <= 1.001 * r["kept_bytes"] + 4096 * LAYERS, r
    assert r["kept_rows"]["min"] <= r["kept_rows"]["mean"] <= r["kept_rows"]["max"], r
    assert r["transport"] == "grpc" and r["attempts"] == 1, r


def test_figures_add_up_for_every_press(scene):
    prefill, decode = scene.pair()
    for press, mean in (("none", 401), ("knorm|ratio=0.5", 200), ("snapkv:window=32 | adakv | ratio=0.75", 100),
                        ("streaming | rows=64", 64), ("random:seed=3 | ratios=" + "/".join(["0.1", "0.4", "0"] * (LAYERS // 3)), None)):
        r = scene.ask(decode, "--context", TEXT[:400], "--question", "?", "--press", press, "--max-new-tokens", "4").json()
        check_figures(r, 401)
        assert mean is None or r["kept_rows"]["mean"] == mean, (press, r)
        assert r["prefill_node"] == prefill.address and r["decode_node"] == decode.address, r
        assert len(r["answers"]) == 1 and len(r["answers"][0]["tokens"]) == 4, r
        assert r["answers"][0]["finish_reason"] == "length", r
        assert set(r["timings_ms"]) >= {"tokenize", "order", "queue", "forward", "press", "pack", "ship", "adopt", "decode"}, r


def test_adakv_gives_heads_different_rows_and_their_mean_is_the_budget(scene):
    prefill, decode = scene.pair()
    r = scene.ask(decode, "--context", TEXT, "--press", "snapkv:window=16 | adakv:alpha=0.1 | ratio=0.5").json()
    assert r["kept_rows"]["min"] < r["kept_rows"]["max"], r
    assert r["kept_rows"]["mean"] == int(r["context_tokens"] * 0.5), r


def test_several_questions_are_answered_as_if_each_were_asked_alone(scene):
    prefill, decode = scene.pair()
    questions = ["first?", "the second, which is longer?", ""]
    together = scene.ask(decode, "--context", TEXT, *sum((["--question", q] for q in questions), [])).json()
    assert [a["question"] for a in together["answers"]] == questions
    for question, answer in zip(questions, together["answers"]):
        alone = scene.ask(decode, "--context", TEXT, "--question", question).json()
        assert alone["answers"][0] == answer


def test_no_question_is_the_empty_question(scene):
    prefill, decode = scene.pair()
    left_out = scene.ask(decode, "--context", TEXT).json()
    empty = scene.ask(decode, "--context", TEXT, "--question", "").json()
    assert left_out["answers"] == empty["answers"] and len(empty["answers"][0]["tokens"]) == 50


def test_no_new_tokens_is_an_answer_of_none(scene):
    prefill, decode = scene.pair()
    r = scene.ask(decode, "--context", TEXT, "--question", "?", "--max-new-tokens", "0").json()
    assert r["answers"] == [{"question": "?", "text": "", "tokens": [], "finish_reason": "length"}]


def test_ratio_zero_of_any_press_is_plain_generation(scene):
    prefill, decode = scene.pair()
    plain = scene.ask(decode, "--context", TEXT, "--question", "?").json()
    for press in ("knorm | ratio=0", "snapkv | adakv | ratio=0", "streaming | ratio=0 | rerotate"):
        r = scene.ask(decode, "--context", TEXT, "--question", "?", "--press", press).json()
        assert r["answers"] == plain["answers"] and r["kept_bytes"] == r["dense_bytes"], press


def test_ids_are_taken_as_they_are(scene):
    prefill, decode = scene.pair()
    ids = scene.file("ids", " 5 6\n7\t8   9\n")
    r = scene.ask(decode, "--context-tokens", ids, "--question", "?").json()
    check_figures(r, 5)


def test_a_query_is_pressed_with_the_context(scene):
    prefill, decode = scene.pair()
    r = scene.ask(decode, "--context", "0123456789", "--query", "abcde", "--question", "?", "--press", "knorm|ratio=0.5").json()
    check_figures(r, 16)
    assert r["kept_rows"]["mean"] == 8


def test_no_byte_of_a_file_is_lost(scene):
    prefill, decode = scene.pair()
    whole = scene.file("whole", b"before\0after\0\0end")
    r = scene.ask(decode, "--context-file", whole, "--question", "?").json()
    check_figures(r, 18)
    assert r["dropped_bytes"] == 0


def test_bytes_without_a_token_are_counted(scene):
    prefill, decode = scene.pair()
    r = scene.ask(decode, "--context-file", scene.file("gone", b"a\x04b\x04c"), "--question", "?").json()
    check_figures(r, 4)
    assert r["dropped_bytes"] == 2


def test_a_context_that_is_too_long_for_the_caller_is_cut_and_says_so(scene):
    prefill, decode = scene.pair()
    r = scene.ask(decode, "--context", TEXT, "--max-context-length", "100").json()
    check_figures(r, 100)
    assert r["truncated_tokens"] == len(TEXT) + 1 - 100


def test_compact_positions_answer_like_rerotate(scene):
    prefill, decode = scene.pair()
    compact = scene.ask(decode, "--context", TEXT, "--press", "knorm|ratio=0.5", "--position", "compact").json()
    rerotated = scene.ask(decode, "--context", TEXT, "--press", "knorm|ratio=0.5|rerotate").json()
    assert compact["answers"] == rerotated["answers"]
    original = scene.ask(decode, "--context", TEXT, "--press", "knorm|ratio=0.5").json()
    assert compact["answers"] != original["answers"]


def test_the_same_question_gives_the_same_answer_alone_and_in_a_full_batch(scene):
    prefill, decode = scene.pair()
    arguments = ("--context", TEXT, "--question", "who?", "--press", "knorm|ratio=0.3", "--max-new-tokens", "40")
    alone = scene.ask(decode, *arguments).json()["answers"]
    others = [scene.start_ask(decode, "--json", "--context", TEXT[i:], "--question", f"{i}?") for i in range(6)]
    twins = [scene.start_ask(decode, "--json", *arguments) for _ in range(4)]
    for other in others:
        other.end().json()
    for twin in twins:
        assert twin.end().json()["answers"] == alone


def test_answers_stream_as_text_for_people(scene):
    prefill, decode = scene.pair()
    asked = scene.platen("ask", "--server", decode.address, "--context", TEXT, "--question", "one?", "--question", "two?")
    assert asked.code == 0, asked.err
    assert asked.out.startswith("question: one?\nanswer: ") and "\n\nquestion: two?\nanswer: " in asked.out, asked.out
    assert "\ndense " in asked.out and " bytes, kept " in asked.out, asked.out
    assert asked.err == ""


def test_nodes_write_nothing_else_on_stdout(scene):
    prefill, decode = scene.pair()
    scene.ask(decode, "--context", TEXT, "--question", "?").json()
    scene.ask(decode, "--context", TEXT, "--press", "wrong")
    for node in (prefill, decode):
        assert node.lines() == [f"serving {node.address}", f"metrics {node.metrics_address}"], node.lines()


def test_names_of_nodes_are_unique_and_info_tells_them(scene):
    prefill, decode = scene.pair()
    for node, role in ((prefill, "prefill"), (decode, "decode")):
        r = scene.platen("info", "--server", node.address, "--json").json()
        assert r["info"]["node"] == node.address and r["info"]["role"] == role, r
        assert r["info"]["model"]["layers"] == LAYERS and r["loads"]["draining"] is False, r
    assert prefill.address != decode.address
    everywhere = scene.prefill("everywhere", listen="0.0.0.0:0")
    port = everywhere.address.rsplit(":", 1)[1]
    r = scene.platen("info", "--server", "127.0.0.1:" + port, "--json").json()
    assert r["info"]["node"] == f"{socket.gethostname()}:{port}", r


def test_inspect_tells_the_rows_that_a_node_keeps(scene):
    prefill, decode = scene.pair()
    press = "snapkv:window=16 | adakv | ratio=0.6"
    asked = scene.ask(decode, "--context", TEXT, "--press", press).json()
    seen = scene.platen("inspect", "--model", scene.tiny, "--context", TEXT, "--press", press, "--json").json()
    counts = [len(head) for layer in seen["layers"] for head in layer["heads"]]
    assert seen["tokens"] == asked["context_tokens"]
    assert (min(counts), max(counts)) == (asked["kept_rows"]["min"], asked["kept_rows"]["max"])
    assert sum(counts) * ROW == asked["kept_bytes"]
    assert all(head == sorted(set(head)) for layer in seen["layers"] for head in layer["heads"])


def test_inspect_tells_the_scores_that_rows_were_chosen_by(scene):
    def inspect(press, *more):
        return scene.platen("inspect", "--model", scene.tiny, "--context", TEXT, "--press", press, "--json", *more).json()

    seen = inspect("snapkv:window=16 | ratio=0.6", "--scores")
    for layer in seen["layers"]:
        assert len(layer["scores"]) == len(layer["heads"])
        for head, scores in zip(layer["heads"], layer["scores"]):
            assert len(scores) == seen["tokens"]
            assert head == sorted(sorted(range(len(scores)), key=lambda row: -scores[row])[:len(head)])
    first = inspect("keydiff | ratio=0.5")["layers"][0]["heads"][0]
    second = inspect("keydiff | ratio=0.5 | knorm | ratio=0.5", "--scores")["layers"][0]["scores"][0]
    assert [row for row, score in enumerate(second) if score is not None] == first
    for chosen in (inspect("knorm | ratio=0.6"), inspect("none", "--scores"), inspect("keydiff | block:size=16 | ratio=0.5", "--scores")):
        assert all("scores" not in layer for layer in chosen["layers"])


def test_the_first_token_is_the_largest_logit_of_inspect(scene):
    """Two processes answer what one computes: context and question as one text, its last logits, the first token."""
    prefill, decode = scene.pair()
    asked = scene.ask(decode, "--context", TEXT, "--question", "why?", "--max-new-tokens", "1").json()
    seen = scene.platen("inspect", "--model", scene.tiny, "--context", TEXT + "why?\n", "--press", "none", "--json",
                        "--logits", "2").json()
    assert seen["logits"][0][1] - seen["logits"][1][1] > 1e-3, "an undecided model tests nothing"
    assert asked["answers"][0]["tokens"] == [seen["logits"][0][0]]


def test_inspect_writes_one_page_that_needs_nothing_else(scene):
    out = os.path.join(scene.folder, "page.html")
    text = "</script><script>alert(1)</script> & more"
    asked = scene.platen("inspect", "--model", scene.tiny, "--context", text, "--press", "knorm|ratio=0.5", "--html", out)
    assert asked.code == 0, asked.err
    page = open(out).read()
    assert page.count("<script>") == 1 and "/*DATA*/" not in page
    assert "src=" not in page and "href=" not in page and "@import" not in page
    data = json.loads(page.split("const data = ")[1].split(";\n\nconst L")[0])
    assert "".join(data["pieces"][1:]) == text


def test_selftest_moves_blocks_and_checks_them(scene):
    r = scene.platen("selftest", "--transfer", "grpc", "--mib", "32", "--json").json()
    assert set(r) == {"mib", "gib_s", "checksum_ok"} and r["mib"] == 32 and r["checksum_ok"] is True and r["gib_s"] > 0
    assert scene.platen("selftest", "--transfer", "grpc", "--json").json()["mib"] == 64
    assert scene.platen("selftest", "--json").json()["ok"] is True
    prefill, decode = scene.pair()
    r = scene.platen("selftest", "--server", decode.address, "--transfer", "grpc", "--mib", "8", "--json").json()
    assert r["ok"] is True and r["transfers"][0]["checksum_ok"] is True and r["transfers"][0]["transport"] == "grpc"


def test_bench_measures_prefill_and_decode(scene):
    r = scene.platen("bench", "--model", scene.tiny, "--prefill", "300", "--press", "knorm|ratio=0.5", "--rounds", "2", "--json",
                     "--dtype", "f32").json()
    assert r["prefill"] == 300 and r["prefill_ms"] > 0 and r["press_ms"] > 0 and len(r["first_tokens"]) == 1, r
    twice = scene.platen("bench", "--model", scene.tiny, "--prefill", "300", "--press", "kvzip|ratio=0.5", "--rounds", "5", "--json",
                         "--dtype", "f32").json()  # the second reading is the press's
    assert twice["press_ms"] > 0.3 * twice["prefill_ms"], (twice, r)
    one = scene.platen("bench", "--random", "tiny", "--prefill", "60", "--batch", "1", "--ragged", "0", "--rounds", "1", "--json").json()
    assert one["prefill"] == 60 and "kv" not in one, one  # said or not, a prefill is of one sequence
    d = scene.platen("bench", "--model", scene.tiny, "--decode", "8", "--batch", "3", "--context", "300", "--rounds", "2", "--json",
                     "--dtype", "f32").json()
    assert d["first_tokens"] == r["first_tokens"] * 3 and d["decode_tok_s"] > 0, d
    assert d["bytes_per_step"] > d["kv_bytes"] and "copy_gb_s" not in d, d
    p = scene.platen("bench", "--random", "tiny", "--decode", "4", "--batch", "2", "--context", "200", "--rounds", "1", "--json",
                     "--ragged", "2", "--probe").json()
    assert p["copy_gb_s"] > 0 and p["gemm_tflops"] > 0 and p["sdpa_tflops"] > 0 and p["batch"] == 2, p
    assert d["kv_bytes"] == 3 * LAYERS * KV_HEADS * ROW * (300 + 4.5), d


def test_an_answer_that_nobody_reads_is_not_made_to_its_end(scene):
    prefill, decode = scene.pair()
    baseline = decode.work()
    read, write = os.pipe()
    asking = subprocess.Popen([scene.program("platen"), "ask", "--server", decode.address, "--context", TEXT, "--max-new-tokens",
                               "60000"], stdout=write, stderr=subprocess.PIPE, text=True)
    scene.clients.append(asking)
    os.close(write)
    assert os.read(read, 10) == b"question: "
    os.close(read)
    _, err = asking.communicate(timeout=30)
    assert asking.returncode == 1 and err.startswith("platen: INTERNAL: stdout: "), (asking.returncode, err)
    decode.wait_idle(baseline)
