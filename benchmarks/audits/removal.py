"""S3: does removing documents move what the model says? Influence, BM25, random and gold, over three worlds.

    python benchmarks/audits/removal.py OUT            three seeds
    python benchmarks/audits/removal.py OUT --seeds 1  a quick look

Each world (forget_world.py) plants false accounts in long words; the top document of every target is taken, the model
is trained again without, three times, and the targets (short words), their paraphrases and true accounts are asked. The
share of the oracle's effect, the effect over that at random, and a placebo.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from forget_world import ForgetWorld, forget_world
from scenario import Scenario
from small import opened, train, write_rows


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=15)
    parser.add_argument("--method", help="of scoring documents (default: that of a new run)")
    typed = parser.parse_args()
    scenario = Scenario("S3", "removal moves behaviour")
    for seed in range(typed.seeds):
        _one(scenario, seed, typed)
        scenario.report(typed.out)


def prepared(folder: Path, world: ForgetWorld, seed: int, epochs: float) -> Path:
    """Train on a world and write its questions."""
    train(
        folder,
        [{"id": row["id"], "text": row["text"]} for row in world.rows],
        seed=seed,
        epochs=epochs,
        vocabulary=1024,
    )
    for name in ("targets", "paraphrases", "utility", "unseen"):
        write_rows(folder / f"{name}.jsonl", getattr(world, name))
    return folder


def asked(folder: Path) -> dict[str, list]:
    """Questions by name."""
    from whence.data import load_queries

    return {
        name: load_queries(str(folder / f"{name}.jsonl")) for name in ("targets", "paraphrases", "utility", "unseen")
    }


def _one(scenario: Scenario, seed: int, typed) -> None:
    from whence.audits import InterventionOptions, intervene
    from whence.fidelity import Start, load_training
    from whence.report import save_intervention

    folder = prepared(typed.out / f"s3-{seed}", forget_world(seed), seed, typed.epochs)
    owner, questions = opened(folder, typed.method), asked(folder)
    training, _ = load_training(folder / "training.json")
    start = Start(str(folder / "start"), True)

    def run(name: str, **more):
        options = InterventionOptions(exact=True, seeds=3, **more)
        result = intervene(
            owner, questions["targets"], training, start, folder / name, options,
            paraphrases=questions["paraphrases"], utility=questions["utility"],
        )  # fmt: skip
        save_intervention(result, folder / name)
        return result

    found = run("removal")
    effects = {arm.by: {e.group: e for e in arm.effects} for arm in found.arms}
    oracle, chance = (effects[by]["targets"].change.value for by in ("oracle", "random"))
    gold = set(next(arm for arm in found.arms if arm.by == "oracle").documents)
    for arm in found.arms:
        mine = effects[arm.by]
        change = mine["targets"].change.value
        scenario.add(
            "whence" if arm.by == "influence" else arm.by,
            {
                "nats": change,
                "paraphrase_nats": mine["paraphrases"].change.value,
                "share_of_oracle": change / oracle,
                "over_random": change / max(abs(chance), 1e-3),
                "utility_change": mine["utility"].relative,
                "precision_of_gold": len(gold & set(arm.documents)) / len(arm.documents),
            },
        )
    high = effects["random"]["utility"].change.high
    within = effects["influence"]["utility"].change
    scenario.add("whence", {"utility_no_worse_than_at_random": float(within.low <= high)})
    scenario.add(
        "whence", {"foretold_over_found": found.predictions[0].change.value / found.main.effect("targets").change.value}
    )
    placebo = run("placebo", placebo=True, gold=True, controls=False)
    scenario.add("whence", {"placebo_share": placebo.main.effect("targets").change.value / oracle})


if __name__ == "__main__":
    main()
