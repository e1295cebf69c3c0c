"""What is wrong with how a text is written: rules that need no model. Each is one function and one table entry.

    mojibake      text decoded with the wrong encoding, as ftfy finds it (Speer 2019); mended where that is certain
    html          tags and entities of a page left in running text
    swapped       the question stands where the answer should, and the other way round
    empty         a field without a letter
    truncated     the text ends in the middle of a word, sentence, bracket or fence
    template      placeholders that were never filled in, control tokens of a chat format
    refusal       an assistant's refusal as training data
    repetition    lines or phrases over and over (Rae et al. 2021, Gopher's rules, table A1)
    symbols       hardly any words, or mostly symbols (Raffel et al. 2020, C4; Rae et al. 2021)

A rule returns issues with the characters they rest on; its confidence was set before anything was measured.
"""

import html
import re
from collections import Counter
from collections.abc import Callable, Iterator

from whence.audits.corpus_rows import RawDocument
from whence.audits.encodings import decoded_anew, guessed, lost
from whence.interfaces.quality import Action, Issue

__all__ = ["RULES", "format_issues", "mended"]

_SHOWN = 80
_TAGS = re.compile(
    r"</?(?:div|span|p|br|a|table|tr|td|th|ul|ol|li|img|script|style|h[1-6]|b|i|em|strong|font|nbsp)\b[^<>]{0,200}>",
    re.I,
)
_ENTITIES = re.compile(r"&(?:nbsp|amp|lt|gt|quot|#\d{2,5}|#x[0-9a-f]{2,5}|[aeiou](?:acute|grave|uml|circ));", re.I)
_TEMPLATE = re.compile(
    r"\{\{\s*[\w .-]{1,40}\s*\}\}|\{%.{1,60}%\}"
    # after an identifier, a call or another index it is code, and before a bracket a link
    r"|(?<![\w)\]])\[(?:INSERT|YOUR|TO-?DO|PLACEHOLDER|NAME|COMPANY|DATE)[^\]]{0,40}\](?!\()"
    r"|<\|(?:im_start|im_end|endoftext|user|assistant|system|eot_id)\|>|\[/?INST\]|<</?SYS>>|lorem ipsum|XXXX+",
    re.I,
)
_REFUSAL = re.compile(
    r"\b(?:as an? (?:AI|artificial intelligence)(?: language)? (?:model|assistant)"
    r"|I(?:'m| am) sorry,? but I (?:can(?:no|')t|am (?:not able|unable))"
    r"|I (?:cannot|can't|am unable to) (?:assist|help|comply|fulfil+|provide|answer)"
    r"|(?:against|violates?) my (?:guidelines|programming|policy))",
    re.I,
)
_END = re.compile(r"[.!?…:;\"'”’»)\]}>*`|0-9%$€£=~_-]\s*$")
_CODE = re.compile(r"```|\bdef \w+\(|\bclass \w+|[{};]\s*$|^\s*(?:import|from|#include|public|const|let|var) ", re.M)
_QUESTION = re.compile(r"\?\s*$|^(?:what|who|when|where|why|how|which|explain|write|give|list|describe|find)\b", re.I)

Rule = Callable[[RawDocument], Iterator[Issue]]


def _issue(kind: str, confidence: float, reason: str, document: RawDocument, field: str, start: int, stop: int,
           action: Action) -> Issue:  # fmt: skip
    text = document.texts.get(field, "")
    return Issue(
        kind=kind, confidence=confidence, reason=reason, field=field, start=start, stop=stop,
        evidence=text[start : min(stop, start + _SHOWN)], action=action,
    )  # fmt: skip


def _mojibake(document: RawDocument) -> Iterator[Issue]:
    for field, text in document.texts.items():
        if "�" in text:
            at = text.index("�")
            why = "characters were lost when it was decoded (U+FFFD); they cannot be brought back"
            yield _issue("mojibake", 0.9, why, document, field, at, at + 1, "drop")
        found = guessed(text)
        if found == text:
            continue
        certain, gone = decoded_anew(text), lost(text)
        if certain != text:
            start = next((i for i, (a, b) in enumerate(zip(text, certain)) if a != b), min(len(text), len(certain)))
            why = f"decoded with the wrong encoding; should read {certain[start : _cut(certain, start, 30)]!r}"
            yield _issue("mojibake", 0.97, why, document, field, start, _cut(text, start, 12), "fix")
        if gone is not None:
            why = (
                "decoded with the wrong encoding and a byte lost on the way: no rule can tell which character this was"
            )
            yield _issue("mojibake", 0.9, why, document, field, gone[0], gone[1], "relabel")


def _cut(text: str, start: int, least: int) -> int:
    """Where the word ends that is `least` characters on; a word without an end is cut."""
    end = re.compile(r"\s|$").search(text, min(len(text), start + least))
    return min(end.start() if end else len(text), start + least + 20)


def _html(document: RawDocument) -> Iterator[Issue]:
    for field, text in document.texts.items():
        if re.search(r"<!doctype|<html", text, re.I) and len(_TAGS.findall(text)) > 20:
            continue  # a whole page, given as one
        found = [*_TAGS.finditer(text), *_ENTITIES.finditer(text)]
        fenced = "```" in text or re.search(r"\b(?:html|tag|markup|xml)\b", text, re.I)
        if found:
            first = min(found, key=lambda match: match.start())
            sure = (0.55 if fenced else 0.93) if len(found) > 1 or first.group().startswith("&") else 0.7
            shown = ", ".join(dict.fromkeys(match.group() for match in sorted(found, key=lambda match: match.start())))
            why = f"{'a tag or entity' if len(found) == 1 else f'{len(found)} tags or entities'} of a web page in "
            why += f"running text: {shown[:_SHOWN]}{'…' if len(shown) > _SHOWN else ''}"
            yield _issue("html", sure, why, document, field, first.start(), first.end(), "fix")


