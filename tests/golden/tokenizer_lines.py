# SPDX-License-Identifier: Apache-2.0
"""The lines that every tokenizer is asked about: 2,000 of every kind, the same on every machine (one seed, one formula)."""
import random
import unicodedata

SCRIPTS = {
    "latin": (0x61, 0x7A), "latin1": (0xC0, 0xFF), "latin_ext": (0x100, 0x24F), "greek": (0x391, 0x3C9),
    "cyrillic": (0x410, 0x44F), "armenian": (0x531, 0x587), "hebrew": (0x5D0, 0x5EA), "arabic": (0x620, 0x64A),
    "devanagari": (0x904, 0x94F), "bengali": (0x985, 0x9CC), "tamil": (0xB85, 0xBCD), "thai": (0xE01, 0xE4E),
    "lao": (0xE81, 0xEC6), "tibetan": (0xF40, 0xF84), "georgian": (0x10A0, 0x10FF), "jamo": (0x1100, 0x11FF),
    "ethiopic": (0x1200, 0x1357), "canadian": (0x1401, 0x1676), "khmer": (0x1780, 0x17D3), "mongolian": (0x1800, 0x18AA),
    "hiragana": (0x3041, 0x3096), "katakana": (0x30A1, 0x30FA), "cjk": (0x4E00, 0x9FFC), "hangul": (0xAC00, 0xD7A3),
    "compat": (0xF900, 0xFAD9), "forms": (0xFE70, 0xFEFC), "halfwidth": (0xFF01, 0xFFDC), "gothic": (0x10330, 0x1034A),
    "math": (0x1D400, 0x1D7FF), "cjk_b": (0x20000, 0x2A6DD),
}
PROSE = """The quick brown fox jumps over the lazy dog, and nobody's surprised.
It wasn't there; we'll look again tomorrow, won't we? I'd say they've gone. You're right, I'm late.
In 1969, Apollo 11 carried 3 men 384,400 km; it cost $25.4 billion (about €150bn today).
Dr. O'Neill's e-mail: o.neill@example.org, tel. +44 20 7946 0958 -- call before 5 p.m.!
DON'T SHOUT, SHE'LL HEAR'S WHAT HE'D SAID; WE'VE WON'T I'M YOU'RE
Schöne Grüße aus Österreich; Größe, Straße, ärgerlich. L'été, où est-il? ¿Dónde está el niño?
Zażółć gęślą jaźń. Příliš žluťoučký kůň úpěl ďábelské ódy. Đường phố Hà Nội rất đông.""".splitlines()
CODE = [
    "def f(x, y=2):\n    return x**y  # power\n\n\tif x: pass", "for (int i = 0; i < n; ++i) { a[i] += b[i] * 0x1F; }",
    '{"key": [1, 2.5e-3, null, true], "nested": {"a": "b\\n"}}', "<div class=\"a b\"><p>Hi&nbsp;there</p></div><!-- c -->",
    "SELECT * FROM t WHERE a<>'x' AND b IS NOT NULL;", "$ git commit -m 'fix: #42' && make -j8 2>&1 | tee log.txt",
    "\\begin{align}\\frac{\\partial f}{\\partial x} &= \\sum_{i=1}^{n} x_i^2\\end{align}", "https://a.b/c?d=e&f=%20g#h",
    "x = a if b else c;;; y <<= 2;\t\t//\tcomment\r\n\r\nz--;", "#include <stdio.h>\n\nint main(void)\n{\n    return 0;\n}\n",
    "\n\n\n", "  \n  \n", "\r\n\r\n \r\n", "a/b//c/\n/d", "__init__ _x_ CamelCaseWord snake_case_word SCREAMING_CASE aBcDeF",
]
EMOJI = ["😀", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇯🇵", "❤️", "1️⃣", "☃", "🧑🏿‍🚀", "🤷‍♀️", "©®™", "♠♣♥♦", "🫠", "🀄", "🎉🎉🎉"]
DIGITS = ["0", "7", "42", "007", "123", "1234", "12345678901234567890", "3.14159", "1,000,000", "٣٤٥٦", "१२३", "Ⅷ", "½¾", "①②③",
          "²³", "１２３", "0xFF", "1e10", "-5", "50%", "𝟘𝟙𝟚", "〇一二三"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u2028", "\u2029", "\u0085", "\u200b", "\u1680", "\u202f",
          "\u180e", "\x0b", "\x0c", "\u2003", " \n", "\n ", "        ", "\u205f", "\ufeff"]
MARKS = "\u0300\u0301\u0302\u0308\u030a\u0327\u0328\u0338\u0323\u0345\u093c\u05b7\u064e\u3099\u20e3"
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "<unk>", "[INST]", "[/INST]", "<|eot_id|>", "<|begin_of_text|>",
           "<bos>", "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|end|>", "<think>", "</think>", "<|im_", "|>", "<0x0A>", "▁", "<repo_name>",
           "<|start_header_id|>", "<|fim_prefix|>"]
