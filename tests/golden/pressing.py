# SPDX-License-Identifier: Apache-2.0
"""Runs kvpress' classes over a recorded prefill and tells which rows they keep, and which rows are on the edge.

A press does not change what the prefill computes, so one forward pass is recorded and every press is replayed over a
copy of its cache: its own `forward_hook` is called with the layer's own arguments. Rows are recognised by their keys,
bit for bit. After each step the rows are put into ascending order of position, which is what a second round sees here
(kvpress would show it score order; PRESSES 9.8).

Ties. kvpress leaves equal scores to torch.topk, which promises nothing. `tie_rule` replaces the sorts that the presses
call by stable ones in which the smaller position wins, also where the press picks what goes instead of what stays.

Edges. A row is on the edge when another correct program might decide otherwise: the float64 run decides otherwise, or
it does when every score closer to the cut than `slack` is mirrored at the cut (twice, with the whole and a third
of the slack), or when the two entries at the cut change places. The slack is six times the measured difference
between the float32 and the float64 scores near the cut, plus a relative 1e-6 of the cut.
"""
import contextlib
import copy
import linecache
import sys

import torch
from transformers import DynamicCache

from chains import chain_build

_topk, _argsort, _sort = torch.topk, torch.argsort, torch.sort


# ---- ties and edges -------------------------------------------------------------------------------------------

class Cuts:
    """What the presses' sorts saw in one run; with `slack` they see scores disturbed near the cut."""

    def __init__(self, slack=None, mode=None):
        self.scores, self.slack, self.mode, self.at = [], slack, mode, 0

    def see(self, scores, k, evicting):
        """Scores [.., n] of which the k largest stay (or go): what the sort is shown."""
        shown = scores.double()
        if k is None or k >= scores.shape[-1] or k < 1:
            k = None
        if self.mode is None:
            self.scores.append((shown.clone(), k))
            return shown
        slack, chance = self.slack[self.at] if self.at < len(self.slack) else (None, None)
        self.at += 1
        if slack is None or slack.shape[:-1] != shown.shape[:-1] or k is None:
            return shown
        ordered = _sort(shown, dim=-1, descending=True)[0]
        last, next_ = ordered[..., k - 1:k], ordered[..., k:k + 1]
        if self.mode == "swap":
            near = (last - next_ <= 2 * slack) & (last > next_)
            out = torch.where(near & (shown == last), next_, shown)
            out = torch.where(near & (shown == next_), last, out)
            return out + slack * chance if chance.shape == shown.shape else out
        slack = slack * self.mode
        middle = (last + next_) / 2
        near = ((shown - middle).abs() <= slack) & (last > next_)
        return torch.where(near, 2 * middle - shown, shown)


_cuts = None


def _pick(scores, k, largest, evicting):
    """Indices of the k largest (or smallest); equal scores: smaller index stays, so larger index goes."""
    scores = scores if largest else -scores
    shown = _cuts.see(scores, k, evicting) if _cuts else scores
    if evicting:
        order = _argsort(shown.flip(-1), dim=-1, descending=True, stable=True)[..., :k]
        return scores.shape[-1] - 1 - order
    return _argsort(shown, dim=-1, descending=True, stable=True)[..., :k]


def _topk_by_rule(scores, k, dim=-1, largest=True, sorted=True):  # noqa: A002
    caller = sys._getframe(1)
    line = linecache.getline(caller.f_code.co_filename, caller.f_lineno)
    evicting = not largest or "topk(-" in line
    indices = _pick(scores, int(k), largest, evicting)
    return torch.return_types.topk((scores.gather(-1, indices), indices))


def _argsort_by_rule(scores, dim=-1, descending=False, stable=True):
    return _argsort(scores, dim=dim, descending=descending, stable=True)


@contextlib.contextmanager
def tie_rule(cuts=None):
    global _cuts
    kept = (torch.topk, torch.Tensor.topk, torch.argsort, torch.Tensor.argsort)
    torch.topk = torch.Tensor.topk = _topk_by_rule
    torch.argsort = torch.Tensor.argsort = _argsort_by_rule
    _cuts = cuts
    try:
        yield
    finally:
        torch.topk, torch.Tensor.topk, torch.argsort, torch.Tensor.argsort = kept
        _cuts = None


def slacks(single, double):
    """Per sort and per row of scores, how near to the cut a decision may go either way; and -1, +1 at two entries beside
    the cut that are equal by chance: in float32, but not in float64."""
    out = []
    for index, (scores, k) in enumerate(single):
        if k is None:
            out.append((None, None))
            continue
        same = index < len(double) and double[index][0].shape == scores.shape
        cut = _sort(scores, dim=-1, descending=True)[0][..., k - 1:k]
        noise = torch.zeros_like(cut)
        if same:
            near = (scores - cut).abs()
            order = _argsort(near, dim=-1)[..., :32]
            error = (scores - double[index][0]).abs().gather(-1, order)
            error = torch.where(error.isfinite() & (error < 1e30), error, torch.zeros_like(error))
            noise = 6 * error.pow(2).mean(-1, keepdim=True).sqrt()
            # much larger than rounding: an earlier decision fell otherwise, and other rows stand at these places
            middle = scores.gather(-1, order)
            spread = torch.where(middle.abs() < 1e30, middle - cut, torch.zeros_like(middle)).abs().amax(-1, keepdim=True)
            noise = torch.where(noise > 0.01 * spread, 1e-6 * cut.abs(), noise)
        chance = torch.zeros_like(scores)
        if same:
            stays, goes = _argsort(scores, dim=-1, descending=True, stable=True)[..., k - 1:k + 1].split(1, -1)
            other = double[index][0]
            equal = (scores.gather(-1, stays) == scores.gather(-1, goes)) & \
                (other.gather(-1, stays) != other.gather(-1, goes))
            chance.scatter_(-1, goes, equal.double()).scatter_(-1, stays, -equal.double())
        out.append((torch.where(cut.abs() < 1e30, noise + 1e-6 * cut.abs(), torch.zeros_like(cut)), chance))
    return out


