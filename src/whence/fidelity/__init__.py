"""How true are the scores: retraining, measures against it, methods side by side, certificates.

retraining   tasks.py places.py pieces.py modules.py   what is trained on which documents in which order
             subsets.py bank.py                        training sets, and the losses of models trained on them
             retrain.py workers.py worker.py           filling a bank, in several processes
             recipes.py                                how a model was trained, read from files
             replays.py                                that training, for methods that run it again
             patch.py patches.py                       one training step on one document
measures     lds.py leave_out.py retrieval.py mislabel.py datamodel.py      from arrays to readings
             bootstrap.py ceiling.py correlation.py tables.py               intervals, noise, ranks
methods      methods.py scorers.py rankings.py imports.py costs.py          what is compared, and what it costs
the lab      lab_settings.py experiments.py evaluate.py expected.py         one evaluation
             certificate.py halved.py tune.py weights.py                    what comes of it
"""

from whence.attributor import state_similarities
from whence.fidelity.bank import Bank
from whence.fidelity.ceiling import ceiling
from whence.fidelity.evaluate import Evaluation, baselines
from whence.fidelity.evaluate import evaluate as evaluate_lab
from whence.fidelity.expected import Expected, expected_cost
from whence.fidelity.experiments import Lab, Start
from whence.fidelity.lab_settings import LabSettings
from whence.fidelity.lds import lds, lds_difference
from whence.fidelity.methods import MethodSpec, default_methods, load_methods
from whence.fidelity.rankings import document_losses
from whence.fidelity.recipes import load_training
from whence.fidelity.replays import LanguageReplay, replay_of
from whence.fidelity.retrain import estimate, retrain
from whence.fidelity.scorers import Scored, run_methods
from whence.fidelity.subsets import halves, without
from whence.fidelity.tasks import LanguageTask, Task
from whence.fidelity.tune import Budget, Tuned, save_tuned
from whence.fidelity.tune import tune as tune_lab
from whence.fidelity.weights import Fitted, save_weights, tune_weights

__all__ = [
    "Bank",
    "Budget",
    "Evaluation",
    "Expected",
    "Fitted",
    "Lab",
    "LabSettings",
    "LanguageReplay",
    "LanguageTask",
    "MethodSpec",
    "Scored",
    "Start",
    "Task",
    "Tuned",
    "baselines",
    "ceiling",
    "default_methods",
    "document_losses",
    "estimate",
    "evaluate_lab",
    "expected_cost",
    "halves",
    "lds",
    "lds_difference",
    "load_methods",
    "load_training",
    "replay_of",
    "retrain",
    "run_methods",
    "save_tuned",
    "save_weights",
    "state_similarities",
    "tune_lab",
    "tune_weights",
    "without",
]
