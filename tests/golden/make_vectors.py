# SPDX-License-Identifier: Apache-2.0
"""press_vectors.json: one small layer, made by a formula, and the rows that every press keeps of it.

The lines below were made with kvpress 0.5.5 (those marked *formula* from the papers' repositories' rules) and found
again by an independent program; float32 and float64 agree on all of them. Here they are only brought into a form that
a C test can read. Run with --check, the lines whose press is a plain class are run again through kvpress.

    make_vectors.py [--check]
"""
import os
import re
import sys

import reference as ref

DATA = {
    "value": "z = seed + (i+1)*0x9E3779B97F4A7C15; z = (z^(z>>30))*0xBF58476D1CE4E5B9; z = (z^(z>>27))*0x94D049BB133111EB;"
             " z ^= z>>31 (all mod 2^64); u = (z>>40)/2^24; value = 2u-1",
    "tokens": 64, "q_heads": 4, "kv_heads": 2, "head_size": 8, "hidden": 16, "layers": 4, "layer": 1, "theta": 10000,
    "layer_seed_offset": [300, 0, 100, 200],
    "tensors": {"X": [1, [64, 16]], "Wq": [2, [32, 16]], "bq": [3, [32]], "Wk": [4, [16, 16]], "bk": [5, [16]],
                "Wv": [6, [16, 16]], "bv": [7, [16]], "Wo": [8, [16, 32]]},
    "more_tensors": {"kvzap_linear_weight": [9, [2, 16]], "kvzap_linear_bias": [10, [2]], "qfilter": [11, [2, 8]],
                     "ea_mu": [12, [4, 8]], "ea_A": [13, [4, 8, 8]], "kvzap_W1": [14, [8, 16]], "kvzap_b1": [15, [8]],
                     "kvzap_W2": [16, [2, 8]], "kvzap_b2": [17, [2]], "fast_q_weight": [20, [64, 16]],
                     "fast_q_bias": [21, [64]], "fast_k_weight": [22, [32, 16]], "fast_q_norm": [23, [16]],
                     "fast_k_norm": [24, [16]], "fast_k_base": [25, [2, 16, 16]], "fast_b": [26, [2, 2]],
                     "duo_scores": [31, [4, 2]], "sketch": [32, [2, 8, 48]], "cur_matrix": [34, [8, 20]],
                     "lukv_curve": [35, [99, 4, 2]], "X_later": [40, [16, 16]], "kvzip_feed_0": [50, [50, 16]],
                     "kvzip_feed_1": [51, [39, 16]], "kvgrad_norm_0": [54, [50, 16]], "kvgrad_norm_1": [55, [39, 16]]},
    "notes": [
        "tensors are row-major [seed, shape]; projections are stored [out][in]; head k is columns 8k..8k+7",
        "K = RoPE(X Wk^T + bk) at positions 0..63 in half-split form, V = X Wv^T + bv; Wo is o_proj's weight [out][in]",
        "layer l adds layer_seed_offset[l] to every seed; unless a line says otherwise it is layer 1, offset 0",
        "ea: cov_a = A_a A_a^T / 8; duo: head scores are (value+1)/2, sink 4, recent 8; lukv: prune ratio .75 + value/4",
        "sketch and cur_matrix are given before the division by sqrt(48) and sqrt(20)",
        "X_later: module inputs of the tokens at positions 64, 65, ..., fed one by one",
        "fast gate: rows of q_proj are 32*kv_head + 16*group + channel; e = 16; used per layer with the layer's offset",
        "kvzip family: template prefix 3, chunks [3,43) and [43,64); chunk i is fed kvzip_feed_i as module inputs at"
        " positions 64.., both times; kvgrad: g_t = norm of row t of kvgrad_norm_i",
        "kvcompose: second pass = the same X at positions 64..127, keys = the cache and its own, causal"],
    "checks": {"X": [0.13312304, 0.49156344, 0.94200540], "K.0.1": [0.82910470, 1.57393043, -1.27677017],
               "V.1.63": [-0.29495099, 1.61526001, 1.31925489]},
}