# ---- a recorded prefill ---------------------------------------------------------------------------------------

class Prefill:
    """One forward pass over `ids`: what each attention module was given and what stands in its cache."""

    def __init__(self, model, ids, eager=False):
        self.model, self.ids, self.length = model, list(ids), len(ids)
        self.calls, self.attention, self.scores = [], [], {}
        hooks = [layer.self_attn.register_forward_hook(self._record, with_kwargs=True)
                 for layer in model.model.layers]
        for layer in model.model.layers:
            layer.self_attn.rotary_emb = model.model.rotary_emb
            layer.self_attn.masked_key_indices = None
        kept = model.config._attn_implementation
        model.config._attn_implementation = "eager" if eager else kept
        cache = DynamicCache()
        try:
            out = model.model(input_ids=torch.tensor([self.ids]), past_key_values=cache)
        finally:
            model.config._attn_implementation = kept
            for hook in hooks:
                hook.remove()
        self.last = out.last_hidden_state[:, -1]
        self.rows = [(layer.keys, layer.values) for layer in cache.layers]

    def _record(self, module, args, kwargs, output):
        self.calls.append((module, args, dict(kwargs), output[0]))
        self.attention.append(output[1])
        return output

    def cache(self):
        cache = DynamicCache()
        for index, (keys, values) in enumerate(self.rows):
            cache.update(keys.clone(), values.clone(), index)
        return cache


def match(before, after, pos):
    """Positions of the rows of `after` [G,m,D], each found bit for bit in `before` [G,n,D] at positions pos[G][n]."""
    found = []
    for head in range(before.shape[0]):
        index = {row.tobytes(): at for row, at in zip(before[head].numpy(), pos[head])}
        assert len(index) == before.shape[1], "two equal keys in one head"
        found.append([index[row.tobytes()] for row in after[head].numpy()])
    return found


class Pressed:
    """A cache after a press: rows [layer][head] as ascending positions, and where the next query stands."""

    def __init__(self, prefill):
        self.prefill, self.cache, self.next = prefill, prefill.cache(), prefill.length
        heads = self.cache.layers[0].keys.shape[1]
        self.pos = [[list(range(prefill.length)) for _ in range(heads)] for _ in prefill.calls]
        self.masked = [None] * len(prefill.calls)

    def layer_update(self, index, keys_before, by_values=False):
        """After a hook: whose rows are these? Then ascending order."""
        layer = self.cache.layers[index]
        if layer.keys.shape[2] == keys_before.shape[2]:
            return
        pos = match(keys_before[0], layer.keys[0], self.pos[index])
        order = torch.tensor([sorted(range(len(p)), key=p.__getitem__) for p in pos])[None, :, :, None]
        layer.keys = layer.keys.gather(2, order.expand_as(layer.keys)).contiguous()
        layer.values = layer.values.gather(2, order.expand_as(layer.values)).contiguous()
        self.pos[index] = [sorted(p) for p in pos]

    def layer_mask(self, index, module):
        if getattr(module, "masked_key_indices", None) is None:
            return
        _, heads, slots = (t.tolist() for t in module.masked_key_indices)
        gone = set(zip(heads, slots))
        self.masked[index] = tuple(t.clone() for t in module.masked_key_indices)
        module.masked_key_indices = None
        self.pos[index] = [[at for slot, at in enumerate(pos) if (head, slot) not in gone]
                           for head, pos in enumerate(self.pos[index])]

    def arm(self):
        """The modules as `generate` wants them."""
        for (module, *_), masked in zip(self.prefill.calls, self.masked):
            module.masked_key_indices = masked


def press_rows(prefill, chain, context, cuts=None):
    """Applies a chain (text) to a recorded prefill."""
    pressed = Pressed(prefill)
    pressed.arm()
    default = torch.get_default_dtype()
    torch.set_default_dtype(prefill.model.dtype)
    try:
        with tie_rule(cuts):
            for step in chain_build(chain, context):
                step(pressed)
    finally:
        torch.set_default_dtype(default)
    return pressed


def edges_of(prefill32, prefill64, chain, context, context64):
    """(pressed, edge): rows by the rule in float32, and per layer and head the rows that may go either way."""
    single, double = Cuts(), Cuts()
    pressed = press_rows(prefill32, chain, context, single)
    others = [press_rows(prefill64, chain, context64, double).pos]
    slack = slacks(single.scores, double.scores)
    for mode in (1.0, 0.33, "swap"):
        others.append(press_rows(prefill32, chain, context, Cuts(slack, mode)).pos)
    edge = []
    for layer, heads in enumerate(pressed.pos):
        edge.append([sorted(set().union(*(set(rows) ^ set(other[layer][head]) for other in others)))
                     for head, rows in enumerate(heads)])
    return pressed, edge


def context_copy(context, **changes):
    context = copy.copy(context)
    for name, value in changes.items():
        setattr(context, name, value)
    return context
