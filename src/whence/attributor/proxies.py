"""Making a proxy of a run's model: a smaller model that stands for it, from curvature that the run has fitted already.

    decomposition   each linear layer in the blocks, weighed by its covariances    items: sites;  finish: ranks, a model
    alignment       factors trained on a few documents                             one item, its states kept on the way
    comparison      proxy and target on documents held out                         items: stages; finish: the proxy

``folder`` holds what is needed on the way and is emptied at the end; the proxy appears whole in ``out``.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from whence.attributor.curvatures import load_bases, load_tensors, save_tensors
from whence.attributor.proxy_making import ProxyMaking
from whence.attributor.steps import Advance, Step
from whence.curvature import Shape, WeightedFactors, moments_of, spend_ranks, uniform_ranks, weighted_factors
from whence.errors import InputError
from whence.interfaces import ProxyCard, ProxyCheck, ProxyKind, ProxySettings, ProxySite
from whence.model import Aligner, block_of, compared, factored_copy, read_proxy_card
from whence.runs import is_done, publish, read_json, require_done, storage_errors, write_json

__all__ = ["proxy_steps"]

_STATES = 10
_FILE = "state.safetensors"

Stage = Literal["decomposed", "aligned"]


def proxy_steps(making: ProxyMaking) -> list[Step]:
    """The steps after the covariances."""
    return [DecompositionStep(making), AlignmentStep(making), ComparisonStep(making)]


class _ProxyStep:
    """What the three steps share."""

    name = ""

    def __init__(self, making: ProxyMaking) -> None:
        self.making, self.owner, self.settings, self.folder = making, making.owner, making.settings, making.folder

    def items(self) -> list[Any]:
        raise AssertionError("defined by each step")

    def place(self, item: Any) -> Path:
        """Where an item's result goes."""
        return self.folder / self.name / str(item)

    def done(self, item: Any) -> bool:
        """Whether an item's result is there."""
        return self.finished() or is_done(self.place(item))

    def finished(self) -> bool:
        raise AssertionError("defined by each step")


class DecompositionStep(_ProxyStep):
    """Every site on its own, then ranks for all of them, and a model."""

    name = "decomposition"

    def items(self) -> list[str]:
        """Names of the sites."""
        return [site.name for site in self.making.sites]

    def tokens(self, item: str) -> int:
        """Parameters of a site, for want of tokens."""
        return next(site.size for site in self.making.sites if site.name == item)

    def run(self, item: str, shares: tuple[int, int], advance: Advance) -> None:
        """Decompose a site."""
        owner = self.owner
        site = next(site for site in self.making.sites if site.name == item)
        moments = moments_of(load_bases(owner.run.curvature, [site])[site.name], site.bias)
        block = block_of(site, owner.loaded.model).cpu().double()
        weight = block[:, :-1] if site.bias else block
        found = weighted_factors(weight, moments, self.settings.damping, site.name)
        most = Shape(len(weight), weight.shape[1], ()).most
        tensors = {"values": found.values}
        tensors |= {"up": found.up[:, :most].to(owner.wide), "down": found.down[:most].to(owner.wide)}
        if moments.mean is not None:
            tensors |= {"mean": moments.mean, "bias": block[:, -1]}
        advance(site.size)
        with publish(self.place(item)) as temporary:
            save_tensors(temporary / _FILE, tensors)

    def finished(self) -> bool:
        """Whether the first model is there."""
        return self.making.over or is_done(self.folder / "start")

    def finish(self) -> bool:
        """Choose ranks and make a model once every site has been decomposed."""
        if self.finished():
            return True
        if not all(self.done(item) for item in self.items()):
            return False
        making = self.making
        values = {name: load_tensors(self.place(name) / _FILE)["values"].square().tolist() for name in self.items()}
        shapes = {site.name: Shape(site.outputs, site.inputs - site.bias, values[site.name]) for site in making.sites}
        ranks = _ranks(shapes, self.settings)
        if not any(ranks.values()):
            raise InputError(
                f"{_size(self.settings)} keeps every linear layer as it is: no product is smaller. Give less."
            )
        model = factored_copy(self.owner.loaded.model, {n: self._pair(n, r) for n, r in ranks.items() if r is not None})
        with publish(self.folder / "start") as temporary:
            making.save(temporary, model, self._card(model, shapes, ranks))
        shutil.rmtree(self.folder / self.name, ignore_errors=True)
        return True

    def _pair(self, name: str, rank: int) -> tuple[Tensor, Tensor, Tensor | None]:
        stored = load_tensors(self.place(name) / _FILE)
        found = WeightedFactors(stored["up"].double(), stored["values"], stored["down"].double())
        up, down = found.of_rank(rank)
        if "bias" not in stored:
            return up, down, None
        site = next(site for site in self.making.sites if site.name == name)
        weight = block_of(site, self.owner.loaded.model)[:, :-1].cpu().double()
        return up, down, stored["bias"] + (weight - up @ down) @ stored["mean"]

    def _card(self, model: nn.Module, shapes: dict[str, Shape], ranks: dict[str, int | None]) -> ProxyCard:
        import whence

        owner, settings = self.owner, self.settings
        even = ranks if settings.share is None else uniform_ranks(shapes, settings.share)
        sites = tuple(
            ProxySite(
                name=name, outputs=shape.outputs, inputs=shape.inputs, rank=ranks[name], size=sum(shape.squares) / 2,
                error=shape.error(ranks[name]) / 2, even=shape.error(even[name]) / 2,
            )
            for name, shape in shapes.items()
        )  # fmt: skip
        return ProxyCard(
            architecture=type(owner.loaded.model).__name__,
            ranks={name: rank for name, rank in ranks.items() if rank is not None},
            settings=settings,
            target=owner.loaded.name,
            fingerprint=owner.loaded.fingerprint,
            corpus=owner.corpus.fingerprint,
            sites=sites,
            kept=self.making.chosen[1],
            kinds=_kinds(owner.loaded.model, model, owner.loaded.head, [site.name for site in self.making.sites]),
            whence_version=whence.__version__,
        )