# name ; chain ; rows of head 0 | rows of head 1 (or "same"); "not" = the rows that go, of the positions 0..71 while decoding
LINES = """
Knorm ; knorm | ratio=0.75 ; 2 9 13 17 18 30 31 33 37 39 41 45 46 55 56 60 | 0 7 8 10 16 17 20 22 31 41 48 54 55 56 60 63
StreamingLLM ; streaming | ratio=0.75 ; 0..3 52..63 | same
KeyDiff ; keydiff | ratio=0.75 ; 0 2 5 12 14 20 22 25 31 32 33 39 43 45 48 63 | 0 1 3 5 10 15 17 20 32 33 40 44 46 53 58 60
SnapKV w8 k5 ; snapkv:window=8 | ratio=0.75 ; 24..27 42..45 56..63 | 2..8 13 56..63
TOVA ; tova | ratio=0.75 ; 1 2 5 6 14 19 24 25 26 29 30 38 44 51 61 63 | same
ExpectedAttention ; expected | ratio=0.75 ; 0..4 7 25 26 28 29 38 43 47 49 53 54 | 0..4 9 12 18 25 27 33 35 38 43 45 49
EA eps .02 F 64 ; expected:future=64,eps=0.02 | ratio=0.75 ; 0..4 6 19 21 23..26 29 47 51 53 | 0..4 6 9 13 21 24 27 35 37 45 47 49
EA no cov no vnorm ; expected:cov=off,vnorm=off | ratio=0.75 ; 0..4 7 25 26 29 31 38 43 47 49 53 54 | 0..4 6 17 18 19 32 33 34 46 52 58 61
CUR ; cur | ratio=0.75 ; 0..4 15 21 25 26 29 35 42 51 53 58 62 | 0..5 9 11 21 24 25 30 35 46 53 58
Cap ; cap | ratio=0.75 ; 0..4 6 11 25 26 28 29 31 38 43 49 55 | 0..4 15 18 20 32 33 44 46 52 54 60 61
NonCausalAttn cs 16 ; noncausal:chunk=16 | ratio=0.75 ; 3 4 5 15 24 25 26 28 29 30 43 44 48 52 53 54 | 3..6 28 32..36 38 40 57 58 60 61
NonCausalAttn cs 24 ; noncausal:chunk=24 | ratio=0.75 ; 2..5 16 19 20 21 23..26 44 52 53 54 | 3..6 28 29 33 34 51 52 56 57 58 60 61 62
PyramidKV w4 ; snapkv:window=4 | pyramid | ratio=0.75 ; 27..31 41..45 49 52 60..63 | 1..8 25 27 28 29 60..63
CriticalKV(SnapKV w8) ; snapkv:window=8 | critical | ratio=0.75 ; 5 25 26 27 42 44 45 52 56..63 | 3..6 8 13 30 33 56..63
CriticalKV(EA no vnorm) ; expected:vnorm=off | critical | ratio=0.75 ; 0..4 7 21 25 26 29 38 43 47 49 53 54 | 0..4 9 11 12 13 18 27 32 35 38 45 49
Chunk(Knorm 16) ; knorm | chunk:length=16 | ratio=0.75 ; 2 5 9 13 17 18 30 31 33 37 39 41 55 56 58 60 | 0 7 8 10 16 17 20 22 38 39 41 44 48 54 56 60
ChunkKV(SnapKV w8 5) ; snapkv:window=8 | chunkkv:length=5 | ratio=0.75 ; 25..29 55..63 | same
Block(KeyDiff 8) ; keydiff | block:size=8 | ratio=0.75 ; 0 14 20 22 31 32 38 39 43 45 48 49 58 60 62 63 | 3 5 10 14 15 17 20 32 33 40 44 52 55 56 58 60
AdaKV(SnapKV w8) ; snapkv:window=8 | adakv | ratio=0.75 ; 23..27 41..45 51 52 56..63 | 3..6 56..63
AdaKV(EA eps .01) ; expected:eps=0.01 | adakv | ratio=0.75 ; 0..4 7 25 26 29 38 43 47 49 53 | 0..5 9 12 14 24 25 27 33 35 38 43 45 49
CriticalAdaKV(SnapKV w8) ; snapkv:window=8 | criticaladakv | ratio=0.75 ; 3 5 25 26 27 41..45 49 52 56..63 | 3..6 56..63
Finch w8 ; finch:window=8 | ratio=0.75 ; 0 3 24 25 26 29 43 51 56..63 | 2 4 6 14 15 32 46 50 56..63
LagKV lag16 ; lagkv:lag=16 | ratio=0.3 ; not 6..9 11 13 14 17..20 22 23 24 27 30 32..35 | 5..8 10 12 16..23 25 26 27 29 31 34
LagKV lag16 cross ; lagkv:lag=16,cross=on | ratio=0.3 ; not 6..9 11 13 14 17..20 22 23 24 27 30 32..35 | 5..8 10 12 16..23 25 26 27 29 31 34
Finch w8 rerotated ; finch:window=8 | ratio=0.75 | rerotate ; 0 3 24 25 26 29 43 51 56..63 | 2 4 6 14 15 32 46 50 56..63
Ada paper w8 cap24 alpha .2 (formula) ; snapkv:window=8,kernel=7 | adakv:rule=paper | rows=24 ; 22..30 40..46 48..54 56..63 | 1..9 56..63
BRANCH AdaSnapKV w8 k5 (formula) ; snapkv:window=8 | adakv:rule=branch | ratio=0.75 ; 23..27 41..45 51 52 56..63 | 3..6 56..63
Knorm r=.99 ; knorm | ratio=0.99 ; 13 | 0
ObservedAttention ; observed | ratio=0.75 ; 0 1 3 4 5 15 20 24 25 29 31 43 47 51 53 63 | 0..6 9 11 13 19 21 24 29 57 61
QFilter ; qfilter:file=qfilter | ratio=0.75 ; 1 4 15 19 21 23 24 27 29 42 44 51 52 53 58 60 | 1 3 5 9 22 29 30 35 36 38 40 43 46 48 53 55
EA-stats ; expected-stats:file=stats | ratio=0.75 ; 0..4 6 10 12 25 29 31 42 43 52 53 58 | 0..3 9 11 12 14 24 25 27 35 38 43 45 49
KVzap linear ; kvzap:file=kvzap-linear | ratio=0.75 ; 6 9 12 13 24 28 30 31 38 49 51 53 55 61 62 63 | 4..7 10 16 20 27 29 31 43 44 47 53 56 57
KVzap MLP ; kvzap:file=kvzap-mlp | ratio=0.75 ; 3 8 10 12 13 15 16 29 31 34 37 49 54 55 59 62 | 0 5 7 9 20 25 27 29 33 34 37 42 43 45 52 56
EG-ChunkKV(SnapKV w8) 10/4 ; snapkv:window=8 | egchunkkv | ratio=0.75 ; 2 4 5 6 24..27 56..63 | same
EG-ChunkKV(Knorm) 7/3 ; knorm | egchunkkv:length=7,low=3 | ratio=0.75 ; 7..20 60 63 | same
EG-ChunkKV(KeyDiff) 6/3 ; keydiff | egchunkkv:length=6,low=3 | ratio=0.75 ; 0..5 12 14 15 17 30..35 | same
EG-ChunkKV(EA) 5/2 ; expected:sink=0,eps=0.02 | egchunkkv:length=5,low=2 | ratio=0.75 ; 3 4 25 29 35..39 42 43 45..49 | same
CUR key no local ; cur:leverage=key,local=off | ratio=0.75 ; 0..4 15 21 23 24 25 29 32 43 47 51 53 | 0..4 6 9 11 21 24 25 30 32 35 46 58
CUR random (given matrix) ; cur:random=on | ratio=0.75 ; 0..4 15 21 23 25 26 29 40 42 47 53 62 | 0..4 13 21 24 25 28 46 49 51 53 58 61
Leverage k48 (given sketch) ; leverage | ratio=0.75 ; 3 4 15 21 25 26 31 32 45 48 49 52 54 55 61 62 | 4 5 6 9 11 15 22 25 27 29 30 32 35 42 52 58
Compactor cs 16 k48 (given sketch) ; compactor:chunk=16 | ratio=0.75 ; 0..7 15 24 25 26 60..63 | 0..7 42 51 52 58 60..63
PyramidKV w2 beta2 ; snapkv:window=2 | pyramid:beta=2 | ratio=0.75 ; 2..5 27 28 29 41..45 49..53 62 63 | 0..8 25..29 59..63
AdaKV(Knorm a 0) ; knorm | adakv:alpha=0 | ratio=0.75 ; 2 5 9 10 13 17 18 30 31 33 34 37 39 41 45 46 55 56 60 | 0 8 10 16 17 20 22 41 48 54 56 60 63
AdaKV(KeyDiff) r=.9 ; keydiff | adakv | ratio=0.9 ; 14 20 22 31 32 39 43 45 | 20 32 44 46
CriticalAdaKV(KeyDiff) ; keydiff | criticaladakv | ratio=0.75 ; 0 2 5 12 14 18 20 22 25 31 32 33 39 43 45 48 63 | 0 1 3 5 10 15 17 20 32 33 40 44 46 58 59
Finch w4 chunk 40 ; finch:window=4,chunk=40 | ratio=0.75 ; 0 3 4 5 20 24 25 26 29 31 43 51 60..63 | 2 4 6 11 15 24 26 27 29 37 40 50 60..63
Composed, survivors ascending ; knorm | ratio=0.3 | snapkv:window=8 | ratio=0.3 ; 0 1 2 5 6 8 9 10 12 13 17 22 28 30 31 38 40 46 48 49 50 52 55..61 63 | 10 12..17 22 23 26 28 29 31 33 34 39 43 45 48 50 51 52 54 55 56 59..63
LUKV(EA eps .02) ; expected:eps=0.02 | lukv:file=lukv | ratio=0.75 ; 0..3 25 26 29 43 63 | 0..4 27 33 35 38 43 45 63
LUKV(Knorm) ; knorm | lukv:file=lukv | ratio=0.75 ; 0..3 9 13 37 41 63 | 0..3 8 10 20 22 41 54 60 63
DuoAttention ; duo:file=duo,heads=0.4 ; 0..3 56..63 | 0..63
DMS(Knorm) ; knorm | dms:threshold=-2.6,window=16 ; 2 9 13 33 37 39 41 48..63 | 0 10 20 22 41 48..63
DMS(KVzap linear) ; kvzap:file=kvzap-linear | dms:threshold=0.5,window=16 ; 9 13 31 48..63 | 2 4..10 12 15 16 19 20 24..27 29 30 31 33 35 37 38 40 42..63
DMS(KVzap MLP) ; kvzap:file=kvzap-mlp | dms:threshold=0.5,window=16 ; 10 12 13 16 31 48..63 | 0 2 5..7 9 12..17 19 20 22..31 33 34 37 39..43 45..63
SimLayer 16 1 ; simlayer:threshold=0.2,last=1,recent=16,initial=4 ; 0..3 49..63 | same
SimLayer 24 4 ; simlayer:threshold=0.4,last=4,recent=24,initial=4 ; 0..3 44..63 | same
FastKVzip ; fastkvzip:file=fast | ratio=0.75 ; 0..6 8 9 10 13 15 16 17 20 22 23 28 30..35 39 40 42 44 46 48 49 52 55..60 62 63 | 0..3 14 63
FastKVzip layerwise ; fastkvzip:file=fast,layerwise=on | ratio=0.75 ; 0..3 5 6 8 9 10 13 15 20 22 32 33 34 40 42 44 46 48 52 55 59 60 62 63 | 0..3 63
KVzip ; kvzip | ratio=0.75 ; 0..4 20 24 25 29 32 38 43 47 51 52 54 | 0..4 6 11 19 24 27 29 30 33 34 35 40 57 61
KVzip layerwise ; kvzip:layerwise=on | ratio=0.75 ; 0..4 20 24 25 29 32 43 47 51 52 54 | 0..4 6 11 19 24 27 29 30 33 34 35 40 57
KVzip+ ; kvzip:plus=on | ratio=0.75 ; 0..4 25 29 32 43 47 51 52 54 | 0..4 6 11 24 29 30 33 35 46 53 55 57 62
KVgrad ; kvgrad | ratio=0.75 ; 0..4 25 29 32 43 47 51 52 54 | 0..4 6 11 24 29 30 33 34 35 40 46 55 61 62
RestoreKV (own rows not listed) ; restorekv:file=restore | ratio=0.75 ; 0..4 29 32 43 47 51 | 0..3 6 11 35
KVCompose ; kvcompose | ratio=0.75 ; 4 20 24 25 29 32 35 43 47 51 53 54 58 | 1 4 6 11 19 21 24 27 29 32 35 53 58
KVCompose no head mean ; kvcompose:share=off | ratio=0.75 ; 0 3 4 20 24 25 26 29 32 43 47 51 53 54 | 1 4 6 11 19 21 23 24 27 32 35 46 53 58
KVCompose floor 15 ; kvcompose:floor=15 | ratio=0.75 ; 3 4 19 20 24 25 29 32 35 43 47 51 53 54 58 | 1 4 6 11 19 21 23 24 27 29 32 35 46 53 58
KVCompose unstructured mean ; kvcompose:structured=off,task=mean,share=off | ratio=0.75 ; 3 4 6 19 20 24 25 29 32 43 47 51 53 54 | 1 2 4 6 11 19 21 24 27 29 33 34 35 57 58
Decoding(Knorm) ; ; decode:every=4 | knorm | rows=48 ; not 1 3 4 7 15 19 21 23..26 29 32 35 43 44 47 51 53 54 61 62 67 70 | 1 2 4 6 9 11 18 21 24 25 27 30 32 35 40 45 46 47 49 57 58 66 70 71
Decoding(KeyDiff) ; ; decode:every=4 | keydiff | rows=48 ; not 1 7 9 11 17 19 21 23 24 26 28 35 41 42 44 46 50 51 55 60 61 62 67 68 | 2 7 9 11 12 13 18 21 23..26 28 37 38 39 43 45 47 48 49 66 69 70
Decoding(TOVA) ; ; decode:every=4 | tova | rows=48 ; not 2 4 7 8 11 13 26 27 30 32 42 45 46 50 54 57..62 64 65 66 | same
CompressionRatioDecoding(Knorm .5) ; ; decode:every=4 | knorm | ratio=0.5 ; 0 2 5 6 9 10 12 13 14 16 17 18 22 30 31 33 34 36 37 39 41 42 45 46 48 50 55 56 58 59 60 63 64 68 69 71 | 0 3 5 7 8 10 14..17 20 22 26 31 33 36 38 39 41..44 48 52..56 59 60 62 63 65 67 68 69
CAM(TOVA), coin = 1 iff prob >= .5 ; ; decode:every=4 | tova | cam:merge=3 | rows=48 ; not 2 4 7 8 11 13 26 27 30 32 42 45 46 50 54 57..62 64 65 66 | same
"""

