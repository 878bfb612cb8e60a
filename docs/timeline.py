#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""timeline.py [--order ID] [--title TEXT] [--out FILE.svg] TRACE... - draws one order of nodes' traces (`--trace FILE`) as SVG.

One row per node and track (compute, press, pack, send; receive, adopt, commit, step, compress), one box per layer, one axis of time. The
traces of several nodes of one machine share their clock. Without --order the one with the most layers is drawn, the last of
them. Prints one JSON line: how much of the sending lay under the prefill's own work, and what came after it.
Python's own library only.
"""
import argparse
import json
from xml.sax.saxutils import escape

TRACKS = ["compute", "press", "pack", "send", "receive", "adopt", "commit", "step", "compress"]
COLOURS = {"compute": "#4878a8", "press": "#d98c3f", "pack": "#8f6bb0", "send": "#4f9d69", "receive": "#7bb98f",
           "adopt": "#b0703c", "commit": "#444444", "step": "#9aa5b1", "compress": "#c2455a"}
LEFT, RIGHT, TOP, ROW, GAP = 190, 20, 56, 22, 6
WIDTH = 1200


def read(paths):
    """Spans of all files as dicts: node, what, order, layer, begin and end in microseconds, bytes."""
    spans = []
    for path in paths:
        events = json.load(open(path))["traceEvents"]
        node = next((e["args"]["name"] for e in events if e["name"] == "process_name"), path)
        for e in events:
            if e["ph"] == "X":
                a = e["args"]
                spans.append({"node": node, "what": e["cat"], "order": a.get("order"), "layer": a.get("layer"),
                              "begin": e["ts"], "end": e["ts"] + e["dur"], "bytes": a.get("bytes", 0)})
    return spans


def choose(spans):
    """The order with the most computed layers; of several, that which began last."""
    layers, begun = {}, {}
    for s in spans:
        if s["what"] == "compute" and s["order"]:
            layers.setdefault(s["order"], set()).add(s["layer"])
            begun[s["order"]] = max(begun.get(s["order"], 0), s["begin"])
    if not layers:
        raise SystemExit("timeline: no order was computed in these traces")
    return max(layers, key=lambda o: (len(layers[o]), begun[o]))


def merged(spans):
    """The union of spans as ascending intervals."""
    out = []
    for begin, end in sorted((s["begin"], s["end"]) for s in spans):
        if out and begin <= out[-1][1]:
            out[-1][1] = max(out[-1][1], end)
        else:
            out.append([begin, end])
    return out


def covered(intervals, by):
    """So much of `intervals` lies inside of `by`."""
    return sum(max(0, min(b, d) - max(a, c)) for a, b in intervals for c, d in by)


def summary(order, spans):
    of = lambda *what: [s for s in spans if s["what"] in what]
    work, send = merged(of("compute", "press", "pack")), merged(of("send"))
    total = sum(b - a for a, b in send)
    last = max((b for _, b in work), default=0)
    end = max((s["end"] for s in of("commit", "send", "receive", "adopt")), default=last)
    return {"order": order, "layers": len({s["layer"] for s in of("send")}), "compute_ms": ms(of("compute")),
            "press_ms": ms(of("press")), "pack_ms": ms(of("pack")), "send_ms": round(total / 1e3, 3),
            "send_hidden": round(covered(send, work) / total, 4) if total else 1.0,
            "after_compute_ms": round(max(0, end - last) / 1e3, 3), "bytes": sum(s["bytes"] for s in of("send"))}


def ms(spans):
    return round(sum(s["end"] - s["begin"] for s in spans) / 1e3, 3)


def rows_of(spans):
    """(node, track, lane) -> spans, in the order of drawing; spans of a row do not overlap."""
    rows = {}
    for node in sorted({s["node"] for s in spans}, reverse=True):  # prefill-node above decode-node
        for what in TRACKS:
            ends = []
            for s in sorted((s for s in spans if s["node"] == node and s["what"] == what), key=lambda s: s["begin"]):
                lane = next((i for i, e in enumerate(ends) if e <= s["begin"]), len(ends))
                ends[lane:lane + 1] = [s["end"]]
                rows.setdefault((node, what, lane), []).append(s)
    return rows


def ticks(length):
    """Round distances of an axis of so many microseconds, about ten of them."""
    step = 1
    while length / step > 12:
        step *= 10 if length / step > 120 else 5 if length / step > 60 else 2
    return range(0, int(length) + 1, step)


def draw(spans, title):
    begin, end = min(s["begin"] for s in spans), max(s["end"] for s in spans)
    scale = (WIDTH - LEFT - RIGHT) / max(1, end - begin)
    x = lambda at: LEFT + (at - begin) * scale
    rows = rows_of(spans)
    height = TOP + len(rows) * (ROW + GAP) + 12
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="11">',
           f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
           f'<text x="{LEFT}" y="18" font-size="14">{escape(title)}</text>']
    for at in ticks(end - begin):
        out.append(f'<line x1="{x(begin + at):.1f}" y1="{TOP - 12}" x2="{x(begin + at):.1f}" y2="{height - 8}" stroke="#dddddd"/>'
                   f'<text x="{x(begin + at):.1f}" y="{TOP - 16}" text-anchor="middle" fill="#555555">{at / 1e3:g} ms</text>')
    node = None
    for i, ((name, what, lane), boxes) in enumerate(rows.items()):
        y = TOP + i * (ROW + GAP)
        if name != node:
            out.append(f'<line x1="0" y1="{y - GAP / 2}" x2="{WIDTH}" y2="{y - GAP / 2}" stroke="#999999"/>'
                       f'<text x="6" y="{y + 15}">{escape(name.split(" ")[0])}</text>')
            node = name
        out.append(f'<text x="{LEFT - 8}" y="{y + 15}" text-anchor="end">{what}{f" {lane + 1}" if lane else ""}</text>')
        for s in boxes:
            out.append(box(s, x(s["begin"]), max(0.6, (s["end"] - s["begin"]) * scale), y))
    return "\n".join(out + ["</svg>"]) + "\n"


def box(s, left, width, y):
    layer = "" if s["layer"] is None else f' {s["layer"]}'
    tip = f'{s["what"]}{layer}: {(s["end"] - s["begin"]) / 1e3:.3f} ms' + (f', {s["bytes"]} bytes' if s["bytes"] else "")
    text = f'<text x="{left + width / 2:.1f}" y="{y + 15}" text-anchor="middle" fill="white">{s["layer"]}</text>'
    return (f'<rect x="{left:.2f}" y="{y}" width="{width:.2f}" height="{ROW}" fill="{COLOURS[s["what"]]}"><title>{escape(tip)}</title>'
            f'</rect>' + (text if s["layer"] is not None and width > 16 else ""))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("traces", nargs="+", metavar="TRACE")
    p.add_argument("--order")
    p.add_argument("--title")
    p.add_argument("--out")
    o = p.parse_args()
    spans = read(o.traces)
    order = o.order or choose(spans)
    mine = [s for s in spans if s["order"] == order]
    if not mine:
        raise SystemExit(f"timeline: no order {order} in these traces")
    last = max(s["end"] for s in mine)
    first = min(s["begin"] for s in mine)
    mine += [s for s in spans if s["what"] == "step" and s["end"] >= first and s["begin"] <= last]
    if o.out:
        with open(o.out, "w") as file:
            file.write(draw(mine, o.title or f"order {order}"))
    print(json.dumps(summary(order, mine)))


if __name__ == "__main__":
    main()
