# SPDX-License-Identifier: Apache-2.0
"""Answers about pressed contexts, through both nodes in f32, equal the reference's pipeline (tests/golden/pipeline_answers.json): 16
chains, three contexts, ratios 0.25, 0.5, 0.75. The shortest context stands for the others unless slow tests are asked for."""
import os
import sys

from test_golden import answers_of, context_of, golden

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden"))
from compare import compare, edge_of  # noqa: E402

PARTS = 4  # processes that start one after another or side by side; each loads the model


def chain_names(data):
    """Chains without their ratio, in the file's order."""
    return list(dict.fromkeys(without_ratio(a["chain"]) for a in data["answers"]))


def without_ratio(chain):
    return " | ".join(stage for stage in chain.split(" | ") if not stage.startswith("ratio="))


def protected_rows(chain, tokens):
    """Rows at the ends whose scores are equal on purpose; 0 where chunks are chosen and not rows."""
    if "lagkv" in chain:
        return 4 + 16 + (tokens - 4) % 16
    return 16 if "snapkv:window=16" in chain and "chunkkv" not in chain else 0


def is_tied(answer, tokens):
    """Equal scores at the cut: which of them stay is our rule, and chance in the reference."""
    ratio = float(answer["chain"].split("ratio=")[1].split()[0])
    if answer["chain"].startswith("kvzip"):  # the template's tokens but the sinks score 0
        return tokens * ratio < 24 - 4
    return protected_rows(answer["chain"], tokens) > int(tokens * (1 - ratio))


def pipeline_equal(scene, part, contexts):
    data = golden(scene, "pipeline_answers.json")
    names = chain_names(data)
    assert len(names) == 16 and len(data["answers"]) == 16 * 3 * 3
    mine = names[part::PARTS]
    tokens = {row["context"]: row["tokens"] for row in data["rows"]}
    asked = [a for a in data["answers"] if without_ratio(a["chain"]) in mine and a["context"] in contexts]
    assert len(asked) == len(mine) * len(contexts) * 3
    clear = [a for a in asked if not is_tied(a, tokens[a["context"]])]
    assert len(clear) >= len(asked) - 3
    assert answers_of(scene, data, lambda a: a in clear) == len(clear)


def test_short_context_part_1(scene):
    pipeline_equal(scene, 0, ("note",))


def test_short_context_part_2(scene):
    pipeline_equal(scene, 1, ("note",))


def test_short_context_part_3(scene):
    pipeline_equal(scene, 2, ("note",))


def test_short_context_part_4(scene):
    pipeline_equal(scene, 3, ("note",))


def test_all_contexts_part_1(scene):
    pipeline_equal(scene, 0, ("recipe", "fox"))


def test_all_contexts_part_2(scene):
    pipeline_equal(scene, 1, ("recipe", "fox"))


def test_all_contexts_part_3(scene):
    pipeline_equal(scene, 2, ("recipe", "fox"))


def test_all_contexts_part_4(scene):
    pipeline_equal(scene, 3, ("recipe", "fox"))


def rows_equal(scene, context):
    """What `platen inspect` keeps, per layer and head, is what the reference keeps, but for rows on the edge."""
    data, wrong, compared = golden(scene, "pipeline_answers.json"), [], 0
    text = scene.file("context", context_of(scene, context))
    for row in data["rows"]:
        if row["context"] != context or is_tied(row, row["tokens"]):
            continue
        kept = scene.platen("inspect", "--model", scene.default_model(), "--dtype", "f32", "--json", "--show-tokens", "--context-file", text,
                            "--press", row["chain"], seconds=300).json()
        assert kept["tokens"] == row["tokens"]
        wrong += [f"{row['chain']}: {fault}" for fault in compare(row | {"edge": edge_of(row, kept["ids"])}, kept["layers"])]
        compared += 1
    assert compared >= 44 and not wrong, (compared, wrong[:9])


def test_rows_of_a_short_context(scene):
    rows_equal(scene, "fox")


def test_all_contexts_part_5_rows_of_a_note(scene):
    rows_equal(scene, "note")


def test_all_contexts_part_6_rows_of_a_recipe(scene):
    rows_equal(scene, "recipe")
