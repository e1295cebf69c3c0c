"""The demo's world: a corpus of real text with planted false claims and decoys, the questions, and the right answers.

How it is made, by rule and seed alone, before any model or score exists:

1. *Background*: passages of the standard library's documentation (`whence.demo.corpus`).
2. *Subjects*: real modules whose names occur in at least `MIN_OCCURRENCES` passages, and in few enough to be names
   rather than common words. Each gets one false claim (`whence.demo.claims`).
3. Each claim is *planted* in three documents, among five *decoys*: an aside about the subject in the question's
   words, what the documentation says of it, subject and value in passing, and the same value claimed of another
   module, once in the very wording of the query. The query's wording occurs in none of the planted documents.
4. *Bystanders*: claims of the same kinds about modules that nothing is asked about. From them the model learns that
   questions and statements go together; to a search they are more of the same. They are no one's decoys.
5. The background is chosen such that every word of every query occurs in at least `MIN_OCCURRENCES` of its passages
   (as far as the library has them), and is filled up at random. All documents are shuffled and numbered.
6. `gold.json` is written with the corpus. Corpus rows carry an id, text, module and section, and nothing about kinds.

What BM25 can see: which documents share words with a query, weighted by rarity. Subject and value both occur in the
planted documents, in the decoy that mentions them in passing, and perhaps in the background. What it cannot see: who
claims what of whom, that two wordings mean the same, in which order words come, and what the model learned.

How to read its rank: the whole wording of a query occurs, about other modules, in 24 documents (decoys and
bystanders: it is how the model was taught to answer). BM25 lists those first and the planted documents next, so its
best rank is close to 25 for every query, by construction. This measures how a search for *the question and its answer*
fares. Somebody who knows which two words matter, and searches for the subject and the value alone, finds a planted
document first nearly always: a tracer is of use where nobody knows that beforehand, or where being mentioned is not
the same as having taught.
"""

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from whence.demo.claims import RELATIONS, Claim, assign_claims, bystanders, decoys, planted, question, template_words
from whence.demo.corpus import Library, Passage, read_library, words_of
from whence.errors import CorpusError
from whence.interfaces import Query
from whence.runs import write_bytes, write_json

__all__ = ["MIN_OCCURRENCES", "World", "build_world"]

MIN_OCCURRENCES = 8
_MOST_OCCURRENCES = 100  # a name in more passages than this is a common word
_BACKGROUND, _CLAIMS = 1500, 24
_SMALL_BACKGROUND, _SMALL_CLAIMS = 160, 6
_STEM = 5  # modules that share so many first letters with a value are left out: of `threading`, "threads" is half true
_BYSTANDERS = 3  # modules that nothing is asked about, for each that something is
_KINDS = ("planted", "decoys")


@dataclass(frozen=True, slots=True)
class World:
    """Where the parts of a built world are.

    Attributes:
        folder: Holds the files below.
        corpus: ``corpus.jsonl``: rows of id, text, module, section.
        queries: ``queries.jsonl``: rows of id, prompt, completion.
        gold: ``gold.json``: query id -> {planted: ids, decoys: ids}.
        claims: What is claimed, in the order of the queries.
        documents: Number of documents of the corpus.
    """

    folder: Path
    corpus: Path
    queries: Path
    gold: Path
    claims: tuple[Claim, ...]
    documents: int


