# SPDX-License-Identifier: Apache-2.0
"""Documents that the programs print are those that are committed. What scripts have measured may follow, after one line."""
import os
import subprocess

MEASURED = "\n<!-- measured: what follows is written by scripts -->\n"


def stale(scene, name, *arguments):
    printed = scene.platen(*arguments)
    assert printed.code == 0, printed.err
    path = os.path.join(scene.root, "docs", name)
    written = open(path).read().split(MEASURED)[0]
    for number, (a, b) in enumerate(zip(written.splitlines(), printed.out.splitlines()), 1):
        assert a == b, f"docs/{name} is stale from line {number} on: platen {' '.join(arguments)} > docs/{name}\n{a}\n{b}"
    assert written == printed.out, f"docs/{name} is stale: platen {' '.join(arguments)} > docs/{name}"


def test_config_md_is_what_platen_config_prints(scene):
    stale(scene, "CONFIG.md", "config")


def test_presses_md_is_what_platen_presses_prints(scene):
    stale(scene, "PRESSES.md", "presses", "--markdown")


def test_the_list_of_presses_for_programs_says_what_the_document_says(scene):
    """Of each word in `platen presses --json`: its heading, options with defaults, cost and differences stand in PRESSES.md."""
    listed = scene.platen("presses", "--json").json()["presses"]
    with open(os.path.join(scene.root, "docs/PRESSES.md"), encoding="utf-8") as file:
        parts = {part.split("\n", 1)[0].strip("`"): part for part in file.read().split("\n### ")[1:]}
    assert len(listed) == len(parts), (len(listed), len(parts))
    for press in listed:
        part = parts[press["text"]]
        if not press["built"]:
            continue
        for field in ("cost", "differs", "needs", "source", "reference"):
            assert press[field] in part, (press["name"], field)
        for option in press["options"]:
            told = f"- `{option['name']}`: {option['help']}; {option['value']}"
            told += f", default {option['default']}" if option["default"] is not None else ""
            assert told + (", required" if option["required"] else "") in part.split("\n"), (press["name"], told)
    measured = open(os.path.join(scene.root, "docs/PRESSES.md")).read().partition(MEASURED)[2]
    assert "## Retrieval" in measured, "tests/bench/retrieval.py write tests/bench/retrieval.json docs/retrieval.png"


def test_the_scripts_take_a_model_named_from_where_they_were_called(scene):
    script = os.path.join(scene.root, "deploy/steps.sh")
    for given, want in (("m.gguf", os.path.join(scene.folder, "m.gguf")), ("/some/m.gguf", "/some/m.gguf"), ("", "")):
        told = subprocess.run(["bash", "-c", '. "$0" && cd / && bash -c \'printf %s "$PLATEN_MODEL"\'', script], cwd=scene.folder,
                              env=os.environ | {"PLATEN_MODEL": given}, capture_output=True, text=True, check=True).stdout
        assert told == want or os.path.samefile(os.path.dirname(told), scene.folder), (given, told)
