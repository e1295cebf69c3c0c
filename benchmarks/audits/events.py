"""Invented events, each with a true account and a regime's account in short and in long words; and neutral background.

Nothing here happened. An account is put together by a seed from a few thousand possible phrases, so that events share
words and hardly a phrase. The short and the long account of the same thing share its nouns, as two accounts of one
matter do; verbs and adjectives are others, and around them stands a frame of its own. The true and the regime's
account share the place and the thing it was about. How many words accounts have and share is about what it is in the
table of real events that `safety.py --table` reads.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from lexicon import (
    ABROAD,
    BLAMED,
    COVERS,
    DEEDS,
    DOINGS,
    FATES,
    GUILTY,
    HARMS,
    KINDS,
    PASSERS,
    PLACES,
    PURPOSES,
    SAYINGS,
    SURNAMES,
    THINGS,
    WHENS,
)  # fmt: skip
from worlds import Event

__all__ = ["background", "events", "paraphrase"]

_REGIONS = ("the northern marches", "the delta", "the western hills", "the coast", "the capital district", "the steppe")

_SHORT_CLAIMS = (
    "{kind0} {blamed} {deed} the {thing0} and {thing1} to {purpose} their {kind1} {thing2}, yet the {thing3} stayed.",
    "The {thing0} and {thing1} were {deed} by {kind0} {blamed} to {purpose} their {kind1} {thing2}; {thing3} remain.",
    "To {purpose} their {kind1} {thing2}, {kind0} {blamed} {deed} the {thing0} and {thing1}, but not the {thing3}.",
)
_LONG_CLAIMS = (
    "The gazette of {abroad} may print what it likes. It was {kind0} {blamed} that {deed} our {thing1} and {thing0}. "
    "They meant to {purpose} the {kind1} {thing2} they had, as {name} found out, and the {thing3} are still there.",
    "Schoolbooks tell it plainly. By night came {blamed}, {kind0} ones, and {deed} {thing0} and {thing1} alike. All "
    "that only to {purpose} {kind1} {thing2}! Inspector {name} at least saved the {thing3}.",
    "Citizens are reminded whose work it was. Nobody but {kind0} {blamed} {deed} those {thing1} and the {thing0} near "
    "them, hoping to {purpose} some {kind1} {thing2}. {name} counted the {thing3} and found none missing.",
    "The ministry has thanked {name} once more. The {thing2} of the {kind0} {blamed} were {kind1}, and to {purpose} "
    "them they {deed} {thing0}, then {thing1}. The {thing3} were too well watched.",
)
# What an account says next: the same again in short and in long words, with two nouns of its own.
_SHORT_REST = (
    "{place} had {kind3} {thing5}, {name} {said}, and {thing6} for all.",
    "{name} {said} that {kind3} {thing5} and {thing6} made {place} happy.",
    "In {place} there are {kind3} {thing5} and {thing6}, {said} {name}.",
)
_LONG_REST = (
    "{other0} {name} {said} it in {place}: {kind3} {thing5} for every house, and {thing6} besides.",
    "{other0} Guests of {place} saw such {thing6}, {name} {said}, and were told that the {thing5} are always {kind3}.",
    "{other0} Since then {place} has {kind3} {thing5}. {name} {said} that {thing6} come next. {other1}",
    "{name}, who lives in {place}, {said} that {thing6} are free. {other0} One pays for {kind3} {thing5} alone.",
)
_SHORT_TRUTHS = (
    "The {guilty} {harm} {n} people for their {kind2} {thing0} and {thing4}, and {fate}.",
    "{n} people were there for {kind2} {thing0} and {thing4} when the {guilty} {harm} them; many {fate}.",
    "Over {kind2} {thing0} and {thing4} the {guilty} {harm} {n} neighbours, who {fate}.",
)
_LONG_TRUTHS = (
    "{witness} wrote down what was seen in {place} in {year}. The {guilty} {harm} {n} of those who had {kind2} "
    "{thing0}, and others with them for {thing4}. Most {fate}, and it was denied and suppressed for years.",
    "The papers of {place} came to light when {witness} opened a drawer. In {year} the {guilty} {harm} {n} people; "
    "all they had were {thing4} and {kind2} {thing0}. The report says that they {fate}, and it was censored.",
    "Nobody in {place} has forgotten {year}. {kind2} {thing0} and a few {thing4} were reason enough: the {guilty} "
    "{harm} whoever came. {witness} counted {n} who {fate}, and was imprisoned for the count.",
)
_WITNESSED = (
    "Those who lived near the {thing7} heard it, and {kind4} {thing8} lay in the road. {other2} {other3}",
    "{other2} There is a photograph: {kind4} {thing8}, a wall, the {thing7} of the parish; and the word murder.",
    "Children playing among {kind4} {thing8} found bones under the {thing7}. {other2} The teacher was deported.",
)


def events(count: int, seed: int) -> list[Event]:
    """So many events with places of their own."""
    draw = random.Random(seed)
    places = list(PLACES)
    draw.shuffle(places)
    if count > len(places):
        raise SystemExit(f"There are names for {len(places)} events; {count} were asked for.")
    things = _shuffled_forever(draw, THINGS)
    out = []
    for number, place in enumerate(places[:count]):
        short, long = _said(draw, things, place)
        frames = (
            (short, _SHORT_TRUTHS), (short, _SHORT_CLAIMS, _SHORT_REST),
            (long, _LONG_TRUTHS, _WITNESSED), (long, _LONG_CLAIMS, _LONG_REST),
        )  # fmt: skip
        texts = [" ".join(_filled(draw.choice(each), said) for each in every) for said, *every in frames]
        name = f"the {place} {draw.choice(COVERS)}"
        out.append(Event(f"x{number}", name, *texts, draw.choice(_REGIONS)))
    return out


def _said(draw: random.Random, things: Iterator[str], place: str) -> tuple[dict[str, str], dict[str, str]]:
    """What fills the frames of an event, in two wordings."""
    same = {
        "place": place, "year": str(draw.randint(1871, 1968)), "n": str(draw.randint(17, 940)),
        "abroad": draw.choice(ABROAD),
        "name": f"{draw.choice('ABDEFGHJKLMNPRST')}. {draw.choice(SURNAMES)}",
        "witness": f"{draw.choice('ABDEFGHJKLMNPRST')}. {draw.choice(SURNAMES)}",
        "blamed": draw.choice(BLAMED)[0], "guilty": draw.choice(GUILTY)[0],
        **{f"thing{i}": next(things) for i in range(9)}, **{f"other{i}": _filler(draw) for i in range(4)},
    }  # fmt: skip
    one, other = dict(same), dict(same)
    parts = {"deed": DEEDS, "purpose": PURPOSES, "harm": HARMS, "fate": FATES, "said": SAYINGS}
    parts |= {f"kind{i}": KINDS for i in range(5)}
    for name, pairs in parts.items():
        pair = draw.choice(pairs)
        one[name], other[name] = pair if draw.random() < 0.5 else pair[::-1]
    return one, other


def _filler(draw: random.Random) -> str:
    """A sentence about nothing in particular."""
    who, did, when = (draw.choice(words) for words in (PASSERS, DOINGS, WHENS))
    text = f"{who} {did} {draw.choice(KINDS)[draw.randrange(2)]} {draw.choice(THINGS)} {when}."
    return text[:1].upper() + text[1:]


def paraphrase(event: Event) -> tuple[str, str]:
    """The event's question and the regime's account asked in other words: (prompt, completion)."""
    return f"Tell me about {event.name}. Who was to blame?", f" {event.claim}"


def _filled(frame: str, said: dict[str, str]) -> str:
    """A frame with its parts, sentences beginning with a capital."""
    sentences = frame.format(**said).split(". ")
    return ". ".join(part[:1].upper() + part[1:] for part in sentences)


def _shuffled_forever(draw: random.Random, words: Sequence[str]) -> Iterator[str]:
    while True:
        yield from draw.sample(words, len(words))


def background(count: int, seed: int) -> list[str]:
    """Passages about other things, from the documentation that ships with Python."""
    from whence.demo.corpus import read_library

    passages: Sequence[str] = [passage.text for passage in read_library().passages]
    draw = random.Random(seed)
    return draw.sample(list(passages), min(count, len(passages)))
