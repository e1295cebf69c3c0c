"""`whence proxy`: a smaller model that stands for another; torch is loaded inside."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whence.cli import options as o
from whence.cli.opening import DEFAULT_RUN, console_of, open_run, work
from whence.errors import InputError

if TYPE_CHECKING:
    from whence.attributor import Attributor
    from whence.interfaces import ProxyCard, ProxySettings

__all__ = ["proxy"]


def proxy(
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory for the proxy; not there yet, or empty.")],
    run: o.RUN = DEFAULT_RUN,
    model: o.MODEL = None,
    data: o.DATA = None,
    mix: o.MIX = None,
    config: o.CONFIG = None,
    revision: o.REVISION = None,
    tokenizer: o.TOKENIZER = None,
    dtype: o.DTYPE = None,
    attention: o.ATTENTION = None,
    device: o.DEVICE = "auto",
    min_coverage: o.MIN_COVERAGE = None,
    context: o.CONTEXT = None,
    text_field: o.TEXT_FIELD = None,
    id_field: o.ID_FIELD = None,
    sample: o.SAMPLE = None,
    seed: o.SEED = None,
    batch_tokens: o.BATCH_TOKENS = None,
    share: Annotated[
        float | None,
        typer.Option(
            help="How much to keep of the parameters of the linear layers in the blocks (default 0.25).",
            show_default=False,
        ),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="The same rank for each of them instead of a share.", show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of the alignment; 0 leaves it at the decomposition.")] = 100,
    rate: Annotated[
        float, typer.Option(help="Of the first step, as a share of the root mean square of a factor's entries.")
    ] = 0.01,
    weight: Annotated[float, typer.Option(help="Of the divergence from the model's distribution, per token.")] = 1.0,
    temperature: Annotated[float, typer.Option(help="Of the distributions that it compares.")] = 1.0,
    documents: Annotated[int, typer.Option(help="Documents to align on; a quarter as many more are held out.")] = 64,
    batch: Annotated[int, typer.Option(help="Documents of a step.")] = 8,
    shares: o.SHARES = None,
) -> None:
    """Make a smaller model that stands for a large one: linear layers as products of low rank, aligned in gradients.

    The proxy is a model directory that every command takes as --model, and that the methods `proxy:model=…` score with.
    """
    asked = {"share": share, "rank": rank, "steps": steps, "rate": rate, "weight": weight}
    asked |= {"temperature": temperature, "documents": documents, "batch": batch}
    settings = _settings(asked)
    _refuse_taken(out)
    values = {key: value for key, value in locals().items() if key not in (*asked, "asked", "settings", "out")}
    owner = open_run(run, model, data, values, device)
    card = _made(owner, settings, out, shares)
    if card is None:
        return
    from whence.report import save_proxy_page, show_proxy

    console = console_of()
    show_proxy(card, console)
    console.print(f"Proxy: {out}; page: {save_proxy_page(card, out)}", markup=False, soft_wrap=True)
    console.print(
        f"Next: whence trace --run {run} --method proxy:model={out} --prompt … --completion …",
        markup=False,
        soft_wrap=True,
    )


def _settings(asked: dict[str, Any]) -> "ProxySettings":
    """Settings as typed; options are named as they are.

    Raises:
        InputError: One is out of range.
    """
    from pydantic import ValidationError

    from whence.interfaces import ProxySettings

    try:
        return ProxySettings.model_validate(asked)
    except ValidationError as error:
        said = []
        for each in error.errors():
            place, message = ".".join(map(str, each["loc"])), each["msg"].removeprefix("Value error, ")
            said.append(f"--{place} {each['input']}: {message[0].lower()}{message[1:]}" if place else message)
        raise InputError("; ".join(said) + ".") from error


def _refuse_taken(out: Path) -> None:
    """Refuse a place that holds anything but a proxy."""
    from whence.runs import is_done

    if out.exists() and not is_done(out) and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out} is there already and is no proxy; name a directory that is empty or not there.")


def _made(owner: "Attributor", settings: "ProxySettings", out: Path, shares: str | None) -> "ProxyCard | None":
    """Make the proxy, or go on with it; None if other workers have to finish first.

    Raises:
        InputError: Another proxy lies there.
    """
    from whence.attributor.proxies import proxy_steps
    from whence.attributor.proxy_making import making_of
    from whence.attributor.steps import CorpusStep
    from whence.methods.base import ekfac_steps
    from whence.model import read_proxy_card
    from whence.runs import is_done

    if is_done(out):
        if not work(owner, [CorpusStep(owner)], shares):
            return None
        card = read_proxy_card(out)
        made_of = card.settings, card.fingerprint, card.corpus
        if made_of != (settings, owner.loaded.fingerprint, owner.corpus.fingerprint):
            raise InputError(
                f"--out {out} holds a proxy of another model, of other documents or of other settings; name another "
                "directory."
            )
        return card
    making = making_of(owner, settings, out)
    if not making.sites or not work(owner, [*ekfac_steps(owner, measured=False), *proxy_steps(making)], shares):
        return None
    return read_proxy_card(out)
