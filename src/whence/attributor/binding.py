"""What a run may never change, as one flat table: its settings and the fingerprints of what it was made from."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from whence.interfaces import Site

__all__ = ["bound", "flat", "named"]


def named(sites: Sequence[Site]) -> str:
    """Which weights are attributed, in words and as a hash: a version that reads more of them fits other curvature."""
    said = json.dumps([[site.name, *site.shape] for site in sites])
    return f"{len(sites)} sites, {hashlib.sha256(said.encode()).hexdigest()[:12]}"


def bound(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a run may not change: everything but where the model lies and how the index is coded."""
    config = {key: value for key, value in content["config"].items() if key not in ("recipe", "trained_on")}
    model = {key: value for key, value in config["model"].items() if key not in ("model", "adapter", "min_coverage")}
    return {"config": {**config, "model": model}, "fingerprints": content["fingerprints"]}


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names."""
    if not isinstance(value, dict):
        return {prefix: value}
    out: dict[str, Any] = {}
    for key, inner in value.items():
        out |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return out
