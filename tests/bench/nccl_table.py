#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""nccl_table.py FILE SECONDS - the JSON lines of tests/gpu-nccl.sh as tables, with the bars of each; exit code 1 where one is missed."""
import json
import statistics
import sys

BARS = {1: 0.5, 16: 0.8, 64: 0.92, 256: 0.95}


def speeds(lines):
    """transport -> MiB -> median of the runs; the first run on one GPU comes after those on two."""
    out = {}
    for line in lines:
        if "gb_s" in line:
            out.setdefault(line["transport"], {}).setdefault(line["mib"], []).append(line["gb_s"])
    return {t: {mib: statistics.median(v) for mib, v in sizes.items()} for t, sizes in out.items()}


def main():
    lines = [json.loads(line) for line in open(sys.argv[1]) if line.startswith("{")]
    failed = [line["failed"] for line in lines if "failed" in line]
    two = next((line["gpus"] for line in lines if "gpus" in line), 0) >= 2
    last_copy = max((i for i, line in enumerate(lines) if "gb_s" in line and line["transport"] == "nccl"), default=-1)
    between = speeds(lines[:last_copy + 1]) if two else {}
    bars = {}
    if between:
        print("\n| MiB | copy GB/s | nccl | share | ipc | share | bar |\n| --- | --- | --- | --- | --- | --- | --- |")
        for mib, bar in BARS.items():
            copy = between.get("copy", {}).get(mib, 0)
            share = {t: between.get(t, {}).get(mib, 0) / copy if copy else 0 for t in ("nccl", "ipc")}
            for t in share:
                bars[f"{t} {mib} MiB"] = share[t] >= bar
            print(f"| {mib} | {copy:.1f} | {between.get('nccl', {}).get(mib, 0):.1f} | {share['nccl']:.3f} | "
                  f"{between.get('ipc', {}).get(mib, 0):.1f} | {share['ipc']:.3f} | {bar} |")
    kills = [line for line in lines if "kill" in line]
    if kills:
        print("\n| transport | killed | rounds | making / before / middle / after / commit | worst ms | MiB before -> after | settled ms |\n"
              "| --- | --- | --- | --- | --- | --- | --- |")
    for k in kills:
        moments = " / ".join(str(k[m]) for m in ("making", "before", "middle", "after", "commit"))
        print(f"| {k['transport']} | {k['kill']} | {k['rounds']} | {moments} | {k['worst_ms']} | "
              f"{k['memory_before_mib']} -> {k['memory_after_mib']} | {k['settled_ms']} |")
        bars[f"kill {k['transport']} {k['kill']}"] = bars.get(f"kill {k['transport']} {k['kill']}", True) and k["holds"]
    leaks = [line for line in lines if "mib_a_round" in line]
    if leaks:
        print("\n| ended by | with | moment | survivor | MiB a lost peer | threads | aborts (failed, last result) | pairs kept |\n"
              "| --- | --- | --- | --- | --- | --- | --- | --- |")
    for k in leaks:
        print(f"| {k['leak']} | {k['with'] or '-'} | {k['moment']} | {k['survivor']} | {k['mib_a_round']} | {k['threads_a_round']} | "
              f"{k['aborts']} ({k['aborts_failed']}, {k['last_result']}) | {k['pairs']} |")
    missed = sorted(b for b, held in bars.items() if not held)
    summary = {"bars": len(bars), "missed": missed, "failed": failed, "kill_rounds": sum(k["rounds"] for k in kills),
               "worst_ms": max((k["worst_ms"] for k in kills), default=None), "seconds": int(sys.argv[2])}
    print(f"\n{len(bars) - len(missed)} of {len(bars)} bars hold; missed: {', '.join(missed) or 'none'}; "
          f"{summary['kill_rounds']} kills, worst {summary['worst_ms']} ms; {len(failed)} programs failed")
    print(json.dumps(summary))
    return 1 if missed or failed else 0


if __name__ == "__main__":
    sys.exit(main())
