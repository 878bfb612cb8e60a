# SPDX-License-Identifier: Apache-2.0
"""From the text of a press to kvpress' classes: the table that says which class each word stands for.

`chain_build(text, context)` gives a list of steps; each step takes a `Pressed` (pressing.py) and does one round.
The parser knows only right texts; wrong ones are the C tests' business.
"""
import re
from dataclasses import dataclass, field

import numpy as np
import torch
import kvpress as kv
from kvpress.utils import compute_n_kept


@dataclass
class Context:
    """What a chain may need besides the model: the query's length, the template's ids, parameter files."""
    model: object
    window: int = 0                      # length of the query at the end of the prefill (finch)
    prefix_length: int = 0               # kvzip: template tokens before the user's text
    suffix_ids: list = field(default_factory=list)
    encode: object = None                # text -> ids, for kvzip's instruction
    files: dict = field(default_factory=dict)   # name -> loaded parameters


def parse(text):
    """[(name, value, {option: value})] of one part."""
    stages = []
    for stage in re.split(r"\|(?=(?:[^\"]*\"[^\"]*\")*[^\"]*$)", text):
        head, _, rest = stage.strip().partition(":")
        name, _, value = head.partition("=")
        options = dict(pair.strip().split("=", 1) for pair in rest.split(",")) if rest else {}
        stages.append((name.strip(), value.strip(), {k.strip(): v.strip().strip('"') for k, v in options.items()}))
    return stages


def _on(options, name, default=True):
    return options.get(name, "on" if default else "off") == "on"


def _i(options, name, default):
    return int(options.get(name, default))


def _f(options, name, default):
    return float(options.get(name, default))


def _expected(o, c):
    return kv.ExpectedAttentionPress(n_future_positions=_i(o, "future", 512), n_sink=_i(o, "sink", 4),
                                     use_covariance=_on(o, "cov"), use_vnorm=_on(o, "vnorm"), epsilon=_f(o, "eps", 0))


def _expected_stats(o, c):
    press = kv.ExpectedAttentionStatsPress(
        n_future_positions=_i(o, "future", 512), n_sink=_i(o, "sink", 4), use_covariance=_on(o, "cov"),
        use_vnorm=_on(o, "vnorm"), epsilon=_f(o, "eps", 0))
    press.mu, press.cov = c.files[o["file"]]
    return press


def _qfilter(o, c):
    press = kv.QFilterPress()
    press.q_filters = c.files[o["file"]]
    return press


def _kvzap(o, c):
    press = kv.KVzapPress()
    press.kvzap_model = c.files[o["file"]]
    return press


def _compactor(o, c):
    blend = o.get("blend", "auto")
    return kv.CompactorPress(sink_size_start=_i(o, "sink", 8), sink_size_end=_i(o, "tail", 4),
                             chunk_size=_i(o, "chunk", 256), sketch_dimension=_i(o, "sketch", 48),
                             compression_ratio=0.0, blending=None if blend == "auto" else float(blend))


# word -> kvpress class; every one is a ScorerPress
SCORES = {
    "knorm": lambda o, c: kv.KnormPress(),
    "streaming": lambda o, c: kv.StreamingLLMPress(n_sink=_i(o, "sink", 4)),
    "keydiff": lambda o, c: kv.KeyDiffPress(),
    "lagkv": lambda o, c: kv.LagKVPress(n_sink=_i(o, "sink", 4), lag_size=_i(o, "lag", 128),
                                        cross_scoring=_on(o, "cross", False)),
    "cur": lambda o, c: kv.CURPress(num_sinks=_i(o, "sink", 4), leverage_type=o.get("leverage", "kv_product"),
                                    use_local_approximation=_on(o, "local"), local_window_size=_i(o, "window", 16)),
    "qfilter": _qfilter,
    "snapkv": lambda o, c: kv.SnapKVPress(window_size=_i(o, "window", 64), kernel_size=_i(o, "kernel", 5)),
    "tova": lambda o, c: kv.TOVAPress(),
    "observed": lambda o, c: kv.ObservedAttentionPress(),
    "expected": _expected,
    "expected-stats": _expected_stats,
    "cap": lambda o, c: kv.CapPress(tau=_f(o, "tau", 5), n_future_positions=_i(o, "future", 512),
                                    n_sink=_i(o, "sink", 4), epsilon=_f(o, "eps", 1e-6)),
    "noncausal": lambda o, c: kv.NonCausalAttnPress(chunk_size=_i(o, "chunk", 256)),
    "kvzap": _kvzap,
}

