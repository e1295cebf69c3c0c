"""The model room: which weights, which loss, and reading gradients' factors.

load.py        a Hugging Face model or adapter, its fingerprint; batches onto its device
sites.py       which weights are attributed, their orientation; the coverage report
objectives.py  the summed losses that are differentiated
training.py    how a model is trained, as data
optimizers.py  a training's optimizers and the parameters each has
muon.py        Muon: orthogonalised momentum
dropout.py     every dropout of a model
train.py       the one training loop
capture.py     inputs and output gradients of every site, without weight gradients
"""

from whence.model.capture import Capture, Consumer, frozen, probe_sites
from whence.model.dropout import has_dropout, set_dropout
from whence.model.load import (
    LoadedModel,
    as_loaded,
    config_fingerprint,
    initial_model,
    language_inputs,
    load_model,
    load_tokenizer,
    read_config,
    resolve_device,
)
from whence.model.objectives import CausalLM, Classification, LanguageInputs, Objective, SquaredError
from whence.model.sites import block_of, coverage, find_sites, parameters_of
from whence.model.train import optimise, reproducible, trained_parameters
from whence.model.training import Training

__all__ = [
    "Capture",
    "CausalLM",
    "Classification",
    "Consumer",
    "LanguageInputs",
    "LoadedModel",
    "Objective",
    "SquaredError",
    "Training",
    "as_loaded",
    "block_of",
    "config_fingerprint",
    "coverage",
    "find_sites",
    "frozen",
    "has_dropout",
    "initial_model",
    "language_inputs",
    "load_model",
    "load_tokenizer",
    "optimise",
    "parameters_of",
    "probe_sites",
    "read_config",
    "reproducible",
    "resolve_device",
    "set_dropout",
    "trained_parameters",
]
