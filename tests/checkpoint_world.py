"""Checkpoints of a training that never was, for a folder of `method_world`: weights and moments from a seed."""

import torch
from transformers import AutoModelForCausalLM

from whence.attributor import read_checkpoints
from whence.model import StoredState, write_state

RATES = {4: 0.05, 8: 0.11, 12: 0.14}
"""Sum of the rates by step."""


def made_up(model, seed, scale=0.05):
    """Weights moved a little, and moments of all parameters, whatever the model's dtype."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise, mean, square = (torch.randn(p.shape, generator=generator, dtype=torch.float64) for _ in range(3))
            p.add_((noise * scale).to(p.dtype))
            tensors[f"exp_avg:{name}"] = (0.1 * mean).to(p.dtype)
            tensors[f"exp_avg_sq:{name}"] = (0.01 + 0.2 * square.square()).to(p.dtype)
    return tensors


def make_checkpoints(place, states=None, moments=True):
    """Three checkpoints in a folder with ``model/``, whence's own format; read if they are there."""
    folder = place / "checkpoints"
    for number, (step, rate_sum) in enumerate(RATES.items()):
        if (folder / f"checkpoint-{step}").exists():
            continue
        model = AutoModelForCausalLM.from_pretrained(place / "model", dtype="auto")
        tensors = made_up(model, number, 0.03 * (3 - number))
        said = {"step": step, "learning_rate": 0.01, "rate_sum": rate_sum, "betas": (0.9, 0.99), "weight_decay": 0.1}
        state = StoredState(**said | (states or {}))
        write_state(folder / f"checkpoint-{step}", model, state, tensors if moments else {})
    return read_checkpoints([folder / "checkpoint-*"])