# word -> kvpress class around a score
WRAPS = {
    "adakv": lambda p, o, c: kv.AdaKVPress(p, alpha_safeguard=_f(o, "alpha", 0.2)),
    "critical": lambda p, o, c: kv.CriticalKVPress(p, epsilon=_f(o, "eps", 1e-4),
                                                   first_stage_ratio=_f(o, "first", 0.5)),
    "criticaladakv": lambda p, o, c: kv.CriticalAdaKVPress(p, alpha_safeguard=_f(o, "alpha", 0.2),
                                                           epsilon=_f(o, "eps", 1e-4),
                                                           first_stage_ratio=_f(o, "first", 0.5)),
    "pyramid": lambda p, o, c: kv.PyramidKVPress(window_size=p.window_size, kernel_size=p.kernel_size,
                                                 beta=_i(o, "beta", 20)),
    "chunk": lambda p, o, c: kv.ChunkPress(p, chunk_length=_i(o, "length", 1024)),
    "chunkkv": lambda p, o, c: kv.ChunkKVPress(p, chunk_length=_i(o, "length", 20)),
    "egchunkkv": lambda p, o, c: kv.EntropyGatedChunkKVPress(p, chunk_length=_i(o, "length", 10),
                                                             low_entropy_chunk_length=_i(o, "low", 4)),
    "block": lambda p, o, c: kv.BlockPress(p, block_size=_i(o, "size", 128)),
}


def _lukv(p, o, c):
    press = kv.LUKVPress(p, sink=_i(o, "sink", 4), window=_i(o, "window", 1))
    press._budget_curves = c.files[o["file"]]
    return press


WRAPS["lukv"] = _lukv


# ---- rounds ---------------------------------------------------------------------------------------------------

def _layers(pressed):
    for index, (module, args, kwargs, output) in enumerate(pressed.prefill.calls):
        yield index, module, args, dict(kwargs, past_key_values=pressed.cache), output


def hook_round(press, ratio_of, rerotate=False):
    """One press, layer by layer, as its own forward hook does it."""
    def step(pressed):
        for index, module, args, kwargs, output in _layers(pressed):
            press.compression_ratio = ratio_of(index, pressed.cache.layers[index].keys.shape[2])
            needs = getattr(press, "press", press)
            attention = pressed.prefill.attention[index] if isinstance(needs, kv.ObservedAttentionPress) else None
            before = pressed.cache.layers[index].keys
            _rerotated.clear()
            press.forward_hook(module, args, kwargs, (output, attention))
            if _rerotated:
                pressed.pos[index] = [[pos[row] for row in rows] for pos, rows in zip(pressed.pos[index], _rerotated[0])]
            else:
                pressed.layer_update(index, before)
            pressed.layer_mask(index, module)
        if rerotate:
            pressed.next = pressed.cache.layers[0].keys.shape[2]
    return step


_rerotate_keys = kv.KeyRerotationPress.rerotate_keys
_rerotated = []


def _rerotate_and_tell(module, indices, keys):
    """Rerotated keys of equal tokens are equal, so that the rows can't be told from them: the indices are noted."""
    _rerotated.append(indices[0].tolist())
    return _rerotate_keys(module, indices, keys)


kv.KeyRerotationPress.rerotate_keys = staticmethod(_rerotate_and_tell)


def think_round(options):
    press = kv.ThinKPress(key_channel_compression_ratio=_f(options, "ratio", 0.5), window_size=_i(options, "window", 32))

    def step(pressed):
        for index, module, args, kwargs, output in _layers(pressed):
            press.forward_hook(module, args, kwargs, (output, None))
    return step


def simlayer_round(options):
    press = kv.SimLayerKVPress(lazy_threshold=_f(options, "threshold", 1), n_last=_i(options, "last", 1),
                               n_recent=_i(options, "recent", 1024), n_initial=_i(options, "initial", 4))

    def step(pressed):
        for index, module, args, kwargs, output in _layers(pressed):
            before = pressed.cache.layers[index].keys
            press.forward_hook(module, args, kwargs, (output, None))
            pressed.layer_update(index, before)
    return step


