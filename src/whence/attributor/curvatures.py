"""Fitted curvature on disk: one safetensors file per site; bases shared by a group are stored once."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from whence.curvature import SiteCurvature, identity_curvature
from whence.errors import IncompleteError, StorageError
from whence.gradients import Curvature
from whence.interfaces import Site
from whence.runs import is_done, storage_errors

__all__ = ["load_bases", "load_curvatures", "load_spectrum", "read_some", "save_basis", "save_tensors"]

BASIS = "basis"
EIGENVALUES = "eigenvalues"


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file inside a folder that is being published."""
    with storage_errors(path):
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        with storage_errors(path):
            yield
    except SafetensorError as error:
        raise StorageError(
            f"{path} is damaged ({error}); delete the folder {path.parent} and run `whence fit` again."
        ) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        StorageError: It is damaged.
    """
    with _reading(path):
        return dict(load_file(path))


def read_some(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """Only the named tensors of a safetensors file, so that a merge never holds more than one site."""
    with _reading(path), safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in names}


def save_basis(folder: Path, site: Site, basis: SiteCurvature) -> None:
    """Write the eigenbasis and the K-FAC eigenvalues of one site, rounded once to float32."""
    tensors = {"eigenvalues": basis.eigenvalues.float()}
    if basis.outputs is not None:
        tensors["outputs"] = basis.outputs.float()
    if basis.inputs is not None and site.group == site.name:
        tensors["inputs"] = basis.inputs.float()
    if basis.trust is not None:
        tensors["trust"] = basis.trust.float()
    save_tensors(folder / f"{site.name}.safetensors", tensors)


def load_bases(folder: Path, sites: Sequence[Site]) -> dict[str, SiteCurvature]:
    """The eigenbases with K-FAC eigenvalues.

    Raises:
        IncompleteError: They have not been fitted.
    """
    if not is_done(folder / BASIS):
        raise IncompleteError("the curvature has not been fitted (or its parts not merged); run `whence fit` first.")
    groups: dict[str, Tensor | None] = {}
    out: dict[str, SiteCurvature] = {}
    for site in sorted(sites, key=lambda site: site.group != site.name):
        tensors = load_tensors(folder / BASIS / f"{site.name}.safetensors")
        if site.group == site.name:
            groups[site.group] = tensors.get("inputs")
        elif site.group not in groups:  # --sites kept this one and not the group's first
            groups[site.group] = load_tensors(folder / BASIS / f"{site.group}.safetensors").get("inputs")
        out[site.name] = SiteCurvature(
            tensors.get("outputs"), groups[site.group], tensors["eigenvalues"], tensors.get("trust")
        )
    return out


def load_spectrum(folder: Path, site: Site, method: Curvature) -> Tensor:
    """Eigenvalues of one site under a method, [O, I] ([E, O, I]), without its bases.

    Raises:
        IncompleteError: They have not been fitted; names the command.
    """
    if method == "identity":
        return identity_curvature(site).eigenvalues
    name = {"ekfac": EIGENVALUES, "kfac": BASIS}.get(method, method)
    if not is_done(folder / name):
        raise IncompleteError(
            f"no {method} curvature has been fitted in this run; run `whence fit --method {method}` first."
        )
    return read_some(folder / name / f"{site.name}.safetensors", ["eigenvalues"])["eigenvalues"].float()


def load_curvatures(folder: Path, sites: Sequence[Site], method: Curvature) -> dict[str, SiteCurvature]:
    """Curvature of every site under a method.

    Raises:
        IncompleteError: It has not been fitted; names the command.
    """
    if method == "identity":
        return {site.name: identity_curvature(site) for site in sites}
    if method == "kfac":
        return load_bases(folder, sites)
    name = EIGENVALUES if method == "ekfac" else "diagonal"
    if not is_done(folder / name):
        raise IncompleteError(
            f"no {method} curvature has been fitted in this run; run `whence fit --method {method}` first."
        )
    bases = load_bases(folder, sites) if method == "ekfac" else {site.name: identity_curvature(site) for site in sites}
    out = {}
    for site in sites:
        values = read_some(folder / name / f"{site.name}.safetensors", ["eigenvalues"])["eigenvalues"]
        out[site.name] = replace(bases[site.name], eigenvalues=values.to(torch.float32))
    return out
