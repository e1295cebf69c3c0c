"""What the steps of making a proxy share: the run, the settings, which layers and documents, reading and writing it."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from whence.attributor.fitting import fit_sample, windows_of
from whence.data import make_batch, plan_batches
from whence.errors import InputError, ModelError
from whence.interfaces import ProxyCard, ProxySettings, Site
from whence.model import LanguageInputs, Placement, decomposable, factored, language_inputs, load_proxy
from whence.runs import is_done, storage_errors, write_json

if TYPE_CHECKING:
    from whence.attributor.core import Attributor

__all__ = ["ProxyMaking", "making_of"]

_TOGETHER_BYTES = 1 << 30


@dataclass(frozen=True)
class ProxyMaking:
    """What the steps share.

    Attributes:
        owner: A run of the target; its covariances are fitted before the first step.
        settings: How the proxy is made.
        folder: Where parts of the work lie until it is done.
        out: Where the proxy goes.
    """

    owner: "Attributor"
    settings: ProxySettings
    folder: Path
    out: Path

    @cached_property
    def chosen(self) -> tuple[list[Site], dict[str, str]]:
        """The linear layers to decompose, and what else there is in the blocks, with why it stays.

        Raises:
            ModelError: There is none, or the model cannot be taken apart as it lies.
        """
        owner = self.owner
        if owner.loaded.trained is not None:
            raise ModelError(
                f"{owner.loaded.name} is an adapter on a base model, and a proxy is made of whole weights; merge the "
                "adapter into the model (merge_and_unload) and make a run of that."
            )
        if owner.placement != Placement() or owner.loaded.homes or owner.source.quantize is not None:
            raise ModelError(
                "a proxy is made in one process on one device, of weights that are neither quantised nor checkpointed; "
                "open the run without --device-map, --parallel, --checkpointing and --quantize."
            )
        if factored(owner.loaded.model):
            raise ModelError(
                f"{owner.loaded.name} is a proxy already; make another one of the model that it stands for."
            )
        sites, kept = decomposable(owner.loaded.model, owner.sites)
        if not sites:
            raise ModelError(
                f"this {type(owner.loaded.model).__name__} has no linear layer in its blocks that the run has fitted"
                + (f" ({', '.join(sorted(set(kept.values())))})" if kept else "")
                + "; a proxy has nothing to be made of. Was it left out with --sites?"
            )
        return sites, kept

    @property
    def sites(self) -> list[Site]:
        """The linear layers to decompose."""
        return self.chosen[0]

    @property
    def over(self) -> bool:
        """Whether the proxy is there."""
        return is_done(self.out)

    @cached_property
    def documents(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Windows to align on and windows held out: the first of each document, in an order that content decides.

        Raises:
            InputError: There is but one document.
        """
        wanted = self.settings.documents
        drawn = fit_sample(self.owner, wanted + -(-wanted // 4)).documents
        if len(drawn) < 2:
            raise InputError(
                "a proxy is compared with its target on documents held out, and there is only one document."
            )
        windows = np.array([windows_of(self.owner.corpus, each[None])[0] for each in drawn], dtype=np.int64)
        held = max(1, len(windows) // 5)
        return windows[:-held], windows[-held:]

    def pieces(self, windows: NDArray[np.int64], numbers: int) -> list[LanguageInputs]:
        """Windows in batches that fit into memory, one a row; `numbers` is how many gradients of a document have."""
        owner = self.owner
        lengths = np.array([stop - start for _, start, stop in map(owner.corpus.window, windows.tolist())])
        most = max(1, _TOGETHER_BYTES // (16 * numbers))
        places = [
            batch[first : first + most]
            for batch in plan_batches(lengths, owner.config.fit.batch_tokens)
            for first in range(0, len(batch), most)
        ]
        return [language_inputs(make_batch(owner.corpus, windows[each]), owner.loaded) for each in places]

    def load(self, folder: Path) -> nn.Module:
        """A proxy on the model's device, in at least float32."""
        target: Any = self.owner.loaded.model
        kind = target.config._attn_implementation
        model: nn.Module = load_proxy(folder, dtype=self.owner.wide, attn_implementation=kind)
        return model.to(self.owner.loaded.device)

    def save(self, folder: Path, model: nn.Module, card: ProxyCard) -> None:
        """Write a proxy into a folder that is being published, with the tokenizer, in the target's dtype."""
        found: Any = model.to(next(self.owner.loaded.model.parameters()).dtype)
        with storage_errors(folder):
            found.save_pretrained(folder)
            if self.owner.tokenizer is not None:
                self.owner.tokenizer.save_pretrained(folder)
        write_json(folder / "proxy.json", card.model_dump(mode="json"))


def making_of(owner: "Attributor", settings: ProxySettings, out: Path) -> ProxyMaking:
    """A proxy made anywhere, with its work below the run folder.

    Args:
        owner: A run of the target.
        settings: How it is made.
        out: Where it goes.
    """
    bound = {"settings": settings.model_dump(mode="json"), "model": owner.loaded.fingerprint}
    digest = hashlib.sha256(json.dumps(bound, sort_keys=True, default=str).encode()).hexdigest()[:12]
    return ProxyMaking(owner, settings, owner.run.path / "proxies" / digest, out)