def duo_round(options, context):
    press = kv.DuoAttentionPress(head_compression_ratio=_f(options, "heads", 0.5))
    scores, press.sink_size, press.recent_size = context.files[options["file"]]
    streaming = round(scores.size * press.head_compression_ratio)
    press.streaming_mask = torch.zeros(scores.shape, dtype=bool)
    if streaming > 0:
        chosen = np.argsort(np.clip(scores, 0, 1), axis=None, kind="stable")[:streaming]
        press.streaming_mask[np.unravel_index(chosen, scores.shape)] = True

    def step(pressed):
        for index, module, args, kwargs, output in _layers(pressed):
            press.forward_hook(module, args, kwargs, (output, None))
            pressed.layer_mask(index, module)
    return step


def dms_round(press, options):
    press = kv.DMSPress(press, threshold=_f(options, "threshold", 0), sliding_window_size=_i(options, "window", 128))

    def step(pressed):
        for index, module, args, kwargs, output in _layers(pressed):
            module.masked_key_indices = None
            press.forward_hook(module, args, kwargs, (output, None))
            pressed.layer_mask(index, module)
    return step


def finch_round(options, ratio_of, rerotate, context):
    chunk = _i(options, "chunk", 0)
    press = kv.FinchPress(chunk_length=chunk or None, normalize_scores=_on(options, "normalize"), rerotate_keys=rerotate)
    press.window_size = _i(options, "window", 0) or context.window
    return hook_round(press, ratio_of, rerotate)


def kvzip_round(options, ratio, context):
    press = kv.KVzipPress(compression_ratio=ratio, layerwise=_on(options, "layerwise", False),
                          n_sink=_i(options, "sink", 4), kvzip_plus_normalization=_on(options, "plus", False),
                          chunk_size=_i(options, "chunk", 2048))

    class Words:
        """What the press asks of a tokenizer."""
        @staticmethod
        def encode(text, **_):
            return torch.tensor([context.encode(text)])

    def step(pressed):
        model, fill = context.model, pressed.prefill
        press._context_ids, press._cache = torch.tensor([fill.ids]), fill.cache()
        press.prefix_length, press._suffix_ids = context.prefix_length, torch.tensor([context.suffix_ids])
        known = ("kvzip", tuple(sorted(options.items())))
        if known in fill.scores:                # the second pass does not know the ratio: once per prefill is enough
            press.score_val = fill.scores[known].clone()
            press.compress_post(model)
        else:
            select = press.compress_post
            press.compress_post = lambda _: fill.scores.update({known: press.score_val.clone()})
            press._perform_kvzip_compression(model, Words)
            select(model)
        for index, layer in enumerate(model.model.layers):
            pressed.layer_mask(index, layer.self_attn)
    return step


def fastkvzip_round(options, ratio, context):
    press = kv.FastKVzipPress(compression_ratio=ratio, layerwise=_on(options, "layerwise", False),
                              n_sink=_i(options, "sink", 4), window_size=_i(options, "window", 4096),
                              window_ratio=_f(options, "share", 0.02))
    press.gates = context.files[options["file"]]

    def step(pressed):
        press.score_val = [None] * len(pressed.prefill.calls)
        for index, module, args, kwargs, output in _layers(pressed):
            press.forward_hook(module, args, kwargs, (output, None))
        press.compress_post(context.model)
        for index, layer in enumerate(context.model.model.layers):
            pressed.layer_mask(index, layer.self_attn)
    return step


def kvcompose_pass(press, model, cache):
    """The attention of the second pass on the context, gathered per query head."""
    hooks = [layer.self_attn.register_forward_hook(press.forward_hook, with_kwargs=True) for layer in model.model.layers]
    kept = model.config._attn_implementation
    model.config._attn_implementation = "eager"
    try:
        model.model(input_ids=press.context_ids, past_key_values=cache)
    finally:
        model.config._attn_implementation = kept
        for hook in hooks:
            hook.remove()
    return press.task_aggregators