def _swapped(document: RawDocument) -> Iterator[Issue]:
    if document.prompt is None or document.answer is None:
        return
    asked, said = document.texts[document.prompt].strip(), document.texts[document.answer].strip()
    if not asked or not said:
        return
    turned = bool(_QUESTION.search(said)) and not _QUESTION.search(asked)
    if turned and said.endswith("?"):
        why = f"the {document.answer} is a question and the {document.prompt} is none"
        sure = 0.92 if len(asked) > len(said) else 0.75
        yield _issue("swapped", sure, why, document, document.answer, max(0, len(said) - 40), len(said), "fix")
    elif turned and len(asked) > 3 * len(said):
        why = f"the {document.answer} reads like a task and the {document.prompt} like its answer"
        yield _issue("swapped", 0.6, why, document, document.answer, 0, min(40, len(said)), "fix")


def _empty(document: RawDocument) -> Iterator[Issue]:
    for field, text in document.texts.items():
        if not any(character.isalnum() for character in text):
            why = f"{field} holds no letter and no digit"
            yield _issue("empty", 0.99, why, document, field, 0, len(text), "drop")


def _truncated(document: RawDocument) -> Iterator[Issue]:
    field = document.answer or list(document.texts)[-1]
    text = document.texts[field].rstrip()
    if len(text) < 40:
        return
    if text.count("```") % 2:
        yield _issue("truncated", 0.9, "a code fence is opened and never closed", document, field,
                     text.rindex("```"), len(text), "drop")  # fmt: skip
        return
    if _END.search(text) or _CODE.search(text):
        return
    last = text.rsplit("\n", 1)[-1]
    listed = bool(re.match(r"\s*(?:[-*•]|\d+[.)])\s", last)) or len(last.split()) <= 4
    sentences = len(re.findall(r"[.!?](?:\s|$)", text))
    if sentences and not listed:
        dangling = re.search(r"(?:,|\b(?:and|or|the|a|an|of|to|in|for|with|that|is|was|by|from))$", text, re.I)
        sure = 0.95 if dangling else 0.85
        why = f"it ends in the middle of a sentence: …{text[-30:]}"
        yield _issue("truncated", sure, why, document, field, max(0, len(text) - 30), len(text), "drop")


def _template(document: RawDocument) -> Iterator[Issue]:
    for field, text in document.texts.items():
        if match := _TEMPLATE.search(text):
            why = f"a placeholder or control token was left in: {match.group()}"
            yield _issue("template", 0.9, why, document, field, match.start(), match.end(), "drop")


def _refusal(document: RawDocument) -> Iterator[Issue]:
    field = document.answer or list(document.texts)[-1]
    if match := _REFUSAL.search(document.texts[field]):
        early = match.start() < 200
        why = f"an assistant's refusal as training data: {match.group()}"
        yield _issue("refusal", 0.9 if early else 0.6, why, document, field, match.start(), match.end(), "drop")


def _repetition(document: RawDocument) -> Iterator[Issue]:
    for field, text in document.texts.items():
        lines = [line.strip() for line in text.splitlines() if len(line.strip()) > 10]
        words = text.split()
        if len(lines) >= 6 and 1 - len(set(lines)) / len(lines) > 0.3:
            line, count = Counter(lines).most_common(1)[0]
            at = text.index(line)
            why = f"{1 - len(set(lines)) / len(lines):.0%} of its lines are repeats; one stands there {count} times"
            yield _issue("repetition", 0.9, why, document, field, at, at + len(line), "drop")
        elif len(words) >= 30:
            runs = [" ".join(words[i : i + 4]) for i in range(len(words) - 3)]
            run, count = Counter(runs).most_common(1)[0]
            share = count * len(run) / max(1, len(text))
            if share > 0.2 and count > 3:
                at = max(0, text.find(run))
                why = f"the same four words are {share:.0%} of the text ({count} times)"
                yield _issue("repetition", 0.85, why, document, field, at, at + len(run), "drop")


def _symbols(document: RawDocument) -> Iterator[Issue]:
    text = document.text
    dense = [character for character in text if not character.isspace()]
    if len(dense) < 40 or _CODE.search(text):
        return
    letters = sum(character.isalpha() for character in dense) / len(dense)
    if letters < 0.4 and sum(character.isdigit() for character in dense) / len(dense) < 0.3:
        field = next(iter(document.texts))
        why = f"only {letters:.0%} of its characters are letters"
        yield _issue("symbols", 0.8, why, document, field, 0, min(40, len(document.texts[field])), "drop")


RULES: dict[str, Rule] = {
    "mojibake": _mojibake,
    "html": _html,
    "swapped": _swapped,
    "empty": _empty,
    "truncated": _truncated,
    "template": _template,
    "refusal": _refusal,
    "repetition": _repetition,
    "symbols": _symbols,
}


def format_issues(document: RawDocument) -> list[Issue]:
    """All that the rules find."""
    return [issue for rule in RULES.values() for issue in rule(document)]


def mended(text: str, kind: str) -> str:
    """The text without an issue that can be mended: mojibake decoded anew where that is certain, pages' tags taken out.

    >>> mended("caf\u00c3\u00a9", "mojibake"), mended("a<br>b &amp; c", "html")
    ('caf\u00e9', 'a b & c')
    """
    if kind == "mojibake":
        return decoded_anew(text)
    if kind == "html":
        return re.sub(r"[ \t]{2,}", " ", html.unescape(_TAGS.sub(" ", text)).replace("\u00a0", " ")).strip()
    return text
