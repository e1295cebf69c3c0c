"""What datatrove's own filters refuse: one issue for each refusal, with the filter's reason.

    gopher-quality      GopherQualityFilter     words, symbols, bullets, stop words (Rae et al. 2021, Gopher, table A1)
    gopher-repetition   GopherRepetitionFilter  repeated lines, paragraphs and runs of words (the same)
    c4-quality          C4QualityFilter         sentences, placeholder text, code (Raffel et al. 2020, C4)
    fineweb-quality     FineWebQualityFilter    ends of lines, short and repeated lines (Penedo et al. 2024, FineWeb)

A document is judged by `filter` of a filter as datatrove makes it, with its own thresholds, on the whole text (fields
joined by a line break). Words and sentences are those of spaCy's rules for the language, which need no model and no
network. Filters are not copied here and not tuned.

What it ignores: the thresholds were made for pages of the web, and refuse most short texts: questions, chats and
captions have fewer than 50 words and 5 sentences. C4's filter also takes single lines out of documents that it keeps;
that is not reported. Needs the extra ``whence[datatrove]``; knows no corpus.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any

from whence.audits.corpus_rows import RawDocument
from whence.errors import InputError
from whence.interfaces.quality import Issue

__all__ = ["FILTERS", "Filters", "filters_named", "open_filters"]

FILTERS: Mapping[str, str] = {
    "gopher-quality": "GopherQualityFilter",
    "gopher-repetition": "GopherRepetitionFilter",
    "c4-quality": "C4QualityFilter",
    "fineweb-quality": "FineWebQualityFilter",
}
"""Our names of datatrove's classes, in the order in which they judge."""

_SURE = 0.7  # of a refusal: enough to act on, less than of a rule that points at the characters
_SHOWN = 80
_WORDS: Mapping[str, str] = {
    "empty": "there is no text",
    "gopher_short_doc": "it has too few words",
    "gopher_long_doc": "it has too many words",
    "gopher_below_avg_threshold": "its words are too short on average",
    "gopher_above_avg_threshold": "its words are too long on average",
    "gopher_too_many_hashes": "too many # for its words",
    "gopher_too_many_ellipsis": "too many ellipses for its words",
    "gopher_too_many_bullets": "too many lines are bullet points",
    "gopher_too_many_end_ellipsis": "too many lines end in an ellipsis",
    "gopher_below_alpha_threshold": "too many words have no letter",
    "gopher_enough_stop_words": "too few of the commonest words are in it",
    "dup_para_frac": "too many paragraphs are repeats",
    "dup_para_char_frac": "repeated paragraphs are too much of it",
    "dup_line_frac": "too many lines are repeats",
    "dup_line_char_frac": "repeated lines are too much of it",
    "too_few_sentences": "too few sentences are left of it",
    "lorem_ipsum": "it holds placeholder text",
    "curly_bracket": "it holds a curly bracket, like code",
    "line_punct_ratio": "too few lines end in punctuation",
    "short_line_ratio": "too many lines are short",
    "char_dup_ratio": "repeated lines are too much of it",
    "list_ratio": "too many line breaks for its words",
}
_RUN = re.compile(r"(?P<top>top)_(?P<n>\d+)_gram|duplicated_(?P<m>\d+)_n_grams")


def filters_named(said: str) -> tuple[str, ...]:
    """Names out of a list with commas, each once, in the order of `FILTERS`.

    Raises:
        InputError: There is no such filter, or none is named.

    >>> filters_named("c4-quality, gopher-quality,c4-quality")
    ('gopher-quality', 'c4-quality')
    """
    names = [name.strip().lower() for name in said.split(",") if name.strip()]
    unknown = [name for name in names if name not in FILTERS]
    if unknown or not names:
        wrong = f"there is no filter {unknown[0]!r}" if unknown else "no filter is named"
        raise InputError(f"--filters: {wrong}; give some of {', '.join(FILTERS)}, with commas between them.")
    return tuple(name for name in FILTERS if name in names)