# what else is told of a line: rows per layer and head, more rows later, channels, values
MORE = {
    "FastKVzip": {"counts": [[5, 27], [40, 6], [31, 5], [9, 5]]},
    "FastKVzip layerwise": {"counts": [[5, 27], [27, 5], [27, 5], [27, 5]]},
    "KVzip": {"counts": [[14, 13], [16, 18], [16, 18], [21, 12]]},
    "RestoreKV (own rows not listed)": {"counts": [[7, 5], [10, 7], [7, 10], [10, 8]]},
    "KVzip layerwise": {"counts": [[16, 16], [15, 17], [15, 17], [21, 11]]},
    "KVzip+": {"counts": [[15, 17], [13, 17], [17, 15], [22, 12]]},
    "KVgrad": {"counts": [[15, 15], [13, 18], [16, 17], [23, 11]]},
    "KVCompose": {"counts": [[17, 17], [13, 13], [17, 17], [17, 17]]},
    "KVCompose no head mean": {"counts": [[18, 18], [14, 14], [14, 14], [18, 18]]},
    "KVCompose floor 15": {"counts": [[17, 17], [15, 15], [16, 16], [16, 16]]},
    "KVCompose unstructured mean": {"counts": [[19, 15], [14, 15], [14, 18], [18, 15]]},
    "PyramidKV w2 beta2": {"counts": [[24, 24], [19, 19], [13, 13], [8, 8]]},
    "DuoAttention": {"streaming": [[1, 0], [2, 1], [3, 0]], "ratio": 0.3046875},
    "DMS(Knorm)": {"ratio": 0.65625, "decoding": {"steps": 6, "gone": ["48-53", "48-53"], "ratio": 0.685714}},
    "DMS(KVzap linear)": {"ratio": 0.484375, "decoding": {"steps": 6, "gone": ["48 50-53", "48-50 52"], "ratio": 0.507143}},
    "DMS(KVzap MLP)": {"ratio": 0.4375, "decoding": {"steps": 6, "gone": ["48-53", "48-49 51"], "ratio": 0.464286}},
    "SimLayer 16 1": {"score": 0.290338, "ratio": 0.703125},
    "SimLayer 24 4": {"score": 0.4687163, "ratio": 0.578125},
    "CAM(TOVA), coin = 1 iff prob >= .5": {
        "changed": ["5 6 9 28 29 31 33 34 43 44 47 48 49", "28 29 31 33 34 43 44 47 48 49 63 67 68"],
        "values": [{"head": 0, "row": 5, "v": [3.187462, -2.773254, 2.683127, 1.563287, -.777897, -2.002752, 1.677028, -2.62044]}],
        "attention_sum": {"head": 0, "from": 0, "v": [.1062661, .2809702, .1755052, .1496679]}},
    "Ada paper w8 cap24 alpha .2 (formula)": {"lens": [31, 17]},
}

