"""What became of a model that was made into a proxy: tables for the console, and one page."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from whence.interfaces import ProxyCard, ProxySite
from whence.report.audit_frame import Column, Section, audit_page, figure, table
from whence.report.charts import bars
from whence.report.console import say
from whence.report.markup import Html
from whence.report.text import MISSING, count, number, percent, shorten
from whence.runs import write_bytes

__all__ = ["proxy_page", "save_proxy_page", "show_proxy"]

_MOST = 60  # sites in the plot
_READING = (
    "The error of a layer is half its weighted squared change: the nats by which -log p of a document is expected to "
    "move, by K-FAC's quadratic form, each layer on its own. Small errors are telling; large ones only say that much "
    "is lost. What the proxy does is measured on documents that it was not aligned on."
)


def show_proxy(card: ProxyCard, console: Console) -> None:
    """Parameters by kind, errors, and what the proxy is like."""
    sizes = _table(f"A proxy of {shorten(card.target, 60)}", ("parameters", "target", "proxy", "kept"))
    for kind, before, after in _kinds(card):
        sizes.add_row(kind, count(before), count(after), percent(after / max(before, 1)))
    console.print(sizes)
    error, even, size = (sum(getattr(site, key) for site in card.sites) for key in ("error", "even", "size"))
    even_words = f"; the same share everywhere would lose {number(even)}" if card.settings.share is not None else ""
    lines = [
        f"Weighted error: {number(error)} nats per document ({percent(error / max(size, 1e-300))} of what is there)"
        f"{even_words}",
        f"{_products(card)} Embeddings, head, norms, biases and stacks of experts stay as they are.",
    ]
    lines += [f"  {name}: kept ({reason})" for name, reason in list(card.kept.items())[:4]]
    for line in lines:
        console.print(say(console, line), markup=False, highlight=False)
    checks = _table("On documents held out", ("stage", "gradient cosine", "KL, nats/token", "loss, nats/token"))
    for check in card.checks:
        checks.add_row(check.stage, f"{check.cosine:.3f}", f"{check.divergence:.4f}", f"{check.loss:.3f}")
    if card.checks:
        checks.add_row("target", "1.000", "0.0000", f"{card.checks[0].target:.3f}")
        console.print(checks)


def _table(title: str, heads: tuple[str, ...]) -> Table:
    made = Table(title=title, title_justify="left")
    for place, head in enumerate(heads):
        made.add_column(head, justify="right" if place else "left")
    return made


def _kinds(card: ProxyCard) -> list[tuple[str, int, int]]:
    rows = [(kind.kind, kind.before, kind.after) for kind in card.kinds]
    return [*rows, ("all", sum(before for _, before, _ in rows), sum(after for *_, after in rows))]


def _products(card: ProxyCard) -> str:
    """How many layers are products now, and of which ranks."""
    ranks = sorted(card.ranks.values())
    whole = len(card.sites) - len(ranks)
    said = f"{count(len(ranks))} of {count(len(card.sites))} linear layers are products now, of rank "
    said += str(ranks[0]) if ranks[0] == ranks[-1] else f"{ranks[0]} to {ranks[-1]}"
    return said + (f"; {count(whole)} stay whole, which costs less than they are worth." if whole else ".")


def proxy_page(card: ProxyCard) -> str:
    """The page: sizes, errors layer by layer, what the proxy is like."""
    _, before, after = _kinds(card)[-1]
    error, even = (sum(getattr(site, key) for site in card.sites) for key in ("error", "even"))
    last = card.checks[-1] if card.checks else None
    kept, linear = percent(after / max(before, 1)), percent(_linear_share(card))
    said = f"{kept} of the parameters, {linear} of those in linear layers."
    if last is not None:
        said += (
            f" On {count(last.documents)} documents held out its gradients have a cosine of {last.cosine:.3f} with the "
            f"target's, and it diverges by {last.divergence:.4f} nats per token."
        )
    sizes = table(
        [Column("parameters"), *(Column(head, "number") for head in ("target", "proxy")), Column("kept")],
        [[kind, b, a, percent(a / max(b, 1))] for kind, b, a in _kinds(card)],
    )
    checks = table(
        [
            Column("stage"),
            *(Column(head, "number", 4) for head in ("gradient cosine", "KL, nats per token", "loss", "target")),
        ],
        [[each.stage, each.cosine, each.divergence, each.loss, each.target] for each in card.checks],
    )
    return audit_page(
        title=f"Proxy of {shorten(card.target, 60)} – whence",
        question="What is left of the model?",
        headline=Html(said),
        facts=[
            ("Target", card.target),
            ("Layers that are products", f"{count(len(card.ranks))} of {count(len(card.sites))}"),
            ("Weighted error", f"{number(error)} nats per document; {number(even)} with the same share everywhere"),
        ],
        sections=[
            Section("like", "What it is like", checks),
            Section("sizes", "What is kept", sizes),
            Section("errors", "Error by layer", Html(figure(_drawn(card), "Error by layer") + _sites(card.sites))),
        ],
        settings=card.settings.model_dump(mode="json"),
        version=card.whence_version,
        note=_READING,
    )


def _linear_share(card: ProxyCard) -> float:
    before = sum(site.outputs * site.inputs for site in card.sites)
    after = sum(
        (site.outputs + site.inputs) * site.rank if site.rank else site.outputs * site.inputs for site in card.sites
    )
    return after / max(before, 1)


def _drawn(card: ProxyCard) -> str:
    """Errors of the sites with the largest, as chosen and with the same share everywhere, in the model's order."""
    largest = sorted(card.sites, key=lambda site: -max(site.error, site.even))[:_MOST]
    rows = [
        {"site": site.name, "nats": value, "ranks": kind}
        for site in card.sites
        if site in largest
        for kind, value in (("as spent", site.error), ("same share everywhere", site.even))
    ]
    title = "Error by layer" + (f", the {_MOST} largest" if len(card.sites) > _MOST else "")
    return bars(rows, x="nats", y="site", title=title, unit="nats per document", color="ranks", prefix="proxy")


def _sites(sites: tuple[ProxySite, ...]) -> Html:
    columns = [Column("layer"), Column("outputs", "number"), Column("inputs", "number"), Column("rank", "number")]
    columns += [Column(head, "number") for head in ("error", "same share everywhere", "of")]
    rows = [[s.name, s.outputs, s.inputs, s.rank, s.error, s.even, s.size] for s in sites]
    return table(columns, [[MISSING if cell is None else cell for cell in row] for row in rows], "layers")


def save_proxy_page(card: ProxyCard, folder: Path) -> Path:
    """Write the page beside the proxy; its path."""
    path = folder / "proxy.html"
    write_bytes(path, proxy_page(card).encode("utf-8"))
    return path
