"""What the model answers, greedily or by sampling; one prompt at a time, so that no other prompt has a say."""

from typing import Any

import torch

from whence.attributor import Attributor
from whence.errors import QueryError

__all__ = ["generate"]


def generate(owner: Attributor, prompt: str, tokens: int, temperature: float = 0.0, seed: int = 0) -> str:
    """The model's answer to a prompt.

    Args:
        owner: The run.
        prompt: As the model is asked, without a chat template.
        tokens: Most new tokens.
        temperature: 0 takes the likeliest token each time.
        seed: Of sampling.

    Raises:
        QueryError: The prompt leaves no room in the model's context, or the answer is empty.
    """
    tokenizer: Any = owner.tokenizer
    ids = tokenizer(prompt)["input_ids"]
    room = owner.loaded.context - len(ids)
    if room < 1:
        raise QueryError(f"the prompt {prompt[:80]!r} fills the context of {owner.loaded.context} tokens; shorten it.")
    device = owner.loaded.device
    given = torch.tensor([ids], device=device)
    devices = [device] if device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        model: Any = owner.loaded.model
        for _ in range(min(tokens, room)):
            logits = model(input_ids=given, use_cache=False).logits[0, -1].float()
            if temperature > 0:
                chosen = torch.multinomial((logits / temperature).softmax(-1), 1)
            else:
                chosen = logits.argmax(-1, keepdim=True)
            if int(chosen) == tokenizer.eos_token_id:
                break
            given = torch.cat([given, chosen[None]], 1)
    text = str(tokenizer.decode(given[0, len(ids) :].tolist(), skip_special_tokens=True))
    if not text.strip():
        raise QueryError(f"the model answers {prompt[:80]!r} with nothing; leave that prompt out, or give a response.")
    return text
