# SPDX-License-Identifier: Apache-2.0
"""smollm2_answers.json and pipeline_answers.json: greedy answers about pressed contexts, with the rows that were kept.

    make_answers.py MODEL.gguf answers|pipeline|edges FILE

`answers`: 20 questions, r = 0 and five presses at 0.3 and 0.5. `pipeline`: 16 chains, three contexts, 0.25, 0.5, 0.75,
at most 24 tokens.
Rows and their edges are told once per (context, chain) under `rows`; an answer names its context and chain.
"""
import os
import sys

import reference as ref

ref.install_ragged_attention()

import torch  # noqa: E402
from chains import Context  # noqa: E402
from pressing import Prefill, edges_of  # noqa: E402

QUESTIONS = [
    ("fox", "Where does Bob live?"), ("fox", "What is the secret number of Alice?"), ("fox", "How many cats does Bob keep?"),
    ("note", "When does the plumber come?"), ("note", "Where is the key for the boat shed?"),
    ("recipe", "How long should the loaf bake in all?"), ("recipe", "How much salt is needed?"),
    ("mixed", "Which version are these notes for?"), ("mixed", "What does queue_push() return now?"),
    ("mixed", "Who is thanked?"),
    ("lighthouse", "Who was the engineer of the lighthouse?"), ("lighthouse", "How high is the tower?"),
    ("lighthouse", "Who lit the lamp first?"),
    ("minutes", "Who is the treasurer?"), ("minutes", "What is the name of the carp?"),
    ("minutes", "When is the next meeting?"),
    ("survey", "Which village is the largest?"), ("survey", "What is the name of the girl born in January 2019?"),
    ("survey", "How long is the Upper Tarn Valley?"),
    ("letters", "What is the first prize of the raffle?"),
]
ANSWER_PRESSES = ["knorm | ratio={r}", "snapkv:window=16 | ratio={r}", "streaming | ratio={r}",
                  "snapkv:window=16 | adakv | ratio={r}", "knorm | ratio={r} | rerotate"]

PIPELINE_QUESTIONS = [("note", "When does the plumber come?"), ("recipe", "How many loaves does this make?"),
                      ("fox", "What is the secret number of Alice?")]
PIPELINE_PRESSES = [
    "knorm | ratio={r}", "streaming | ratio={r}", "keydiff | ratio={r}", "lagkv:lag=16 | ratio={r}", "cur | ratio={r}",
    "tova | ratio={r}", "observed | ratio={r}", "expected:eps=0.01 | adakv | ratio={r}", "noncausal | ratio={r}",
    "snapkv:window=16 | adakv | ratio={r}", "snapkv:window=16 | criticaladakv | ratio={r}",
    "snapkv:window=8 | pyramid:beta=5 | ratio={r}", "snapkv:window=16 | chunkkv | ratio={r}", "keydiff | block | ratio={r}",
    "keydiff | ratio={r} | merge", "kvzip | ratio={r}",
]


def edges_again(path, name):
    """Rows and edges once more, without the answers, after pressing.py has changed; second passes stay as they are."""
    import json

    tokenizer = ref.load_tokenizer(path)
    pair = ref.load_model(path), ref.load_model(path, torch.float64)
    contexts = [Context(model) for model in pair]
    with open(os.path.join(ref.HERE, name), encoding="utf-8") as file:
        data = json.load(file)
    rows, answers = data.pop("rows"), data.pop("answers")
    for topic in dict.fromkeys(item["context"] for item in rows):
        fills = [Prefill(model, ref.context_ids(tokenizer, topic)[0]) for model in pair]
        for item in rows:
            if item["context"] != topic or item["chain"].startswith(("observed", "kvzip", "kvcompose")):
                continue
            pressed, edge = edges_of(*fills, item["chain"], *contexts)
            kept, edges = ref.layers_text(pressed.pos, edge, item["tokens"], lambda layer: layer % 3 == 0)
            if (kept, edges) != (item["layers"], item["edge"]):
                print(topic, item["chain"], len(item["edge"]), "->", len(edges), flush=True)
            item["layers"], item["edge"] = kept, edges
            for answer in answers:
                if (answer["context"], answer["chain"]) == (topic, item["chain"]):
                    answer["edges"] = len(edges)
    ref.write_json(os.path.join(ref.HERE, name), data, rows=rows, answers=answers)


def run(path, questions, presses, ratios, plain, most, name):
    tokenizer = ref.load_tokenizer(path)
    single, double = ref.load_model(path), ref.load_model(path, torch.float64)
    empty, after = ref.template_split(tokenizer, "")
    shared = dict(prefix_length=len(ref.encode(tokenizer, empty)), suffix_ids=ref.encode(tokenizer, after),
                  encode=lambda text: ref.encode(tokenizer, text))
    context32, context64 = Context(single, **shared), Context(double, **shared)
    rows, answers = [], []
    for topic in dict.fromkeys(topic for topic, _ in questions):
        ids, after = ref.context_ids(tokenizer, topic)
        eager = any(press.startswith("observed") for press in presses)
        fills = [Prefill(single, ids), Prefill(double, ids)]
        eagers = [Prefill(single, ids, eager=True), Prefill(double, ids, eager=True)] if eager else None
        chains = ["none"] if plain else []
        chains += [press.format(r=ratio) for press in presses for ratio in ratios]
        for chain in chains:
            pair = eagers if chain.startswith("observed") else fills
            pressed, edge = edges_of(*pair, chain, context32, context64)
            kept, edges = ref.layers_text(pressed.pos, edge, len(ids), lambda layer: layer % 3 == 0)
            if chain != "none":
                rows.append({"context": topic, "chain": chain, "tokens": len(ids), "next": pressed.next,
                             "layers": kept, "edge": edges})
            for _, question in (q for q in questions if q[0] == topic):
                pressed.arm()
                tokens, gaps = ref.generate(single, pressed.cache, ref.encode(tokenizer, question + after), pressed.next,
                                            most)
                answers.append({"context": topic, "question": question, "chain": chain, "edges": len(edges),
                                "text": tokenizer.decode(tokens, skip_special_tokens=True), "tokens": tokens,
                                "gaps": [float(f"{gap:.3g}") for gap in gaps]})
                print(topic, chain, len(edges), repr(answers[-1]["text"][:60]), f"{min(gaps):.2g}", flush=True)
        head = {"versions": ref.versions(), "model": os.path.basename(path), "max_new_tokens": most}
        ref.write_json(os.path.join(ref.HERE, name), head, rows=rows, answers=answers)


if __name__ == "__main__":
    if sys.argv[2] == "edges":
        edges_again(sys.argv[1], sys.argv[3])
    elif sys.argv[2] == "answers":
        run(sys.argv[1], QUESTIONS, ANSWER_PRESSES, ("0.3", "0.5"), True, 50, "smollm2_answers.json")
    else:
        run(sys.argv[1], PIPELINE_QUESTIONS, PIPELINE_PRESSES, ("0.25", "0.5", "0.75"), False, 24, "pipeline_answers.json")