EXTRA = [
    {"name": "Ada paper alpha .5 (formula)", "chain": "snapkv:window=8,kernel=7 | adakv:alpha=0.5,rule=paper | rows=24",
     "lens": [28, 20]},
    {"name": "ThinK", "chain": "think:ratio=0.5,window=8", "channels_gone": ["0 4-6", "0 3 5 6"]},
    {"name": "KeyRerotation(Knorm)", "chain": "knorm | ratio=0.75 | rerotate",
     "keys": [{"head": 0, "slot": 5, "v": [0.602636, 2.110989, 0.153952, -1.461492, -0.392569, 0.832799, 0.716612, -0.073445]}]},
    {"name": "Merging(Knorm), highest-scored row", "chain": "knorm | ratio=0.75 | merge",
     "values": [{"head": 0, "row": "best", "v": [-0.686255, -0.759703, -0.480137, 0.39661, -1.482553, 0.922648, -0.564706, 0.795481]}]},
    {"name": "Merging(SnapKV w8)", "chain": "snapkv:window=8 | ratio=0.75 | merge",
     "changed": ["24-27 42-45 56 58-63", "3-8 13 56-60 62 63"],
     "values": [{"head": 0, "row": 25, "v": [.974957, -2.069792, 1.395413, .183889, -1.267292, -2.098216, 1.099967, 1.129047]},
                {"head": 1, "row": 5, "v": [-1.064624, .414777, .321245, 2.373369, 1.927677, -.138638, 3.464859, .222181]}]},
    {"name": "Merging(SnapKV w8) threshold .3 fraction .5",
     "chain": "snapkv:window=8 | ratio=0.75 | merge:threshold=0.3,fraction=0.5",
     "changed": ["24-27 44 56 60 61", "3-8 13 56 57 59 60 62 63"],
     "values": [{"head": 0, "row": 25, "v": [.991861, -2.367386, 1.322255]},
                {"head": 1, "row": 5, "v": [-1.41858, .177128, .243372]}]},
    {"name": "Duo probe, four layers, one sample = X, no input norm", "chain": "duo:probe=on,heads=0.5",
     "head_scores": [[.503634, .501134], [.499947, .491234], [.552038, .482154], [.469067, .491607]]},
]

