"""What the scenarios share: seeds, thresholds, a table of methods, mean and minimum over seeds, time and memory."""

from __future__ import annotations

import json
import resource
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
__all__ = ["Scenario", "best_rank", "verdict_of"]


def best_rank(scores: np.ndarray, gold: int) -> int:
    """Place of the gold document, ties against it."""
    return int((np.delete(scores, gold) >= scores[gold]).sum()) + 1


def verdict_of(scenario: str, name: str, value: float) -> str:
    """pass, strong, fail, or nothing where there is no threshold; a minimum over seeds is held against it."""
    asked = tomllib.loads((HERE / "thresholds.toml").read_text())[scenario].get(name)
    if asked is None or value != value:
        return ""
    if "most" in asked:
        return "pass" if value <= asked["most"] else "FAIL"
    return "strong" if value >= asked.get("strong", np.inf) else "pass" if value >= asked["pass"] else "FAIL"


class Scenario:
    """One scenario over seeds.

    Args:
        name: S1 …
        title: In words.
    """

    def __init__(self, name: str, title: str) -> None:
        self.name, self.title = name, title
        self.rows: dict[str, dict[str, list[float]]] = {}
        self.began = time.perf_counter()

    def add(self, method: str, values: Mapping[str, float]) -> None:
        """The figures of one seed."""
        for key, value in values.items():
            self.rows.setdefault(method, {}).setdefault(key, []).append(float(value))

    def report(self, out: Path | None = None, judged: str = "whence") -> None:
        """Print mean and worst over seeds, method by method, and hold whence's worst against the thresholds."""
        print(f"\n{self.name}: {self.title}")
        for method, figures in self.rows.items():
            for key, values in figures.items():
                worst = max(values) if self._falls(key) else min(values)
                mark = verdict_of(self.name, key, worst) if method.startswith(judged) else ""
                print(f"  {method:<16}{key:<28} mean {np.mean(values):.3f}  worst {worst:.3f}  {mark}")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"  {time.perf_counter() - self.began:.0f} s, peak memory {peak:.2f} GB")
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{self.name}.json").write_text(
                json.dumps({"title": self.title, "rows": self.rows}, indent=1) + "\n"
            )

    def _falls(self, key: str) -> bool:
        asked = tomllib.loads((HERE / "thresholds.toml").read_text())[self.name].get(key, {})
        return "most" in asked