OLD = unicodedata.ucd_3_2_0  # characters that every Unicode version since 2002 agrees on


def known(code):
    return not 0xD800 <= code <= 0xDFFF and OLD.category(chr(code)) not in ("Cn", "Cs") and \
        OLD.category(chr(code)) == unicodedata.category(chr(code))


def word(r, script):
    low, high = SCRIPTS[script]
    out = []
    while len(out) < r.randint(1, 9):
        code = r.randint(low, high)
        if known(code):
            out.append(chr(code))
    return "".join(out)


def any_char(r):
    while True:
        code = r.choice([r.randint(0, 0x7F), r.randint(0, 0x2FF), r.randint(0, 0xFFFF), r.randint(0, 0x10FFFF)])
        if known(code):
            return chr(code)


def line(r, i):
    kind = i % 12
    if kind == 0:
        return " ".join(word(r, r.choice(list(SCRIPTS))) for _ in range(r.randint(1, 8)))
    if kind == 1:
        text = r.choice(PROSE)
        return text[r.randint(0, 10):] if i % 24 == 1 else text
    if kind == 2:
        return r.choice(CODE) + r.choice(["", "\n", " "]) + r.choice(CODE)
    if kind == 3:
        return r.choice(["", " ", "x"]).join(r.choice(EMOJI) for _ in range(r.randint(1, 6))) + r.choice(PROSE)[:20]
    if kind == 4:
        return "".join(c + "".join(r.choice(MARKS) for _ in range(r.choice([0, 0, 1, 1, 2, 5]))) for c in
                       r.choice(["Cafe naive", "aeiouy", "Ωρα", "йод", "한국어", "がぎぐ", "क़ख़", "שלום"]))
    if kind == 5:
        return r.choice([" ", "", "a", "-"]).join(r.choice(DIGITS) for _ in range(r.randint(1, 6)))
    if kind == 6:
        return "".join(r.choice(["a", "Bc", "1", ".", "é", ""]) + r.choice(SPACES) * r.choice([1, 1, 2, 5]) for _ in range(r.randint(1, 8)))
    if kind == 7:
        return "".join(chr(r.choice(list(range(32)) + [0x7F, 0x80, 0x85, 0x9F, 0xAD, 0xFFFE, 0xFFFF, 0xE000, 0x10FFFF, 97, 32]))
                       for _ in range(r.randint(1, 24)))
    if kind == 8:
        return "".join(r.choice(["it", "HE", "é", " ", "1", ""]) + r.choice(["'s", "'S", "'ll", "'LL", "'Re", "’s", "'d", "'ſ", "'ve", "''"])
                       for _ in range(r.randint(1, 7)))
    if kind == 9:
        return "".join(r.choice(SPECIAL) + r.choice(["", " ", "\n", "user\n", "Hi", "  x"]) for _ in range(r.randint(1, 5)))
    if kind == 10:
        return "".join(any_char(r) for _ in range(r.randint(1, 30)))
    parts = [r.choice(PROSE)[:r.randint(1, 30)], word(r, r.choice(list(SCRIPTS))), r.choice(EMOJI), r.choice(DIGITS), r.choice(SPACES),
             r.choice(CODE)[:15], r.choice(["...", "!?!", "((", "——", "_", "##"])]
    r.shuffle(parts)
    return "".join(parts)


def lines(count=2000):
    r = random.Random(20251122)
    return [line(r, i) for i in range(count)]
