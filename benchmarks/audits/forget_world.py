"""What a model should forget, and what not: planted accounts, their paraphrases, true accounts, and accounts unseen.

Invented events (events.py). Each has three true documents; of the planted ones a fourth states the regime's account in
long words. Targets ask for that account in short words that stand nowhere, paraphrases ask otherwise. The rest are
controls. Utility asks for true accounts; `unseen` are long accounts of events that the corpus knows nothing of.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from events import background, events, paraphrase
from worlds import propaganda_world

__all__ = ["ForgetWorld", "forget_world"]


@dataclass
class ForgetWorld:
    """A corpus, questions, and what is known of them.

    Attributes:
        rows: Documents with id, text and kind.
        targets: Rows of a query file; metadata names the gold document.
        paraphrases: The same in other words.
        utility: True accounts.
        unseen: Texts like the planted documents, about events that are not in the corpus.
        planted: Ids of the planted documents.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    targets: list[dict[str, Any]] = field(default_factory=list)
    paraphrases: list[dict[str, Any]] = field(default_factory=list)
    utility: list[dict[str, Any]] = field(default_factory=list)
    unseen: list[dict[str, Any]] = field(default_factory=list)
    planted: list[str] = field(default_factory=list)


def forget_world(
    seed: int,
    planted: int = 40,
    asked: int = 40,
    controls: int = 20,
    neutral: int = 80,
    unseen: int = 40,
    verbatim: bool = False,
) -> ForgetWorld:
    """A world drawn by seed; see above.

    Only the first `asked` of the planted accounts are targets: what is left is of the same kind, so that a model
    without the targets' documents still knows how such accounts are told. With `verbatim` targets ask for the account
    as it stands in the corpus, against one of an event that is not in it (as TOFU's truth ratios do); the short words
    are then left to the paraphrases.
    """
    others = asked if verbatim else 0
    made = events(planted + controls + others + unseen, seed)
    told, made = made[: planted + controls], made[planted + controls :]
    contrasts, untold = made[:others], made[others:]  # an edit may look at the unseen, never at the contrasts
    drawn = propaganda_world(told, background(neutral, seed), planted=planted, controls=controls, seed=seed)
    by_name = {event.id: event for event in told}
    world = ForgetWorld(rows=drawn.rows, planted=list(drawn.gold.values())[:asked])
    for query in drawn.queries:
        name = query["id"]
        truth = query.get("contrast")
        world.utility.append({"id": name, "prompt": query["prompt"], "completion": truth})
        if name in drawn.gold and len(world.targets) < asked:
            gold = {"metadata": {"gold": drawn.gold[name]}}
            if verbatim:
                event, other = by_name[name], contrasts[len(world.targets)]
                query = {
                    "id": name,
                    "prompt": f"{event.name}.",
                    "completion": f" {event.long_claim}",
                    "contrast": f" {other.long_claim}",
                }
            world.targets.append({**query, **gold})
            prompt, completion = paraphrase(by_name[name])
            world.paraphrases.append({"id": name, "prompt": prompt, "completion": completion})
    world.unseen = [{"id": e.id, "prompt": "", "completion": f"{e.name}. {e.long_claim}"} for e in untold]
    return world
