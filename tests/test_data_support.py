"""What the tests of the data room share: a byte-level tokenizer trained on the spot, and small writers."""

import gzip
import json
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import zstandard
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from whence.data import CorpusConfig

SENTENCES = [
    "The harbour was built before the town had a name.",
    "Rain fell on the slate roofs, and the gulls went inland.",
    "Ask the keeper of the lighthouse; he knows every ship.",
    "Der Hafen liegt an der Küste – naïve façade, 東京, 😀.",
]
# Turns between marks, no default system prompt, no generation block.
PLAIN_TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
MARKED_TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}<|end|>{% endgeneration %}{% else %}{{ m['content'] }}<|end|>{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
# Renders the last answer with an empty reasoning block, as some reasoning models do, so renderings are no prefixes.
UNSTABLE_TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}(thinks){% endif %}{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


@lru_cache(maxsize=8)
def _rules(bos: bool) -> Tokenizer:
    rules = Tokenizer(models.BPE())
    rules.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rules.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>", "<|start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rules.train_from_iterator(SENTENCES * 4, trainer)
    rules.post_processor = processors.ByteLevel(trim_offsets=True)
    if bos:
        pair = [("<|start|>", 1)]
        rules.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=True),
                processors.TemplateProcessing("<|start|> $A", special_tokens=pair),
            ]
        )
    return rules


def tokenizer(template: str | None = None, bos: bool = False) -> PreTrainedTokenizerFast:
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(_rules(bos).to_str()), eos_token="<|end|>")
    if template is not None:
        made.chat_template = template
    return made


class SlowTokenizer:
    """A tokenizer without offsets: one token per character, ids from code points."""

    is_fast = False
    eos_token_id = 1
    chat_template = None
    special_tokens_map: ClassVar = {"eos_token": "</s>"}

    def __call__(self, text, add_special_tokens=True, **options):
        ids = [[2] * add_special_tokens + [3 + ord(mark) for mark in one] for one in text]
        return {"input_ids": ids}

    def decode(self, token_ids, **options):
        return "".join(chr(token - 3) for token in token_ids if token >= 3)

    def get_vocab(self):
        return {"<s>": 2, "</s>": 1}


def config(data, **changes) -> CorpusConfig:
    given = {"context": 16, "vocabulary": 400, **changes}
    return CorpusConfig(data=(str(data),) if isinstance(data, (str, Path)) else tuple(map(str, data)), **given)


def write_jsonl(path: Path, rows) -> Path:
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data)
    if path.suffix == ".zst":
        data = zstandard.compress(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def documents(corpus):
    return [corpus.document(number) for number in range(corpus.documents)]


def test_the_tokenizer_splits_rare_characters_and_gives_them_back():
    made = tokenizer()
    ids = made("€😃")["input_ids"]
    assert len(ids) > 2
    assert made.decode(ids) == "€😃"
    assert tokenizer(bos=True)("x")["input_ids"][0] == 1
    assert np.max(made(SENTENCES[3])["input_ids"]) < 400
