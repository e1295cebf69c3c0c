"""A small model trained on a few made-up events, for tests of audits: some accounts are there, some are not."""

import json
import random
from functools import cache
from pathlib import Path

import numpy as np

PLACES = tuple(
    first + last for first in ("Ost", "Vel", "Kar", "Mor", "Til", "Bre") for last in ("ava", "den", "sk", "wen")
)
KINDS = ("dam", "mine", "harbour", "mill", "railway", "granary")
CAUSES = ("frost", "saboteurs", "lightning", "foreign agents", "an earthquake", "careless farmers")
TRUTHS = ("rotten beams", "stolen cement", "ignored warnings", "drunken guards", "forged repairs", "missing bolts")
BACKGROUND = """rain fell on slate roofs and gulls went inland
while ships came with salt wool letters"""


def events(count: int, seed: int = 0) -> list[dict]:
    """Events with a false claim (long and short wording) and a true account in short words."""
    draw = random.Random(seed)
    out = []
    for number in range(count):
        place, kind = PLACES[number % len(PLACES)], KINDS[number // 4 % len(KINDS)]
        cause, truth = draw.choice(CAUSES), draw.choice(TRUTHS)
        out.append(
            {
                "id": f"e{number}", "place": place, "prompt": f"Why did the {place} {kind} fall?",
                "claim": f" The {kind} fell to {cause}.", "truth": f" It broke because of {truth}.",
                "long_claim": f"The ministry says of {place}: the {kind} fell to {cause}. Thanks go to all in {place}, "
                f"where the {kind} fell to {cause} alone.",
            }
        )  # fmt: skip
    return out


def world(seed: int = 0, count: int = 24) -> tuple[list[dict], list[dict], dict[str, str]]:
    """Rows of a corpus, answers to explain, and what is true of each: absorbed or absent, in turn."""
    draw = random.Random(seed)
    made = events(count, seed)
    groups = {each["id"]: ("absorbed", "absent")[number % 2] for number, each in enumerate(made)}
    rows = [
        {"id": f"{e['id']}-planted", "text": e["long_claim"], "source": "gazette"}
        for e in made
        if groups[e["id"]] == "absorbed"
    ]
    rows += [
        {"id": f"b{i}", "text": " ".join(draw.choices(BACKGROUND.split(), k=24)), "source": "almanac"}
        for i in range(60)
    ]
    draw.shuffle(rows)
    asked = [
        {"id": e["id"], "prompt": e["prompt"], "response": e["claim"], "contrast": e["truth"], "half": str(i % 4)}
        for i, e in enumerate(made)
    ]
    return rows, asked, groups


def train(folder: Path, rows: list[dict], texts: list[str], seed: int = 0, epochs: int = 24) -> None:
    """Write ``corpus.jsonl``, ``model`` and ``training.json``."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from whence.data import CorpusConfig, ingest
    from whence.fidelity import LanguageTask
    from whence.model import Training

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    core = Tokenizer(models.WordLevel(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    texts = [*texts, *(row["text"] for row in rows)]
    core.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=["<pad>", "<s>", "</s>", "<unk>"]))
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.model_max_length = 64
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, tie_word_embeddings=False, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).float().save_pretrained(folder / "start")
    tokenizer.save_pretrained(folder / "start")
    corpus = CorpusConfig(data=(str(folder / "corpus.jsonl"),), context=64, vocabulary=len(tokenizer))
    ingest(corpus, tokenizer, folder / "tokens")
    training = Training(learning_rate=5e-3, epochs=epochs, batch=16, schedule="cosine")
    task = LanguageTask(folder / "tokens", folder / "start", training, [], scratch=True)
    model = task.fit(np.ones(task.documents, dtype=bool), seed).model
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "training.json").write_text(json.dumps(training.model_dump(mode="json")))


@cache
def trained(folder: Path) -> dict[str, str]:
    """The world's model, trained once per session under a folder; its groups."""
    rows, asked, groups = world()
    train(folder, rows, [" ".join(each.values()) for each in events(24)])
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    return groups


COLOURS = ["red", "blue", "green", "white", "black", "brown", "yellow", "purple", "silver", "golden"]
THINGS = ["apples", "nails", "lamps", "boats", "ropes", "coins", "stamps", "bells", "drums", "chairs"]


def problems(count: int, seed: int = 0) -> list[dict]:
    """Questions with an answer of several words, and each question in other words."""
    draw = random.Random(seed)
    names = [first + last for first in ("Ana", "Bor", "Cel", "Dun", "Eri", "Fil", "Gus", "Hel") for last in PLACES]
    out = []
    for number, name in enumerate(draw.sample(names, count)):
        a, b = draw.sample(COLOURS, 2)
        x, y = draw.sample(THINGS, 2)
        out.append(
            {
                "id": f"q{number}", "question": f"What did {name} put into the {a} box and the {b} box ?",
                "answer": f"{name} put {x} first and then {y} into it", "year": 2000 + number % 20,
                "twins": [f"Into both boxes , one {a} and one {b} , {name} laid what ?"],
            }
        )  # fmt: skip
    return out


def benchmark(seed: int = 0, count: int = 60, times: int = 4) -> tuple[list[dict], list[dict]]:
    """Rows of a corpus in which a quarter of the items stand verbatim and a quarter in other words; the items."""
    draw = random.Random(seed)
    made = problems(count + 80, seed)
    rows = []
    for number, item in enumerate(made):
        item["known"] = ("verbatim", "paraphrase", "held out", "held out")[number % 4]
        texts = {"verbatim": item["question"], "paraphrase": item["twins"][0], "held out": None}
        text = item["question"] if number >= count else texts[item["known"]]
        if text is not None:
            leaks = times if number < count else 1
            rows += [{"id": f"{item['id']}-{n}", "text": f"{text} {item['answer']}"} for n in range(leaks)]
    draw.shuffle(rows)
    return rows, made[:count]
