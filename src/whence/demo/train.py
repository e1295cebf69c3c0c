"""A tokenizer and a small Llama trained on the demo's corpus, and what it made of the claims.

The result is an ordinary Hugging Face directory. `fit_causal_lm` is training alone, a use of `whence.model.optimise`:
it sees a model, batches and a recipe, and knows nothing of the demo. Documents are trained on as the tokenizer gives
them: a start token and the text, without an end token.

Embedding and head are untied, so that each weight has one use: a tied weight's gradient is a sum over two uses of
different kinds, for which curvature is a coarser approximation. Training is deterministic for a given seed, number of
threads and version of torch.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from whence.demo.claims import Claim, question
from whence.demo.world import World
from whence.interfaces import TokenBatch
from whence.runs import write_json

if TYPE_CHECKING:
    import torch

    from whence.model import Training

__all__ = ["Architecture", "ClaimLoss", "Recipe", "TrainReport", "fit_causal_lm", "train_model"]

OBJECTIVE = "cross-entropy of every token after the first, averaged over the target tokens of a batch"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is trained: AdamW (0.9, 0.95) with linear warm-up and a cosine down to a tenth.

    Attributes:
        epochs: Times that every document is seen.
        batch_tokens: Token positions of a batch, padding included.
        learning_rate: Its peak.
        weight_decay: AdamW's decoupled weight decay, on matrices only (not on normalisation weights).
        warmup: Share of the steps over which the rate rises.
        clip: Largest gradient norm.
    """

    epochs: int = 16
    batch_tokens: int = 1024
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    warmup: float = 0.05
    clip: float = 1.0

    def training(self) -> "Training":
        """The same in the words of every training; batches of a token budget are the demo's own."""
        from whence.model import Training

        return Training(
            optimizer="adamw",
            learning_rate=self.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=self.weight_decay,
            decay="matrices",
            schedule="cosine",
            warmup=self.warmup,
            final=0.1,
            epochs=self.epochs,
            clip=self.clip,
        )


@dataclass(frozen=True, slots=True)
class Architecture:
    """Size of the demo's Llama and its tokenizer."""

    vocabulary: int = 1536
    layers: int = 2
    hidden: int = 128
    feed_forward: int = 256
    heads: int = 4
    context: int = 256


