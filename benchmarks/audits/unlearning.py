"""S6: unlearning against training without the documents: newton, ascent, npo, dmm, over three worlds.

    python benchmarks/audits/unlearning.py OUT            three seeds
    python benchmarks/audits/unlearning.py OUT --seeds 1  a quick look

A fifth of the planted documents is forgotten. Rates, steps and strengths are the defaults; where to stop is said by
texts that were never trained on (`unseen`), never by the retrained model. Printed: the Kolmogorov-Smirnov p-value of
losses and of truth ratios against three models trained without the documents, utility, targets, paraphrases,
relearning; "retrain" is one such model against the others, "nothing" the model as it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from forget_world import forget_world
from removal import asked, prepared
from scenario import Scenario
from small import opened

PLANTED, FORGOTTEN = 120, 24
METHODS = ("dmm", "npo", "newton", "ascent")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=15)
    parser.add_argument("--method", help="of scoring documents (default: that of a new run)")
    typed = parser.parse_args()
    scenario = Scenario("S6", "unlearning")
    for seed in range(typed.seeds):
        _one(scenario, seed, typed)
        scenario.report(typed.out, judged="dmm")


def _one(scenario: Scenario, seed: int, typed) -> None:
    from whence.audits import InterventionOptions, intervene
    from whence.fidelity import Start, load_training
    from whence.report import save_intervention

    world = forget_world(seed, planted=PLANTED, asked=FORGOTTEN, verbatim=True)
    folder = prepared(typed.out / f"s6-{seed}", world, seed, typed.epochs)
    owner, questions = opened(folder, typed.method), asked(folder)
    training, _ = load_training(folder / "training.json")
    options = InterventionOptions(
        action="unlearn", methods=METHODS, gold=True, exact=True, controls=False,
        unseen=questions["unseen"],
    )  # fmt: skip
    result = intervene(
        owner, questions["targets"], training, Start(str(folder / "start"), True), folder / "unlearning", options,
        paraphrases=questions["paraphrases"], utility=questions["utility"],
    )  # fmt: skip
    save_intervention(result, folder / "unlearning")
    trained = result.arm("oracle", "retrain")
    for arm in result.arms:
        alike = {each.of: each for each in arm.likeness}
        values = {
            "ks_p_losses": alike["losses"].p,
            "ks_p_truth_ratios": alike["truth ratios"].p,
            "utility_loss": arm.effect("utility").relative,
            "targets_share": arm.effect("targets").change.value / trained.effect("targets").change.value,
            "paraphrases_share": arm.effect("paraphrases").change.value / trained.effect("paraphrases").change.value,
            "documents_share": arm.effect("documents").change.value / trained.effect("documents").change.value,
            "relearning_lowest_over_retrained": arm.relearning.lowest / trained.relearning.lowest,
        }
        if arm.seconds is not None:
            values["seconds"] = arm.seconds
        scenario.add(arm.by if arm.by == "nothing" else arm.how, values)


if __name__ == "__main__":
    main()
