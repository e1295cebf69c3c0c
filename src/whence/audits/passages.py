"""Questions about other matters, made of the corpus itself: the null where few answers are audited."""

import numpy as np

from whence.attributor import Attributor
from whence.interfaces import Query

__all__ = ["passages"]

_TOKENS = 48


def passages(owner: Attributor, count: int, seed: int) -> list[Query]:
    """Passages of drawn documents, the first half as a prompt and the second as its answer.

    A passage's own document shares its words and so has no part in its null.
    """
    if count <= 0 or owner.tokenizer is None:
        return []
    order = np.random.default_rng(seed).permutation(owner.corpus.documents)
    out: list[Query] = []
    for number in order.tolist():
        tokens = owner.corpus.document(number).tokens[:_TOKENS].tolist()
        middle = len(tokens) // 2
        said = [
            str(owner.tokenizer.decode(part, skip_special_tokens=True)) for part in (tokens[:middle], tokens[middle:])
        ]
        if all(each.strip() for each in said) and len(tokens) >= 8:
            out.append(Query(id=f"passage-{number}", prompt=said[0], completion=said[1]))
        if len(out) == count:
            break
    return out
