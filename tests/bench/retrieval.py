#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""retrieval.py - what presses find again: facts in a haystack, asked through two real nodes; the table of docs/PRESSES.md.

    retrieval.py run BUILD RESULTS.json [--lengths 1024,2048] [--seconds 600] [--only WORD] [--machine NAME]
    retrieval.py write RESULTS.json [PICTURE.png]     the table into docs/PRESSES.md; the picture needs matplotlib

A context is prose (tests/golden/texts) of about 1k, 2k or 4k tokens with eight sentences spread over it, and each is asked for. A cell
is the share of answers that have the word. "asked": the question is the request's query, pressed with the context, as
kvpress's query-aware runs do it; one context for each question, so fewer of them. `run` writes after every cell and goes on
where it was stopped: a table can be made in pieces.
"""
import argparse
import json
import os
import platform
import random
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.abspath(os.path.join(HERE, "..", ".."))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
sys.dont_write_bytecode = True

from nodes import Scene  # noqa: E402

FACTS = (  # what is said, what is asked, what must be in the answer
    ("The favourite fruit of Alice is the papaya.", "What is the favourite fruit of Alice?", "papaya"),
    ("The boat of Robert is painted turquoise.", "Which colour is the boat of Robert?", "turquoise"),
    ("The dog of Clara is called Biscuit.", "What is the dog of Clara called?", "Biscuit"),
    ("The night train to Lisbon leaves at 9:47.", "When does the night train to Lisbon leave?", "9:47"),
    ("The password of the library is 4172.", "What is the password of the library?", "4172"),
    ("The museum was founded by Henry Ashworth.", "Who founded the museum?", "Ashworth"),
    ("The treasure is buried under the old windmill.", "Where is the treasure buried?", "windmill"),
    ("The winner of the chess cup was Marguerite.", "Who was the winner of the chess cup?", "Marguerite"),
)
ASKED = {1024: 4, 2048: 2, 4096: 1}  # of the first of them, with the question in the context
CHARACTERS = 3.97  # of these texts per token of the default model
RATIOS = ("0.25", "0.5", "0.75")
PRESSES = (
    "random", "knorm", "streaming", "keydiff", "lagkv", "cur", "snapkv", "tova", "observed", "expected:eps=0.01", "cap", "noncausal",
    "leverage", "compactor", "kvzip", "kvcompose", "snapkv | adakv", "expected:eps=0.01 | adakv", "snapkv | critical",
    "snapkv | criticaladakv", "snapkv | pyramid", "snapkv | chunkkv", "snapkv | egchunkkv", "keydiff | chunk", "keydiff | block",
)
FINCH = "finch"  # needs the query
MEASURED = "\n<!-- measured: what follows is written by scripts -->\n"
BEGIN, END = "<!-- retrieval -->\n", "<!-- end of retrieval -->\n"


def haystack(length):
    """Prose of about `length` tokens with the facts spread over it, in an order of its own; the text and the facts."""
    facts = list(FACTS)
    random.Random(length).shuffle(facts)
    text = "".join(open(os.path.join(ROOT, "tests/golden/texts", name + ".txt"), encoding="utf-8").read()
                   for name in ("survey", "minutes", "lighthouse", "recipe", "note"))
    paragraphs = [line for line in text.split("\n") if len(line) > 60]
    sentences = [s.strip().rstrip(".") + "." for line in paragraphs for s in line.split(". ") if 20 < len(s) < 400]
    budget = length * CHARACTERS - 45 * len(facts) - 250
    hay, used = [], 0
    while used < budget:
        hay.append(sentences[len(hay) % len(sentences)])
        used += len(hay[-1]) + 1
    for at, (said, _, _) in enumerate(facts):
        hay.insert(int(len(hay) * (at + 0.5) / len(facts)), said)
    return " ".join(hay), facts


def ask(scene, node, length, chain, asked):
    """How many facts are found: of all, asked afterwards; or of some, each with a context of its own that ends in the question."""
    text, facts = haystack(length)
    press = ("--press", chain) if chain else ()
    if asked:
        facts = [fact for fact in facts if fact in FACTS[:ASKED[length]]]
        calls = [("--query", "\n\n" + question, "--question", "") for _, question, _ in facts]
    else:
        calls = [[word for _, question, _ in facts for word in ("--question", question)]]
    answers = []
    for call in calls:
        got = scene.ask(node, "--context", text, *call, *press, "--max-new-tokens", "16", seconds=900).json()
        answers += [a["text"] for a in got["answers"]]
    found = sum(want.lower() in answer.lower() for (_, _, want), answer in zip(facts, answers))
    return {"found": found, "needles": len(facts), "tokens": got["context_tokens"], "answers": answers}


def cells(lengths, only):
    for asked in (False, True):
        for length in lengths:
            yield length, asked, "", "0"
            for press in (*PRESSES, *((FINCH,) if asked else ())):
                for ratio in RATIOS:
                    if only in press:
                        yield length, asked, press, ratio


def load(path):
    return json.load(open(path)) if os.path.exists(path) else {"cells": {}}


def run(args):
    results, begin = load(args.results), time.monotonic()
    results["made"] = {"date": time.strftime("%Y-%m-%d"), "machine": args.machine or platform.processor() or platform.machine(),
                       "model": os.path.basename(Scene(args.build, "retrieval").default_model())}
    scene = Scene(args.build, "retrieval")
    try:
        model = scene.default_model()
        prefill = scene.prefill(model=model, more=("--threads", "0"))
        decode = scene.decode([prefill], model=model, more=("--threads", "0"))
        scene.ready(decode)
        for length, asked, press, ratio in cells([int(n) for n in args.lengths.split(",")], args.only):
            key = f"{length} {'asked' if asked else 'unasked'} {press} {ratio}"
            if key in results["cells"]:
                continue
            if time.monotonic() - begin > args.seconds:
                print(f"time is up before {key}; run again to go on")
                return 1
            got = ask(scene, decode, length, f"{press} | ratio={ratio}" if press else "", asked)
            results["cells"][key] = {"found": got["found"], "needles": got["needles"]}
            results.setdefault("tokens", {})[f"{length} {'asked' if asked else 'unasked'}"] = got["tokens"]
            print(key, got["found"], "of", got["needles"], f"{time.monotonic() - begin:.0f} s", got["answers"][:1], flush=True)
            with open(args.results, "w") as out:
                json.dump(results, out, indent=0, sort_keys=True)
    finally:
        scene.close()
    return 0


# ---- the page ------------------------------------------------------------------------------------------------------


def share(results, length, asked, press, ratio):
    cell = results["cells"].get(f"{length} {'asked' if asked else 'unasked'} {press} {ratio}")
    return cell and cell["found"] / cell["needles"]


def shown(x):
    return "" if x is None else f"{x:.2f}".replace("1.00", "1")


def lengths_of(results):
    return sorted({int(key.split()[0]) for key in results["cells"]})


def table(results, asked):
    lengths = lengths_of(results)
    lines = ["| press | " + " | ".join(f"{n // 1024}k {r}" for n in lengths for r in RATIOS) + " |",
             "| --- |" + " --- |" * (len(lengths) * len(RATIOS))]
    plain = " | ".join(shown(share(results, n, asked, "", "0")) for n in lengths for _ in RATIOS)
    lines.append(f"| none | {plain} |")
    for press in (*PRESSES, *((FINCH,) if asked else ())):
        row = [shown(share(results, n, asked, press, r)) for n in lengths for r in RATIOS]
        if any(row):
            lines.append("| `" + press.replace("|", "\\|") + "` | " + " | ".join(row) + " |")
    return "\n".join(lines)


def has(results, asked):
    return any(key.split()[1] == ("asked" if asked else "unasked") for key in results["cells"])


def asked_part(results):
    if not has(results, True):
        return "With the question in the context: not run yet.\n"
    return f"""The question is in the context and pressed with it ({", ".join(f"{n} at {length // 1024}k" for length, n in ASKED.items())} questions):

