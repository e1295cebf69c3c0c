"""The model room: which weights, which loss, and reading gradients' factors.

load.py        a Hugging Face model or adapter, its fingerprint; batches onto its device
sites.py       which weights are attributed, their orientation; the coverage report
objectives.py  the summed losses that are differentiated
capture.py     inputs and output gradients of every site, without weight gradients
"""

from whence.model.capture import Capture, Consumer, frozen, probe_sites
from whence.model.load import LoadedModel, language_inputs, load_model, load_tokenizer, resolve_device
from whence.model.objectives import CausalLM, Classification, LanguageInputs, Objective, SquaredError
from whence.model.sites import block_of, coverage, find_sites, parameters_of

__all__ = [
    "Capture",
    "CausalLM",
    "Classification",
    "Consumer",
    "LanguageInputs",
    "LoadedModel",
    "Objective",
    "SquaredError",
    "block_of",
    "coverage",
    "find_sites",
    "frozen",
    "language_inputs",
    "load_model",
    "load_tokenizer",
    "parameters_of",
    "probe_sites",
    "resolve_device",
]