def _ranks(shapes: dict[str, Shape], settings: ProxySettings) -> dict[str, int | None]:
    if settings.share is not None:
        return spend_ranks(shapes, settings.share)
    assert settings.rank is not None
    return {name: settings.rank if settings.rank <= shape.most else None for name, shape in shapes.items()}


def _size(settings: ProxySettings) -> str:
    return f"--rank {settings.rank}" if settings.share is None else f"--share {settings.share:g}"


def _kinds(target: nn.Module, proxy: nn.Module, head: str | None, sites: Sequence[str]) -> tuple[ProxyKind, ...]:
    """Parameters by kind, before and after."""
    counts = [_counted(model, head, sites) for model in (target, proxy)]
    return tuple(
        ProxyKind(kind=kind, before=before, after=counts[1].get(kind, 0)) for kind, before in counts[0].items()
    )


def _counted(model: nn.Module, head: str | None, sites: Sequence[str]) -> dict[str, int]:
    modules, found = dict(model.named_modules()), dict[str, int]()
    for name, parameter in model.named_parameters():
        module = name.rpartition(".")[0]
        if parameter.ndim < 2:
            kind = "norms and biases"
        elif module.removesuffix(".up").removesuffix(".down") in sites:
            kind = "linear layers in the blocks"
        elif module == head or isinstance(modules.get(module), nn.Embedding):
            kind = "embeddings and head"
        else:
            kind = "expert stacks" if parameter.ndim == 3 else "others"
        found[kind] = found.get(kind, 0) + parameter.numel()
    return found