# chain up to the score, head, first index, values
SCORES = [
    ("snapkv:window=8", 0, 0, [0.0110668, 0.0162106, 0.0212781, 0.0191844, 0.0186048, 0.0199226]),
    ("snapkv:window=8", 0, 63, [1.0357219]),
    ("expected", 0, 0, [1.5263882, 1.5263882, 1.5263882, 1.5263882, 0.1245564, 0.0487322, 0.0695228, 0.1109801]),
    ("keydiff", 1, 0, [-0.0342956, 0.0720222, -0.5436251, 0.0780938]),
    ("cap", 0, 0, [1.4062609, 1.4062609, 1.4062609, 1.4062609, 0.3115841, 0.0957382, 0.2093139, 0.1710313]),
    ("noncausal:chunk=24", 0, 0, [-0.998272, -0.888618, 0.801554, 2.69968]),
    ("observed", 0, 0, [0.0684072, 0.0438795, 0.0276878]),
    ("kvzap:file=kvzap-linear", 0, 0, [-1.504342, -1.607586, -1.499671]),
    ("kvzap:file=kvzap-mlp", 0, 0, [-4.767542, -1.654672, -2.691863]),
    ("leverage", 0, 0, [0.220993, -0.349046, -0.898327]),
    ("norm of V Wo (L1)", 0, 0, [22.99542, 38.54113, 15.58587]),
    ("kvcompose", 0, 0, [.2304604, .2174934, .1244977]),
    ("expected-stats:file=stats", 0, 3, [1.145428, .145428, .0741288]),
    ("kvzip", 0, 3, [.6260017, .7266043, .1204474]),
    ("kvzip:plus=on", 0, 3, [2.938444, 2.708548, .64586]),
    ("kvgrad", 0, 3, [18.70798, 15.56166, 3.864642]),
    ("fastkvzip:file=fast", 0, 4, [.0812249, .0924130, .0848642]),
    ("compactor:chunk=16", 0, 7, [3.146528, -1.606752, -2.291852]),
]


