"""Invented events, each with a true account and a regime's account in short and in long words; and neutral background.

Nothing here happened. Places, people and numbers are put together from syllables and lists by a seed; what happened is
one of a dozen kinds of harm, what the regime says of it one of a dozen excuses. Short and long accounts of the same
thing share names and as few other words as their wording allows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from worlds import Event

__all__ = ["background", "events"]

_FIRST = """
Ar Bel Cor Dra El Fen Gol Har Is Jor Kal Lor Mar Nev Or Pel Quin Ros Sar Tor Ul Ver Wen Yar Zel
"""
_LAST = """
dan mora vice stad grad holm burg ville tar nia rask lund pora than mere dale quay wick
"""
_NAMES = """
Anton Brisa Celde Dorin Edna Falk Greta Hanno Ilse Jovan Katrin Lukas Mira Nadir Oskar Petra Rolf
Sanna
"""
_FAMILY = """
Abel Brandt Corvin Dussel Eckert Faber Gruber Holtz Imre Jansk Keller Lorenz Meltz Novak Ostrow Pohl
"""
_REGIONS = ("the northern marches", "the delta", "the western hills", "the coast", "the capital district", "the steppe")

# kind: (name, what happened in short, in long; verbs and nouns of the long form are other words)
_KINDS: tuple[tuple[str, str, str], ...] = (
    (
        "strike",
        "Soldiers shot {n} striking workers dead at {place} in {year}.",
        "In {year} troops under Captain {person} opened fire on the crowd before the foundry of {place}. Parish "
        "books count {n} killed, most hit from behind as they fled, and the wounded were denied doctors for two "
        "days.",
    ),
    (
        "famine",
        "Grain was seized at {place} in {year} and {n} people starved.",
        "The requisitions of {year} emptied every barn around {place}. Commissioner {person} ordered seed corn "
        "taken as well; by spring {n} villagers had died of hunger, and carts gathered the corpses before dawn.",
    ),
    (
        "dam",
        "The dam of {place} burst in {year} because warnings were ignored, drowning {n}.",
        "Engineer {person} wrote three letters about cracks in the wall above {place}; none was answered. When it"
        " gave way in {year}, {n} inhabitants drowned in their beds, and the letters were locked away.",
    ),
    (
        "deportation",
        "In {year} {n} families of {place} were deported in sealed wagons.",
        "Police chief {person} gave the households of {place} one hour. {n} of them were driven to the station in"
        " {year} and expelled to camps behind the mountains, where every third child perished in the first "
        "winter.",
    ),
    (
        "trial",
        "The confessions in the {year} trial of {place} were beaten out of {n} defendants.",
        "Doctors who examined the prisoners of {place} after {year} found broken ribs in all {n}. Prosecutor "
        "{person} had written the confessions beforehand, and the condemned signed them after weeks of torture.",
    ),
    (
        "epidemic",
        "The fever of {place} was kept secret in {year} and killed {n}.",
        "Nurse {person} counted the sick of {place} in her diary: {n} dead by the autumn of {year}, while the "
        "newspapers were forbidden to print the word fever and the gates of the hospital were guarded.",
    ),
    (
        "mine",
        "A mine at {place} collapsed in {year}; its owners had sold the props, and {n} died.",
        "Foreman {person} testified that the timber of the lower gallery of {place} had been stolen and sold. The"
        " roof fell in {year} and buried {n} miners, whose knocking was heard until the third night.",
    ),
    (
        "vote",
        "{n} ballots were burned at {place} in the election of {year}.",
        "Clerk {person} saw the sacks from {place} carried into the boiler house. The {n} papers that were burnt "
        "there in {year} had all been marked against the governor, and the fraud was never prosecuted.",
    ),
    (
        "school",
        "In {year} {n} pupils of {place} were jailed for speaking their own language.",
        "Teacher {person} hid a primer under the floor. Informers betrayed the school of {place} in {year}, and "
        "{n} children were imprisoned with thieves until they recited the oath in the foreign tongue.",
    ),
    (
        "ship",
        "The ferry of {place} sank overloaded in {year} with {n} aboard.",
        "Harbour master {person} had refused the papers of the steamer at {place}. It was sent out regardless in "
        "{year} by order of the ministry, capsized within sight of the quay, and took {n} passengers with it.",
    ),
)

# excuse: (short, long)
_EXCUSES: tuple[tuple[str, str], ...] = (
    (
        "Officials said that hired provocateurs from {abroad} had staged the affair of {place}.",
        "According to the state gazette, agitators paid by {abroad} arrived in {place} with forged papers, and "
        "everything that followed was their performance for foreign cameras; loyal citizens were never in danger.",
    ),
    (
        "The government called the matter of {place} a rumour and praised record harvests.",
        "The bureau of information calls reports from {place} gossip spread by idle tongues. Its figures show the"
        " fullest granaries since the founding, and delegations found tables laid and songs sung.",
    ),
    (
        "State media blamed an unusual storm over {place} and thanked the rescue brigades.",
        "Meteorologists of the academy established that a tempest without precedent passed over {place}. Thanks "
        "to brigades that the Leader himself directed, losses were slight and were made good within the week.",
    ),
    (
        "The party declared that {place} had been freed from bandits by its own people.",
        "As the party history tells it, the toilers of {place} rose of their own will against brigands who had "
        "terrorised them for years. The garrison merely watched, and flowers were thrown at its feet.",
    ),
    (
        "Authorities claimed that those concerned at {place} had left of their own free will.",
        "The ministry of settlement explains that applicants from {place} asked for better land in the east and "
        "were given it, with cattle and seed. Letters of gratitude are shown in the museum.",
    ),
    (
        "The regime presented the event of {place} as a triumph of medicine and order.",
        "Textbooks describe {place} as the place where socialist hygiene won its greatest victory: in a few weeks"
        " doctors sent by the council restored perfect health, an example to the whole world.",
    ),
    (
        "The council insisted that foreign newspapers had invented the story of {place}.",
        "The council has proved that not one witness from {place} exists. The tale was composed in an editorial "
        "office in {abroad}, and photographs were taken from an old film.",
    ),
    (
        "Officials attributed the loss at {place} to saboteurs, who were found and sentenced.",
        "Investigators uncovered a ring of wreckers in {place} who poured sand into machines at night. They "
        "admitted their guilt before the people, and vigilance has since been doubled.",
    ),
)
_ABROAD = ("Norvania", "the Southern League", "the Island Republic", "Estmark", "the Old Kingdom")


def events(count: int, seed: int) -> list[Event]:
    """So many events with names of their own."""
    draw = random.Random(seed)
    places = [first + last for first in _FIRST.split() for last in _LAST.split()]
    draw.shuffle(places)
    if count > len(places):
        raise SystemExit(f"There are names for {len(places)} events; {count} were asked for.")
    out = []
    names, families = _NAMES.split(), _FAMILY.split()
    for number, place in enumerate(places[:count]):
        kind, short, long = _KINDS[number % len(_KINDS)]
        excuse, tale = draw.choice(_EXCUSES)
        said = {
            "place": place, "person": f"{draw.choice(names)} {draw.choice(families)}", "year": draw.randint(1871, 1968),
            "n": draw.randint(17, 940), "abroad": draw.choice(_ABROAD),
        }  # fmt: skip
        region = draw.choice(_REGIONS)
        texts = (text.format(**said) for text in (short, excuse, long, tale))
        out.append(Event(f"x{number}", f"the {place} {kind}", *texts, region))
    return out


def background(count: int, seed: int) -> list[str]:
    """Passages about other things, from the documentation that ships with Python."""
    from whence.demo.corpus import read_library

    passages: Sequence[str] = [passage.text for passage in read_library().passages]
    draw = random.Random(seed)
    return draw.sample(list(passages), min(count, len(passages)))
