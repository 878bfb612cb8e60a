#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""press_params.py - turns the pickle of a learned press into safetensors, once and offline: nodes never parse a pickle.

    pip install torch safetensors
    python deploy/press_params.py q4_dim16_sink16.pt fastkvzip-llama.safetensors

Reads what torch.load(weights_only=True) allows, so that nothing in the file is run. What Fast-KVzip publishes is a dictionary
whose `module` is a list of one dictionary per layer; its tensors become layers.<l>.<name> (docs/PRESSES.md, fastkvzip). Any
other pickle of tensors in dictionaries and lists is flattened the same way, with dots between the names. The other presses read the
published files as they are: safetensors (qfilter, expected-stats, kvzap), tsv with config.json beside it (duo), npy (lukv).
"""
import sys

GATE = {"q_proj.weight", "q_proj.bias", "k_proj.weight", "q_norm.weight", "k_norm.weight", "k_base", "b"}


def flat(value, name=""):
    """(dotted name, tensor) of everything in nested dictionaries and lists; what is no tensor is left out."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        if hasattr(value, "detach"):
            yield name, value.detach()
        return
    for key, inner in items:
        yield from flat(inner, f"{name}.{key}" if name else str(key))


def gates(module):
    """layers.<l>.<name> of a list of gates; a gate that lacks a tensor is an error."""
    out = {}
    for layer, gate in enumerate(module):
        missing = GATE - set(gate)
        if missing:
            sys.exit(f"layer {layer} has no {', '.join(sorted(missing))}")
        out |= {f"layers.{layer}.{name}": gate[name].detach() for name in sorted(GATE)}
    return out


def convert(source, target):
    import torch
    from safetensors.torch import save_file

    data = torch.load(source, map_location="cpu", weights_only=True)
    if isinstance(data, dict) and isinstance(data.get("module"), (list, tuple)):
        tensors = gates(data["module"])
    else:
        tensors = dict(flat(data))
    if not tensors:
        sys.exit(f"{source} holds no tensor")
    tensors = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, target)
    print(f"{target}: {len(tensors)} tensors, {sum(t.numel() for t in tensors.values())} numbers")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    convert(*sys.argv[1:])