{table(results, True)}
"""


def page(results, picture):
    made = results["made"]
    return f"""{BEGIN}
## Retrieval

{made['date']}, {made['machine']}, {made['model']} in f32, `tests/bench/retrieval.py run` and `write`: eight sentences such as "{FACTS[4][0]}" in
prose of about 1k, 2k, 4k tokens; the share of them that is found, by ratio (the fraction that goes). A model of 135M parameters misses
many without any press: compare with the first line, and read differences of one or two answers as chance. Lengths and cells that are not
here were not run yet; the results are tests/bench/retrieval.json, and `run` goes on from them.
{f"![share of the facts found]({os.path.basename(picture)})" if picture else ""}

The questions are not known when the context is pressed (steps of 1/8):

{table(results, False)}

{asked_part(results)}
{END}"""


def draw(results, picture):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lengths = lengths_of(results)
    parts = [asked for asked in (False, True) if has(results, asked)]
    plot, axes = plt.subplots(1, len(parts), figsize=(1 + 5 * len(parts), 6.4), squeeze=False)
    for axis, asked in zip(axes[0], parts):
        names = ["none", *PRESSES, *((FINCH,) if asked else ())]
        grid = [[share(results, n, asked, "" if name == "none" else name, "0" if name == "none" else r) for n in lengths for r in RATIOS]
                for name in names]
        image = axis.imshow([[float("nan") if x is None else x for x in row] for row in grid], vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axis.set_xticks(range(len(grid[0])), [f"{n // 1024}k {r}" for n in lengths for r in RATIOS], rotation=60, fontsize=7)
        axis.set_yticks(range(len(names)), names, fontsize=7)
        axis.set_title("questions in the query" if asked else "questions not known", fontsize=9)
    plot.colorbar(image, ax=list(axes[0]), shrink=0.6, label="share of the facts found")
    plot.savefig(picture, dpi=80, bbox_inches="tight")


def write(args):
    results, path = load(args.results), os.path.join(ROOT, "docs", "PRESSES.md")
    if args.picture:
        draw(results, args.picture)
    printed, _, measured = open(path).read().partition(MEASURED)
    before, _, rest = measured.partition(BEGIN)
    after = rest.partition(END)[2]
    with open(path, "w") as out:
        out.write(printed + MEASURED + before + page(results, args.picture) + after)
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run")
    one.add_argument("build")
    one.add_argument("results")
    one.add_argument("--lengths", default="1024,2048,4096")
    one.add_argument("--seconds", type=float, default=1e9)
    one.add_argument("--only", default="")
    one.add_argument("--machine", default="")
    one.set_defaults(do=run)
    two = commands.add_parser("write")
    two.add_argument("results")
    two.add_argument("picture", nargs="?", default="")
    two.set_defaults(do=write)
    args = parser.parse_args()
    return args.do(args)


if __name__ == "__main__":
    sys.exit(main())
