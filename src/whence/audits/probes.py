"""The texts whose losses say what an intervention did: targets, paraphrases, utility, the documents themselves.

Every text is asked alone, so a contrast is a text of its own: the truth ratio of a question is made of the two. Axes:
P texts. Trains nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from whence.attributor import Attributor
from whence.audits.newton import sequences_of
from whence.errors import InputError
from whence.interfaces import EncodedQuery, EncodedText, Query

__all__ = ["GROUPS", "Probes", "make_probes"]

GROUPS = ("targets", "paraphrases", "utility", "documents", "kept")

Array = NDArray[np.float64]
_KEPT = 32


@dataclass(frozen=True)
class Probes:
    """All texts that are asked.

    Attributes:
        texts: As tokens, P of them.
        groups: Group -> places of its texts in `texts`.
        contrasts: Group -> places of its texts' contrasts, -1 where a text has none.
        units: Group -> unit (question or document) of each of its texts; windows of one document are one unit.
        targets: The targets as asked.
    """

    texts: tuple[EncodedQuery, ...]
    groups: Mapping[str, NDArray[np.int64]]
    contrasts: Mapping[str, NDArray[np.int64]]
    units: Mapping[str, NDArray[np.int64]]
    targets: tuple[EncodedQuery, ...]

    @property
    def tokens(self) -> Array:
        """Target tokens of each text, float64 [P]."""
        return np.array([max(1, int(each.text.loss_mask[1:].sum())) for each in self.texts], dtype=np.float64)

    def per_unit(self, group: str, losses: Array) -> Array:
        """Values [..., P] added up by unit of a group, [..., U]."""
        units = self.units[group]
        out = np.zeros((*losses.shape[:-1], int(units.max()) + 1))
        for place, unit in zip(self.groups[group].tolist(), units.tolist(), strict=True):
            out[..., unit] += losses[..., place]
        return out

    def truth_ratios(self, losses: Array) -> Array:
        """Per-token likelihood of the contrast over that of the answer, of targets that have one, [..., U].

        As TOFU's truth ratio (Maini et al. 2024, arXiv:2401.06121), with the answer that is to be forgotten where TOFU
        has the right one, and one other answer: small is remembered, large is forgotten.
        """
        places, others = self.groups["targets"], self.contrasts["targets"]
        some = others >= 0
        mean = losses / self.tokens
        ratio: Array = np.exp(mean[..., places[some]] - mean[..., others[some]])
        return ratio


def make_probes(
    owner: Attributor,
    targets: Sequence[Query],
    paraphrases: Sequence[Query] = (),
    utility: Sequence[Query] = (),
    documents: Sequence[int] = (),
    seed: int = 0,
) -> Probes:
    """The texts of an intervention.

    Args:
        owner: The run.
        targets: What the model said.
        paraphrases: The same in other words.
        utility: What the model should go on to say.
        documents: Numbers of the documents that are taken.
        seed: Draws the sample of kept documents.

    Raises:
        QueryError: A question cannot be encoded.
        InputError: There is no target.
    """
    if not targets:
        raise InputError("there is no target; give --query with at least one prompt and completion.")
    texts: list[EncodedQuery] = []
    groups: dict[str, list[int]] = {}
    contrasts: dict[str, list[int]] = {}
    units: dict[str, list[int]] = {}
    asked: tuple[EncodedQuery, ...] = ()
    for name, queries in (("targets", targets), ("paraphrases", paraphrases), ("utility", utility)):
        encoded = owner.encode_queries(queries) if queries else []
        asked = tuple(replace(each, contrast=None) for each in encoded) if name == "targets" else asked
        for unit, each in enumerate(encoded):
            groups.setdefault(name, []).append(len(texts))
            units.setdefault(name, []).append(unit)
            texts.append(EncodedQuery(each.query, f"{name}:{each.id}", each.text))
            contrasts.setdefault(name, []).append(-1 if each.contrast is None else len(texts))
            if each.contrast is not None:
                texts.append(EncodedQuery(each.query, f"{name}:{each.id}:contrast", each.contrast))
    others = np.setdiff1d(np.arange(owner.corpus.documents), np.asarray(documents, dtype=np.int64))
    sample = np.sort(np.random.default_rng(seed).permutation(others)[:_KEPT])
    for name, numbers in (("documents", list(documents)), ("kept", sample.tolist())):
        for unit, number in enumerate(numbers):
            for tokens, mask in sequences_of(owner.corpus, [number]):
                groups.setdefault(name, []).append(len(texts))
                units.setdefault(name, []).append(unit)
                text = EncodedText(tokens, mask, ())
                texts.append(EncodedQuery(Query(completion=""), f"{name}:{number}:{len(texts)}", text))
    return Probes(tuple(texts), _arrays(groups), _arrays(contrasts), _arrays(units), asked)


def _arrays(lists: Mapping[str, Sequence[int]]) -> dict[str, NDArray[np.int64]]:
    return {name: np.asarray(each, dtype=np.int64) for name, each in lists.items()}
