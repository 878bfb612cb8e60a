# SPDX-License-Identifier: Apache-2.0
"""Presses that work while tokens are generated: kvpress' DecodingPress family with the rows' positions kept.

Two hooks of ours stand around the press's own: the first notes the keys, the second finds out whose rows are left and
puts them into ascending order of position (kvpress leaves them in score order, which only scores that look at storage
positions notice: those are not in the goldens).
"""
import contextlib

import kvpress as kv
import torch
from chains import SCORES, parse
from pressing import match, tie_rule


def decode_press(part, context):
    """`decode:every=8,buffer=256 | SCORE | rows=48` or `... | ratio=0.5`"""
    (_, _, options), (score, _, score_options), (keep, value, _) = parse(part)
    base = SCORES[score](score_options, context)
    settings = dict(compression_interval=int(options.get("every", 512)),
                    hidden_states_buffer_size=int(options.get("buffer", 256)))
    if keep == "rows":
        return kv.DecodingPress(base, target_size=int(value), **settings)
    return kv.CompressionRatioDecodingPress(base, target_compression_ratio=float(value), **settings)


def split(chain):
    prefill, _, decode = chain.partition(";")
    return prefill.strip() or "none", decode.strip()


class Follow:
    """Positions of the rows in every layer while a decoding press comes and goes."""

    def __init__(self, pressed):
        self.cache, self.pos, self.next = pressed.cache, pressed.pos, pressed.next
        self.largest = 0

    def before(self, module, args, kwargs, output):
        keys = self.cache.layers[module.layer_idx].keys
        fed = kwargs["hidden_states"].shape[1]
        for rows in self.pos[module.layer_idx]:
            rows.extend(range(self.next, self.next + fed))
        self.keys = keys
        self.largest = max(self.largest, keys.shape[2])
        return output

    def after(self, module, args, kwargs, output):
        index = module.layer_idx
        layer = self.cache.layers[index]
        if layer.keys.shape[2] != self.keys.shape[2]:
            pos = match(self.keys[0], layer.keys[0], self.pos[index])
            order = torch.tensor([sorted(range(len(p)), key=p.__getitem__) for p in pos])[None, :, :, None]
            layer.keys = layer.keys.gather(2, order.expand_as(layer.keys)).contiguous()
            layer.values = layer.values.gather(2, order.expand_as(layer.values)).contiguous()
            self.pos[index] = [sorted(p) for p in pos]
        return output


@contextlib.contextmanager
def following(model, pressed, press):
    """The scope in which tokens are fed: the press between our two hooks."""
    follow = Follow(pressed)
    hooks = [layer.self_attn.register_forward_hook(follow.before, with_kwargs=True) for layer in model.model.layers]
    with tie_rule(), press(model):
        hooks += [layer.self_attn.register_forward_hook(follow.after, with_kwargs=True) for layer in model.model.layers]
        try:
            yield follow
        finally:
            for hook in hooks:
                hook.remove()


def feed(model, follow, ids):
    """One forward pass over ids at the next positions; the logits of the last."""
    positions = torch.arange(follow.next, follow.next + len(ids)).unsqueeze(0)
    logits = model(input_ids=torch.tensor([ids]), past_key_values=follow.cache, position_ids=positions,
                   logits_to_keep=1).logits[0, -1]
    follow.next += len(ids)
    return logits