@dataclass(frozen=True)
class Filters:
    """datatrove's filters, ready to judge.

    Attributes:
        made: Name -> filter.
        document: datatrove's class of documents.
        split: Text to words, as the filters split it.
        version: Of datatrove.
    """

    made: Mapping[str, Any]
    document: Callable[..., Any]
    split: Callable[[str], list[str]]
    version: str

    def verdict(self, name: str, text: str) -> tuple[bool, str]:
        """Whether a filter keeps a text, and its reason if not (empty where it gives none)."""
        said = self.made[name].filter(self.document(text=text, id="0"))  # a new one: C4's filter changes its text
        kept, reason = said if isinstance(said, tuple) else (said, None)
        return bool(kept), str(reason or "")

    def issues(self, document: RawDocument) -> list[Issue]:
        """One issue for each filter that refuses a document; one that fails on it says so and decides nothing.

        Half of a surrogate pair, which no tokenizer takes, is read as a question mark.
        """
        out = []
        text = document.text.encode("utf-8", "replace").decode("utf-8")
        for name in self.made:
            try:
                kept, reason = self.verdict(name, text)
            except Exception as error:
                why = f"datatrove's {FILTERS[name]} fails on it: {type(error).__name__}: {error}"
                out.append(Issue(kind=f"{name} failed", confidence=0.5, reason=why[:300], action="keep"))
                continue
            if not kept:
                why = f"datatrove's {FILTERS[name]} refuses it: {_told(reason)}"
                found = self._place(name, reason, text)
                out.append(Issue(kind=name, confidence=_SURE, reason=why, action="drop", **_in_field(document, found)))
        return out

    def _place(self, name: str, reason: str, text: str) -> tuple[int, int] | None:
        """The characters that a reason is about, where it is about some: a line, or a run of words."""
        if reason in ("lorem_ipsum", "curly_bracket"):
            return self._line(name, reason, text)
        if reason in ("dup_para_frac", "dup_para_char_frac"):
            return _repeated(text, r"\n{2,}")
        if reason in ("dup_line_frac", "dup_line_char_frac", "char_dup_ratio"):
            return _repeated(text, r"\n+")
        run = _RUN.fullmatch(reason)
        if run is None:
            return None
        words, n = self.split(text), int(run["n"] or run["m"])
        most, times = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)).most_common(1)[0]
        at = re.search(r"\s*".join(map(re.escape, most)), text)
        return None if at is None or times < 2 else at.span()

    def _line(self, name: str, reason: str, text: str) -> tuple[int, int] | None:
        """The first line that is refused for the reason when it stands alone; C4's filter reads line by line."""
        start = 0
        for line in text.splitlines(keepends=True):
            if self.verdict(name, line) == (False, reason):
                return start, start + len(line.rstrip())
            start += len(line)
        return None


def open_filters(names: Sequence[str], language: str | None = None) -> Filters:
    """Make datatrove's filters, and try them, so that what is missing is said before a corpus is read.

    Args:
        names: Of `FILTERS`.
        language: Code of the language whose words they split; English if None.

    Raises:
        InputError: datatrove or a splitter of words is not installed, or there is none for the language.
    """
    code = language or "en"
    try:
        home, data, text = (import_module(f"datatrove.{name}") for name in ("pipeline.filters", "data", "utils.text"))
        made = Filters(
            {name: getattr(home, FILTERS[name])(language=code) for name in names},
            data.Document,
            lambda said: list(text.split_into_words(said, code)),
            version("datatrove"),
        )
        for name in names:
            made.verdict(name, "The first of these words, and that of the others. " * 20)
    except ImportError as error:
        raise InputError(
            f"--filters needs datatrove, which is not all there ({error}). Install it with "
            "pip install 'whence[datatrove]'; languages other than those that spaCy splits by rule need what is named."
        ) from error
    except ValueError as error:
        raise InputError(f"--filters: datatrove cannot split the words of the language {code!r}: {error}") from error
    return made


def _told(reason: str) -> str:
    """The filter's reason with what it means, where that is known.

    >>> _told("gopher_short_doc"), _told("top_2_gram"), _told("new_rule")
    ('gopher_short_doc (it has too few words)', 'top_2_gram (one run of 2 words is too much of it)', 'new_rule')
    """
    run = _RUN.fullmatch(reason)
    if run is not None:
        kind = "one run" if run["top"] else "repeated runs"
        verb = "is" if run["top"] else "are"
        return f"{reason} ({kind} of {run['n'] or run['m']} words {verb} too much of it)"
    meaning = _WORDS.get(reason)
    return f"{reason} ({meaning})" if meaning else reason or "it gives no reason"


def _repeated(text: str, between: str) -> tuple[int, int] | None:
    """The first part of a text, as cut at a pattern, that stood before; None if none did."""
    seen, start = set(), 0
    for cut in [*re.finditer(between, text), None]:
        stop = len(text) if cut is None else cut.start()
        part = text[start:stop]
        if part in seen and part:
            return start, stop
        seen.add(part)
        start = stop if cut is None else cut.end()
    return None


def _in_field(document: RawDocument, found: tuple[int, int] | None) -> dict[str, Any]:
    """Characters of the whole text as those of the field they begin in; nothing for a reason about the whole."""
    start = 0
    for name, text in document.texts.items():
        if found is not None and start <= found[0] < start + len(text):
            first, last = found[0] - start, min(found[1] - start, len(text))
            return {"field": name, "start": first, "stop": last, "evidence": text[first : min(last, first + _SHOWN)]}
        start += len(text) + 1
    return {}
