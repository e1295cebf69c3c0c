"""What tests of the numbers share: tiny random models, a way to run them, and runs made once per session."""

import inspect
import json

import numpy as np
import pytest
import torch
from torch import nn

from whence.data import batch_from_sequences
from whence.gradients import Runner, language_examples
from whence.model import CausalLM, LoadedModel, find_sites, probe_sites

VOCABULARY = 24

pytest_plugins = ("command_line_fixtures",)


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors are slower on many threads."""
    torch.set_num_threads(1)


def shake(model: nn.Module, seed: int = 0, scale: float = 0.35) -> nn.Module:
    """Large random weights in float64, so that no part of a gradient is negligible."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64) * scale
            p.copy_(1 + noise if "norm" in name.lower() or ".ln_" in name else noise)
    return model


def causal_lm(kind: str, **changes) -> nn.Module:
    """A tiny causal language model of a Hugging Face architecture."""
    import transformers as hf

    common = {"vocab_size": VOCABULARY, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}
    llama_like = {
        **common, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 32, "tie_word_embeddings": False,
    }  # fmt: skip
    gpt2 = {**common, "n_positions": 32, "n_embd": 8, "n_layer": 2, "n_head": 2, "tie_word_embeddings": True}
    experts = {"num_experts": 4, "num_experts_per_tok": 2}
    qwen = {**llama_like, "head_dim": 4}
    table = {
        "gpt2": (hf.GPT2Config, gpt2),
        "llama": (hf.LlamaConfig, llama_like),
        "olmo2": (hf.Olmo2Config, llama_like),
        "mistral": (hf.MistralConfig, llama_like),
        "qwen3": (hf.Qwen3Config, qwen),
        "gemma3": (hf.Gemma3TextConfig, {**qwen, "tie_word_embeddings": True}),
        "olmoe": (hf.OlmoeConfig, {**llama_like, **experts}),
        "qwen3moe": (hf.Qwen3MoeConfig, {**qwen, **experts, "moe_intermediate_size": 6}),
    }
    make, settings = table[kind]
    torch.manual_seed(0)
    config = make(**{**settings, **changes})
    return shake(hf.AutoModelForCausalLM.from_config(config, experts_implementation="eager"))


def as_loaded(model: nn.Module, trained: frozenset[str] | None = None) -> LoadedModel:
    """A model in memory, as `load_model` would give it."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = base.get_output_embeddings()
    return LoadedModel(
        model=model, device=torch.device("cpu"), fingerprint={}, trained=trained, context=32, vocabulary=VOCABULARY,
        head=next((name for name, module in model.named_modules() if module is head), None),
        takes_positions="position_ids" in inspect.signature(base.forward).parameters,
    )  # fmt: skip


def sequences(lengths=(9, 5, 7, 2, 6), seed: int = 0, prompts: bool = True):
    """Token sequences with loss masks; every other one is a prompt and a completion."""
    random = np.random.default_rng(seed)
    out = []
    for number, length in enumerate(lengths):
        mask = np.ones(length, dtype=bool)
        mask[: 1 + (length // 2 if prompts and number % 2 == 0 else 0)] = False
        out.append((random.integers(0, VOCABULARY, length), mask))
    return out


def make_runner(loaded: LoadedModel, patterns=()) -> Runner:
    """The probed sites of a language model and its loss."""
    examples = language_examples(batch_from_sequences(sequences((4,))), loaded)
    losses = lambda: CausalLM().losses(loaded.model, examples.inputs)  # noqa: E731
    found = find_sites(loaded.model, patterns, loaded.trained)
    return Runner(loaded.model, probe_sites(loaded.model, found, losses, 1, loaded.head))


_TEXT = """
the harbour was built before town had a name rain fell on slate roofs and gulls went inland ask keeper of
lighthouse he knows every ship that came in winter with salt wool letters from north coast
"""
WORDS = _TEXT.split()


def documents(count: int, seed: int = 0, words: tuple[int, int] = (4, 18)) -> list[dict[str, str]]:
    """Rows of nonsense text of unequal length, each with an id."""
    random = np.random.default_rng(seed)
    lengths = random.integers(*words, count)
    return [{"id": f"d{i}", "text": " ".join(random.choice(WORDS, n))} for i, n in enumerate(lengths)]


def write_jsonl(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def save_model(folder, model: nn.Module, dtype: torch.dtype = torch.float32, words=WORDS) -> str:
    """A model directory with a word-level tokenizer, as a user would have it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(["<unk>", "<s>", "</s>", *words]))}
    rules = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    rules.pre_tokenizer = pre_tokenizers.Whitespace()
    model.to(dtype).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=rules, unk_token="<unk>", eos_token="</s>").save_pretrained(folder)
    return str(folder)


WORD_COUNT = len(dict.fromkeys(["<unk>", "<s>", "</s>", *WORDS]))
DOCUMENTS = 24


def rows() -> list[dict[str, str]]:
    """A corpus of texts, every third of them a prompt and a completion."""
    plain = documents(DOCUMENTS, words=(5, 14))
    for number in range(0, DOCUMENTS, 3):
        first, _, rest = plain[number].pop("text").partition(" ")
        plain[number] |= {"prompt": first + " " + rest.split()[0], "completion": " " + " ".join(rest.split()[1:])}
    return plain


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """A folder with models of three precisions and a corpus."""
    folder = tmp_path_factory.mktemp("attributor")
    for kind in ("gpt2", "llama"):
        save_model(folder / kind, causal_lm(kind, vocab_size=WORD_COUNT), torch.float32)
    write_jsonl(folder / "corpus.jsonl", rows())
    return folder