def kvcompose_round(options, ratio, context):
    press = kv.KVComposePress(
        structured=_on(options, "structured"), compression_ratio=ratio, agg_task=options.get("task", "max"),
        agg_group=options.get("group", "mean"), agg_head=options.get("head", "mean"),
        add_v_norm=_on(options, "vnorm", False), add_mean_across_heads=_on(options, "share"),
        keep_token_lower_bound=_i(options, "floor", 0))

    def step(pressed):
        model, fill = context.model, pressed.prefill
        press._register_model(model)
        press.register_context_ids(torch.tensor([fill.ids]))
        known = ("kvcompose", options.get("task", "max"))
        if known not in fill.scores:
            fill.scores[known] = kvcompose_pass(press, model, fill.cache())
        press.task_aggregators = fill.scores[known]
        press._register_cache(fill.cache())     # without the second pass (0.5.5 keeps it, and vnorm trips over it)
        press.prepare_important_masks()
        for index, heads in enumerate(press.important_mask_per_kv_head):
            gone = [(head, int(at)) for head, mask in enumerate(heads) for at in (~mask).nonzero()[:, 0]]
            module = model.model.layers[index].self_attn
            module.masked_key_indices = (torch.zeros(len(gone), dtype=torch.long),
                                         torch.tensor([g[0] for g in gone], dtype=torch.long),
                                         torch.tensor([g[1] for g in gone], dtype=torch.long))
            pressed.layer_mask(index, module)
        press._reset_state()
    return step


# ---- the chain ------------------------------------------------------------------------------------------------

def ratio_for_rows(length, rows):
    """A ratio that keeps exactly `rows` of `length`, as DecodingPress looks for it."""
    if rows >= length:
        return 0.0
    for low in (rows, rows + 0.5, rows + 0.25, rows + 0.75):
        ratio = 1 - low / length
        if compute_n_kept(length, ratio) == rows:
            return ratio
    raise ValueError((length, rows))


def keep_of(name, value):
    if name == "ratio":
        return lambda layer, length: float(value)
    if name == "rows":
        return lambda layer, length: ratio_for_rows(length, int(value))
    if name == "ratios":
        ratios = [float(part) for part in value.split("/")]
        return lambda layer, length: ratios[layer]
    raise ValueError(name)


def chain_build(text, context):
    """Steps of the prefill part of a chain."""
    part = text.split(";")[0].strip()
    if part in ("", "none"):
        return []
    stages, steps, at = parse(part), [], 0
    while at < len(stages):
        name, value, options = stages[at]
        if name == "think":
            steps.append(think_round(options))
            at += 1
            continue
        if name == "simlayer":
            steps.append(simlayer_round(options))
            at += 1
            continue
        if name == "duo":
            steps.append(duo_round(options, context))
            at += 1
            continue
        score, score_options, wraps = name, options, []
        at += 1
        while at < len(stages) and stages[at][0] in WRAPS or at < len(stages) and stages[at][0] == "dms":
            wraps.append(stages[at])
            at += 1
        if wraps and wraps[-1][0] == "dms":
            steps.append(dms_round(SCORES[score](score_options, context), wraps[-1][2]))
            continue
        keep = keep_of(*stages[at][:2])
        at += 1
        edit = None
        if at < len(stages) and stages[at][0] in ("rerotate", "merge"):
            edit = stages[at]
            at += 1
        if score == "finch":
            steps.append(finch_round(score_options, keep, edit is not None, context))
        elif score == "kvzip":
            steps.append(kvzip_round(score_options, keep(0, 0), context))
        elif score == "fastkvzip":
            steps.append(fastkvzip_round(score_options, keep(0, 0), context))
        elif score == "kvcompose":
            steps.append(kvcompose_round(score_options, keep(0, 0), context))
        else:
            press = SCORES[score](score_options, context)
            for word, _, wrap_options in wraps:
                press = WRAPS[word](press, wrap_options, context)
            if edit and edit[0] == "rerotate":
                press = kv.KeyRerotationPress(press)
            if edit and edit[0] == "merge":
                press = kv.MergingPress(press, similarity_threshold=_f(edit[2], "threshold", 0),
                                        merge_fraction=_f(edit[2], "fraction", 1))
            steps.append(hook_round(press, keep, bool(edit and edit[0] == "rerotate")))
    return steps