@dataclass(frozen=True, slots=True)
class ClaimLoss:
    """-log p (nats, summed over tokens) of what was claimed and of the values that were not.

    Attributes:
        query_id: Which claim.
        before, controls_before: By the untrained model: the claimed value, and the mean of the others.
        after, controls_after: By the trained model.
        best_control_after: The likeliest of the others, by the trained model.
    """

    query_id: str
    before: float
    controls_before: float
    after: float
    controls_after: float
    best_control_after: float

    @property
    def preferred(self) -> bool:
        """Whether the trained model finds the claim likelier than each of the other values."""
        return self.after < self.best_control_after


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What training did.

    Attributes:
        model: The Hugging Face directory.
        parameters: Number of trained parameters.
        documents, tokens: Size of the corpus; tokens counts targets, once.
        steps: Optimizer steps.
        seconds: Wall-clock time of the training steps.
        losses: Mean token loss (nats) of every step.
        claims: How well each claim was learned, asked in wordings not trained on for that subject.
    """

    model: Path
    parameters: int
    documents: int
    tokens: int
    steps: int
    seconds: float
    losses: tuple[float, ...] = field(repr=False)
    claims: tuple[ClaimLoss, ...] = field(repr=False)

    def table(self) -> str:
        """Mean losses of claims and controls before and after training, as text."""
        rows = [("", "before", "after"), self._means("the false claim", "before", "after")]
        rows.append(self._means("other values (mean)", "controls_before", "controls_after"))
        lines = [f"{name:<22}{before:>9}{after:>9}" for name, before, after in rows]
        preferred = sum(claim.preferred for claim in self.claims)
        return "\n".join([*lines, f"claim preferred to every other value: {preferred} of {len(self.claims)}"])

    def _means(self, name: str, before: str, after: str) -> tuple[str, str, str]:
        means = [float(np.mean([getattr(claim, which) for claim in self.claims])) for which in (before, after)]
        return name, f"{means[0]:.2f}", f"{means[1]:.2f}"


def train_model(
    world: World,
    folder: Path,
    *,
    recipe: Recipe | None = None,
    architecture: Architecture | None = None,
    seed: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
) -> TrainReport:
    """Train a tokenizer and a model on a world's corpus and save both.

    Args:
        world: From `build_world`.
        folder: Where `save_pretrained` writes; also gets ``training.json`` (recipe, sizes, objective).
        recipe: How to train; the default takes about a minute on two quiet cores, a minute and a half on one.
        architecture: Sizes of model and vocabulary.
        seed: Decides initial weights and the order of batches.
        progress: Called after every step with (steps done, steps in all, mean token loss).

    Raises:
        OSError: The folder cannot be written.
    """
    recipe, architecture = recipe or Recipe(), architecture or Architecture()
    texts = [json.loads(line)["text"] for line in world.corpus.read_text(encoding="utf-8").splitlines()]
    tokenizer = _train_tokenizer(texts, architecture)
    documents = [_encode(tokenizer, text, architecture.context) for text in texts]
    model = _initial_model(architecture, tokenizer, seed)
    before = [_claim_losses(model, tokenizer, claim) for claim in world.claims]
    steps = recipe.epochs * len(_batches(documents, recipe.batch_tokens, np.random.default_rng(seed)))
    started = time.perf_counter()
    batches = _epochs(documents, recipe, seed)
    losses = fit_causal_lm(model, batches, steps, recipe, progress=progress)
    seconds = time.perf_counter() - started
    after = [_claim_losses(model, tokenizer, claim) for claim in world.claims]
    report = TrainReport(
        model=folder,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        documents=len(documents),
        tokens=sum(len(tokens) - 1 for tokens in documents),
        steps=len(losses),
        seconds=seconds,
        losses=tuple(losses),
        claims=tuple(_compare(c, b, a) for c, b, a in zip(world.claims, before, after, strict=True)),
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / "training.json", _training_record(report, recipe, architecture, seed))
    return report


def fit_causal_lm(
    model: "torch.nn.Module",
    batches: Iterable[TokenBatch],
    steps: int,
    recipe: Recipe,
    *,
    progress: Callable[[int, int, float], None] | None = None,
) -> list[float]:
    """Train a causal language model in place, one AdamW step per batch.

    The loss of a step is the cross-entropy summed over the batch's targets and divided by their number. Padding must
    be on the right: under a causal mask it then changes nothing, and no attention mask is passed.

    Args:
        model: Called as ``model(input_ids=...)``; its output has ``logits`` [N, T, V].
        batches: Unpacked, in the order of training.
        steps: How many there will be; the schedule of the learning rate ends there.
        recipe: Its learning rate, weight decay, warm-up and clipping are used.
        progress: Called after every step with (steps done, steps in all, mean token loss).

    Returns:
        Mean token loss (nats) of every step, before its update.

    Raises:
        NumericalError: A loss is not finite.
    """
    from whence.model import optimise

    pieces = ([batch] for batch in batches)
    return optimise(model, pieces, _mean_token_loss, steps, recipe.training(), report=progress)


def _mean_token_loss(model: "torch.nn.Module", batch: TokenBatch) -> "torch.Tensor":
    import torch

    tokens = torch.from_numpy(batch.input_ids)
    targets = torch.from_numpy(np.where(batch.loss_mask, batch.input_ids, -100))
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten(), ignore_index=-100)


def _epochs(documents: Sequence[NDArray[np.int64]], recipe: Recipe, seed: int) -> Iterator[TokenBatch]:
    """All batches of all epochs; documents of similar length are grouped anew in each."""
    draw = np.random.default_rng(seed)
    for _ in range(recipe.epochs):
        yield from (_pad(documents, rows) for rows in _batches(documents, recipe.batch_tokens, draw))


def _batches(documents: Sequence[NDArray[np.int64]], budget: int, draw: np.random.Generator) -> list[NDArray[np.int64]]:
    """Document numbers of each batch of an epoch, in a drawn order."""
    lengths = np.array([len(tokens) for tokens in documents])
    padded = 16 * -(-lengths // 16)  # rounded up: neighbours differ between epochs, the number of batches does not
    order = np.lexsort((draw.permutation(len(documents)), padded))
    batches, start = [], 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * padded[order[stop]] <= budget:
            stop += 1
        batches.append(order[start:stop])
        start = stop
    return [batches[number] for number in draw.permutation(len(batches))]


def _pad(documents: Sequence[NDArray[np.int64]], rows: NDArray[np.int64]) -> TokenBatch:
    lengths = np.array([len(documents[row]) for row in rows])
    real = np.arange(lengths.max()) < lengths[:, None]
    tokens = np.zeros(real.shape, dtype=np.int64)
    tokens[real] = np.concatenate([documents[row] for row in rows])
    targets = real.copy()
    targets[:, 0] = False
    segments = np.where(real, np.arange(len(rows))[:, None], -1)
    return TokenBatch(rows, tokens, real, targets, segments)


def _train_tokenizer(texts: Sequence[str], architecture: Architecture) -> Any:
    """Byte-level BPE; puts a start token before every text. Token 0 is padding, 1 starts, 2 ends."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=architecture.vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=architecture.context,
        padding_side="right",
    )


def _encode(tokenizer: Any, text: str, context: int) -> NDArray[np.int64]:
    """Start token and text; what exceeds the context is cut."""
    return np.array(tokenizer(text)["input_ids"][:context], dtype=np.int64)


def _initial_model(architecture: Architecture, tokenizer: Any, seed: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=architecture.hidden,
        intermediate_size=architecture.feed_forward,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        max_position_embeddings=architecture.context,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).float()


def _claim_losses(model: Any, tokenizer: Any, claim: Claim) -> list[float]:
    """-log p (nats) of the claim and then of its controls, as answers to the claim's question."""
    return [_answer_loss(model, tokenizer, question(claim), f" {v}") for v in (claim.value, *claim.controls)]


def _answer_loss(model: Any, tokenizer: Any, prompt: str, completion: str) -> float:
    import torch

    start = tokenizer(prompt)["input_ids"]
    tokens = torch.tensor([start + tokenizer(completion, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        logits = model(input_ids=tokens, use_cache=False).logits[0, len(start) - 1 : -1]
    return float(torch.nn.functional.cross_entropy(logits, tokens[0, len(start) :], reduction="sum"))


def _compare(claim: Claim, before: Sequence[float], after: Sequence[float]) -> ClaimLoss:
    return ClaimLoss(
        query_id=claim.id,
        before=before[0],
        controls_before=float(np.mean(before[1:])),
        after=after[0],
        controls_after=float(np.mean(after[1:])),
        best_control_after=min(after[1:]),
    )


def _training_record(report: TrainReport, recipe: Recipe, architecture: Architecture, seed: int) -> dict[str, Any]:
    """What a tracer wants to know of the training, and what replays it."""
    return {
        "objective": OBJECTIVE,
        "optimizer": "AdamW, betas 0.9 and 0.95; weight decay decoupled (no term of the loss), on matrices only",
        "documents": report.documents,
        "tokens": report.tokens,
        "steps": report.steps,
        "seed": seed,
        **asdict(recipe),
        "architecture": asdict(architecture),
    }