class AlignmentStep(_ProxyStep):
    """The training of the factors: one item, as no step can be taken before the last; a kill loses a tenth of it."""

    name = "alignment"

    def items(self) -> list[str]:
        """The training, if there is one."""
        return ["training"] if self.settings.steps else []

    def tokens(self, item: str) -> int:
        """About how much it reads."""
        return self._step_tokens * self.settings.steps

    @property
    def _step_tokens(self) -> int:
        corpus = self.owner.corpus
        return max(1, self.settings.batch * corpus.tokens // max(1, corpus.windows))

    def run(self, item: str, shares: tuple[int, int], advance: Advance) -> None:
        """Train from the last state that is there."""
        making, settings = self.making, self.settings
        require_done(self.folder / "start", "whence proxy")
        proxy = making.load(self.folder / "start")
        aligner = Aligner(
            self.owner.loaded.model, proxy, settings.steps, settings.rate, settings.weight, settings.temperature
        )
        every = max(1, settings.steps // _STATES)
        states = {int(path.name.rpartition("-")[2]): path for path in self.folder.glob("state-*") if is_done(path)}
        if states:
            aligner.restore(load_tensors(states[max(states)] / _FILE), max(states))
            advance(max(states) * self._step_tokens)
        windows, numbers = making.documents[0], sum(factor.numel() for factor in aligner.factors.values())
        while aligner.taken < settings.steps:
            first = aligner.taken * settings.batch
            places = np.unique(np.arange(first, first + settings.batch) % len(windows))
            aligner.step(making.pieces(windows[places], numbers))
            advance(self._step_tokens)
            if aligner.taken % every == 0 and aligner.taken < settings.steps:
                place = self.folder / f"state-{aligner.taken:06d}"
                with publish(place) as temporary:
                    save_tensors(temporary / _FILE, aligner.state())
                for old in states.values():
                    shutil.rmtree(old, ignore_errors=True)
                states = {aligner.taken: place}
        with publish(self.place(item)) as temporary:
            making.save(temporary, proxy, read_proxy_card(self.folder / "start"))
        for old in states.values():
            shutil.rmtree(old, ignore_errors=True)

    def finished(self) -> bool:
        """Whether its end is there."""
        return self.making.over or not self.settings.steps or is_done(self.place("training"))

    def finish(self) -> bool:
        """There is nothing to merge."""
        return self.finished()


class ComparisonStep(_ProxyStep):
    """Proxy and target on documents that were not aligned on; then the proxy is put where it was asked for."""

    name = "comparison"

    @property
    def _stages(self) -> dict[Stage, Path]:
        stages: dict[Stage, Path] = {"decomposed": self.folder / "start"}
        if self.settings.steps:
            stages["aligned"] = self.folder / AlignmentStep.name / "training"
        return stages

    def items(self) -> list[Stage]:
        """Stages."""
        return list(self._stages)

    def tokens(self, item: Stage) -> int:
        """About how much it reads."""
        corpus = self.owner.corpus
        return max(1, len(self.making.documents[1]) * corpus.tokens // max(1, corpus.windows))

    def run(self, item: Stage, shares: tuple[int, int], advance: Advance) -> None:
        """Measure one stage."""
        making = self.making
        proxy, windows = making.load(self._stages[item]), making.documents[1]
        numbers = sum(parameter.numel() for parameter in proxy.parameters())
        sums = np.zeros(5)
        for piece in making.pieces(windows, numbers):
            found = compared(self.owner.loaded.model, proxy, piece, 1.0, graph=False)
            ours, theirs = found.losses
            each = (found.distance, found.divergence, ours, theirs)
            sums += [*(float(value.detach().double().sum()) for value in each), int(piece.predicts.sum())]
        advance(self.tokens(item))
        tokens = max(sums[4], 1.0)
        check = ProxyCheck(
            stage=item,
            documents=len(windows),
            cosine=1.0 - sums[0] / len(windows) / 2,
            divergence=sums[1] / tokens,
            loss=sums[2] / tokens,
            target=sums[3] / tokens,
        )
        with publish(self.place(item), check.model_dump(mode="json")):
            pass

    def finished(self) -> bool:
        """Whether the proxy is there."""
        return self.making.over

    def finish(self) -> bool:
        """Put the proxy in its place."""
        if self.finished():
            return True
        if not all(self.done(item) for item in self.items()):
            return False
        checks = tuple(ProxyCheck.model_validate(read_json(self.place(item) / "done.json")) for item in self.items())
        source = list(self._stages.values())[-1]
        card = read_proxy_card(source).model_copy(update={"checks": checks})
        with publish(self.making.out, {"proxy": True}) as temporary:
            with storage_errors(self.making.out):
                shutil.copytree(source, temporary, dirs_exist_ok=True, ignore=shutil.ignore_patterns("done.json"))
            write_json(temporary / "proxy.json", card.model_dump(mode="json"))
        for left in ("start", self.name, AlignmentStep.name, DecompositionStep.name):
            shutil.rmtree(self.folder / left, ignore_errors=True)
        return True