def heads_of(text, universe):
    gone = text.startswith("not ")
    heads = []
    for part in text.removeprefix("not ").split("|"):
        part = part.strip()
        rows = heads[0] if part == "same" else ref.rows_of(re.sub(r"(\d+)\.\.(\d+)", r"\1-\2", part))
        if gone and part != "same":
            rows = sorted(set(range(universe)) - set(rows))
        heads.append(rows)
    return heads


def vectors():
    out = []
    for line in LINES.strip().splitlines():
        name, chain, rows = re.match(r"(.*?) ; (.*) ; (.*)", line).groups()
        decoding = chain.startswith("; decode")
        item = {"name": name, "chain": chain.strip()}
        if decoding:
            item["steps"] = 8
        heads = heads_of(rows.strip(), 72 if decoding else 64)
        item["keep"] = [ref.ranges(head) for head in heads]
        out.append(item | MORE.get(name, {}))
    return out + EXTRA


def main():
    items = vectors()
    if "--check" in sys.argv:
        import check_vectors

        check_vectors.check(items)
    head = {"made_with": "kvpress 0.5.5, torch 2.15, transformers 5.2.0", "data": DATA,
            "scores": [{"score": s, "head": h, "from": f, "values": v} for s, h, f, v in SCORES]}
    ref.write_json(os.path.join(ref.HERE, "press_vectors.json"), head, vectors=items)
    print(len(items), "vectors")


if __name__ == "__main__":
    main()
