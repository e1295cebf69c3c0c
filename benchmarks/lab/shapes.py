"""Tokenizers and untrained models of the lab's set-ups: two layers each, one per architecture, and a larger Llama.

Knows nothing of corpora, training and methods.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

__all__ = ["ARCHITECTURES", "make_model", "train_tokenizer"]

END = "<|end|>"


def train_tokenizer(texts: Iterable[str], vocabulary: int, digits: bool = False) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE of exactly `vocabulary` entries, the end token (number 0) included.

    It adds no special token to a text.

    Args:
        texts: What it is trained on.
        vocabulary: Entries.
        digits: Each digit is a token of its own.

    Raises:
        SystemExit: The texts are too short for so many entries.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), level]) if digits else level
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END, pad_token=END)
    if len(tokenizer) != vocabulary:
        raise SystemExit(f"The texts give a tokenizer of {len(tokenizer)} entries; {vocabulary} were asked for.")
    return tokenizer


def _llama(shared: dict[str, Any], vocabulary: int, context: int, width: int = 48, layers: int = 2) -> PreTrainedModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            **shared,
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=width * 8 // 3,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=context,
            tie_word_embeddings=False,
        )
    )


def _large_llama(shared: dict[str, Any], vocabulary: int, context: int) -> PreTrainedModel:
    return _llama(shared, vocabulary, context, width=96, layers=4)


def _gpt2(shared: dict[str, Any], vocabulary: int, context: int) -> PreTrainedModel:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            **shared,
            vocab_size=vocabulary,
            n_embd=64,
            n_layer=2,
            n_head=4,
            n_positions=context,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )


def _olmo2(shared: dict[str, Any], vocabulary: int, context: int) -> PreTrainedModel:
    from transformers import Olmo2Config, Olmo2ForCausalLM

    return Olmo2ForCausalLM(
        Olmo2Config(
            **shared,
            vocab_size=vocabulary,
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=context,
            tie_word_embeddings=False,
        )
    )


def _olmoe(shared: dict[str, Any], vocabulary: int, context: int) -> PreTrainedModel:
    from transformers import OlmoeConfig, OlmoeForCausalLM

    return OlmoeForCausalLM(
        OlmoeConfig(
            **shared,
            vocab_size=vocabulary,
            hidden_size=48,
            intermediate_size=32,
            num_experts=8,
            num_experts_per_tok=2,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=context,
            tie_word_embeddings=False,
        )
    )


ARCHITECTURES = {"llama": _llama, "large-llama": _large_llama, "gpt2": _gpt2, "olmo2": _olmo2, "olmoe": _olmoe}


def make_model(architecture: str, vocabulary: int, context: int, seed: int) -> PreTrainedModel:
    """Returns a model in float32 with random weights drawn from `seed`, in evaluation mode; token 0 ends a text."""
    import torch

    shared = {"bos_token_id": None, "eos_token_id": 0, "dtype": "float32"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ARCHITECTURES[architecture](shared, vocabulary, context).float().eval()