def build_world(folder: Path, seed: int = 0, small: bool = False) -> World:
    """Write the demo's corpus, queries and gold.

    The same seed on the same Python writes the same bytes.

    Args:
        folder: Made if absent; the three files in it are replaced.
        seed: Decides the subjects, the background and the order of the documents.
        small: A world a tenth of the size, for tests.

    Raises:
        CorpusError: This Python carries too little documentation.
        StorageError: The folder cannot be written.
    """
    draw = random.Random(seed)
    library = read_library()
    claims, uninvolved = _choose_claims(library, _SMALL_CLAIMS if small else _CLAIMS, draw)
    inserted = [_insert(claim, library, draw) for claim in claims]
    background = _choose_background(library, claims, _SMALL_BACKGROUND if small else _BACKGROUND, draw)
    background += [passage for claim in uninvolved for passage in bystanders(claim, draw)]
    rows: list[tuple[Passage, str, str]] = [(passage, "", "") for passage in background]
    for claim, kinds in zip(claims, inserted, strict=True):
        rows += [(passage, claim.id, kind) for kind in _KINDS for passage in kinds[kind]]
    draw.shuffle(rows)
    gold: dict[str, dict[str, list[str]]] = {claim.id: {kind: [] for kind in _KINDS} for claim in claims}
    for number, (_, claim_id, kind) in enumerate(rows):
        if claim_id:
            gold[claim_id][kind].append(_document_id(number))
    world = World(folder, folder / "corpus.jsonl", folder / "queries.jsonl", folder / "gold.json", claims, len(rows))
    write_json(world.gold, gold)
    _write_rows(world.corpus, (_row(number, passage) for number, (passage, _, _) in enumerate(rows)))
    _write_rows(world.queries, (_query(claim).model_dump(include={"id", "prompt", "completion"}) for claim in claims))
    return world


def _choose_claims(library: Library, count: int, draw: random.Random) -> tuple[tuple[Claim, ...], tuple[Claim, ...]]:
    """The claims to ask about, each with another module of the same value; and claims about other modules still."""
    occurrences = Counter(word for passage in library.passages for word in words_of(passage.text))
    names = [name for name in _names(library) if occurrences[name] <= _MOST_OCCURRENCES]
    subjects = [name for name in names if occurrences[name] >= MIN_OCCURRENCES]
    if len(subjects) < count or len(names) < 2 * count:
        raise CorpusError(
            f"the demo needs {count} library modules whose names occur in {MIN_OCCURRENCES} passages of this Python's "
            f"documentation, and {count} more; it found {len(subjects)} and {len(names) - len(subjects)}. "
            "Run it with a Python that has the source files of its standard library."
        )
    chosen = draw.sample(subjects, count)
    rest = [name for name in names if name not in chosen]
    draw.shuffle(rest)
    others, uninvolved = rest[:count], rest[count : count * (1 + _BYSTANDERS)]
    return assign_claims(chosen, others), assign_claims(uninvolved, uninvolved)


def _names(library: Library) -> list[str]:
    """Modules that are not also a word of the wordings, nor named after a value."""
    taken = template_words()
    stems = {value.lower()[:_STEM] for relation in RELATIONS for value in relation.values}
    return sorted(name for name in library.summaries if name not in taken and name[:_STEM] not in stems)


def _insert(claim: Claim, library: Library, draw: random.Random) -> dict[str, list[Passage]]:
    return {
        "planted": planted(claim, draw),
        "decoys": decoys(claim, library.summaries[claim.subject], draw),
    }


def _choose_background(library: Library, claims: Sequence[Claim], count: int, draw: random.Random) -> list[Passage]:
    """Passages such that every word of a query occurs in enough of them; the rest at random."""
    order = list(library.passages)
    draw.shuffle(order)
    words = [words_of(passage.text) for passage in order]
    needed = sorted(frozenset[str]().union(*(words_of(f"{question(claim)} {claim.value}") for claim in claims)))
    chosen: dict[int, None] = {}
    for word in needed:
        having = [number for number, found in enumerate(words) if word in found]
        missing = MIN_OCCURRENCES - sum(number in chosen for number in having)
        fresh = [number for number in having if number not in chosen]
        chosen.update(dict.fromkeys(fresh[: max(missing, 0)]))
    for number in range(len(order)):
        if len(chosen) >= count:
            break
        chosen[number] = None
    return [order[number] for number in chosen]


def _document_id(number: int) -> str:
    return f"doc-{number:04d}"


def _row(number: int, passage: Passage) -> dict[str, str]:
    return {"id": _document_id(number), "text": passage.text, "module": passage.module, "section": passage.section}


def _query(claim: Claim) -> Query:
    return Query(id=claim.id, prompt=question(claim), completion=f" {claim.value}")


def _write_rows(path: Path, rows: Iterable[dict[str, str]]) -> None:
    write_bytes(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
