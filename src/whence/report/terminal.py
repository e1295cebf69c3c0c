"""A result as tables on a console. Knows nothing of files or pages.

Text of documents reaches the terminal only through `visible`, so no control character does, and only inside
`rich.text.Text`, so no markup is read in it. What the console's encoding cannot say is written as an escape.
"""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from whence.interfaces import Hit, RunSummary, Token, Trace, TraceResult
from whence.report.breakdowns import HEADS, MEANING, cells, scored_words
from whence.report.console import line, overflow, say
from whence.report.facts import (
    bm25_sentence,
    gaps,
    identity,
    influence_rank_words,
    place_words,
    rank_words,
    unit_words,
)
from whence.report.teaching import HEADS as TAUGHT_HEADS
from whence.report.teaching import MEANING as MEANING_OF_TAUGHT
from whence.report.teaching import TITLE as TAUGHT_TITLE
from whence.report.teaching import cells as taught_cells
from whence.report.text import (
    LEVELS,
    compact,
    count,
    level,
    nats,
    number,
    one_line,
    own,
    percent,
    scale,
    shorten,
    strongest_span,
    visible,
)

__all__ = ["show"]

_EMPHASIS = LEVELS // 2  # tokens from half the strongest on stand out
_PRO, _OPP = "bold blue", "bold yellow"
_QUESTION = 600  # characters
_ROW = 8  # characters of a row's number that its file's name is not shortened for
_NARROW = 72  # columns; below, a table leaves no room for the document


def show(result: TraceResult, console: Console, limit: int = 10) -> None:
    """Print a result.

    Args:
        result: All traces of one call.
        console: Where to; its width, colours and encoding are respected.
        limit: The most documents per table.
    """
    for trace in result.traces:
        _show_trace(trace, console, limit)
    if not result.traces:
        console.print(Text("This result holds no query."))
    _show_summary(result.summary, console)


def _show_trace(trace: Trace, console: Console, limit: int) -> None:
    console.rule(
        Text(say(console, shorten(one_line(f"query {trace.query_id}"), 60))),
        characters="-" if console.options.ascii_only else "─",
    )
    line(console, (shorten(one_line(trace.prompt), _QUESTION, "both"), "dim"))
    line(console, (shorten(one_line(trace.completion), _QUESTION, "both") or "(empty)", "bold"))
    if trace.contrast is not None:
        line(console, "rather than: ", (shorten(one_line(trace.contrast), _QUESTION, "both"), "bold"))
        line(console, f"log p(this) - log p(that) = {nats(-trace.loss if trace.loss else 0.0)} nats")
    else:
        line(console, f"loss {number(trace.loss)} nats")
    line(
        console,
        f"{scored_words(trace)}, influence {nats(trace.mean)} mean, {number(trace.std)} std ({trace.unit})",
    )
    if trace.leakage is not None:
        line(console, (trace.leakage.words, "dim"))
        if trace.leakage.warning:
            line(console, (trace.leakage.warning, "yellow"))
    _table("Proponents: documents that support the answer", trace, trace.proponents, console, limit)
    _table("Opponents: documents that oppose it", trace, trace.opponents, console, limit)
    _bm25(trace, console)
    _taught(trace, console, limit)
    _breakdowns(trace, console)


def _breakdowns(trace: Trace, console: Console) -> None:
    """Influence by tag; a group a line, or two where the console is narrow."""
    for found in trace.breakdowns:
        console.print()
        line(console, (f"Influence by {shorten(one_line(found.by), 60)}", "bold"))
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        table.add_column(Text(say(console, shorten(one_line(found.by), 20))), overflow="fold")
        for name in HEADS:
            table.add_column(name, justify="right")
        for group in found.groups:
            label = Text(say(console, shorten(one_line(group.name), 40, "end")))
            table.add_row(label, *(Text(say(console, cell)) for cell in cells(group)))
        console.print(table)
    if trace.breakdowns:
        line(console, (MEANING, "dim"))


def _table(title: str, trace: Trace, hits: Sequence[Hit], console: Console, limit: int) -> None:
    console.print()
    if not hits:
        return line(console, (title, "bold"), ": none")
    line(console, (title, "bold"))
    rows = [[count(hit.rank), nats(hit.influence), *_other_ranks(hit)] for hit in hits[:limit]]
    if console.width >= _NARROW:
        console.print(_grid(rows, hits, console, trace.unit))
    else:
        _blocks(rows, hits, console, trace.unit)
    if len(hits) > limit:
        line(console, (f"and {count(len(hits) - limit)} more", "dim"))


def _other_ranks(hit: Hit) -> tuple[str, str]:
    return rank_words(hit.bm25_rank), rank_words(hit.gradient_dot_rank)


def _side(hit: Hit) -> str:
    return "blue" if hit.influence >= 0 else "yellow"


def _grid(rows: Sequence[Sequence[str]], hits: Sequence[Hit], console: Console, unit: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, expand=True, header_style="dim")
    heads = "#", unit, "BM25", "gradient"
    for name in heads:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("document", ratio=1, no_wrap=True, overflow=overflow(console))
    taken = sum(max(len(name), *(len(row[i]) for row in rows)) + 2 for i, name in enumerate(heads))
    for row, hit in zip(rows, hits):
        cells = [Text(say(console, cell), style=_side(hit) if i == 1 else "") for i, cell in enumerate(row)]
        table.add_row(*cells, _document(hit, console, max(console.width - taken, 20)))
    return table


def _blocks(rows: Sequence[Sequence[str]], hits: Sequence[Hit], console: Console, unit: str) -> None:
    """For narrow terminals: three lines per document instead of a row."""
    for (rank, influence, lexical, gradient), hit in zip(rows, hits):
        line(console, f"{rank}. ", (influence, _side(hit)), f" {unit}  BM25 {lexical}  gradient {gradient}")
        console.print(_document(hit, console, console.width), no_wrap=True, overflow=overflow(console), crop=True)


def _document(hit: Hit, console: Console, width: int) -> Text:
    """Identity on the first line, the telling words on the second."""
    file, where = place_words(hit)
    short = shorten(one_line(file), max(width // 2 - max(len(where) - _ROW, 0), 12), "end")
    place = f"{short}{where}"
    name = shorten(one_line(identity(hit)), max(width - len(place) - 2, 12))
    text = Text.assemble((say(console, place), "dim"), "  ", (say(console, name), "bold"))
    if hit.tokens:
        text.append("\n").append_text(_snippet(hit.tokens, console, width))
    return text


def _words(token: Token) -> str:
    return " ".join(visible(token.text).split("\n")).replace("\t", " ").replace("\r", " ")


def _snippet(tokens: Sequence[Token], console: Console, width: int) -> Text:
    """As many tokens around the strongest as fit the width, in one line."""
    tokens, size = own(tokens), max(width // 3, 1)
    start, stop = strongest_span(tokens, size)
    while size > 1 and sum(len(_words(token)) for token in tokens[start:stop]) > width - 4:
        size -= max(size // 10, 1)
        start, stop = strongest_span(tokens, size)
    largest = scale([token.influence for token in tokens])
    text = Text(say(console, "…") if start else "")
    for token in tokens[start:stop]:
        text.append_text(_emphasised(token, largest, console))
    return text.append(say(console, "…") if stop < len(tokens) else "")


def _emphasised(token: Token, largest: float, console: Console) -> Text:
    words = say(console, _words(token))
    step = level(token.influence, largest)
    if abs(step) < _EMPHASIS or not words.strip():
        return Text(words)
    blank = words[: len(words) - len(words.lstrip())]
    if console.is_terminal and not console.no_color:
        return Text.assemble(blank, (words.strip(), _PRO if step > 0 else _OPP))
    return Text(f"{blank}*{words.strip()}*")  # no colours in a pipe


def _bm25(trace: Trace, console: Console) -> None:
    console.print()
    line(console, ("What BM25 would have said", "bold"))
    for place, hit in enumerate(trace.bm25_top[:3], start=1):
        rank = hit.bm25_rank if hit.bm25_rank is not None else place
        where = f"{shorten(one_line(hit.source), 40, 'end')}:{hit.row}"
        told = f"influence {nats(hit.influence)} {trace.unit}, rank {influence_rank_words(trace, hit)}"
        line(
            console,
            f"  {count(rank)}. ",
            (shorten(one_line(identity(hit)), 50), "bold"),
            "  ",
            (where, "dim"),
            "  ",
            told,
        )
    line(console, bm25_sentence(trace))


def _taught(trace: Trace, console: Console, limit: int) -> None:
    """Which documents taught the statement, if that was asked."""
    if not trace.taught:
        return
    console.print()
    line(console, (TAUGHT_TITLE, "bold"))
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in TAUGHT_HEADS:
        table.add_column(name, justify="right")
    table.add_column("document", no_wrap=True, overflow=overflow(console))
    for found in trace.taught[:limit]:
        label = f"{shorten(one_line(found.id), 40)}  {shorten(one_line(found.excerpt), 60)}"
        table.add_row(*(Text(say(console, cell)) for cell in taught_cells(found)), Text(say(console, label)))
    console.print(table)
    line(console, (MEANING_OF_TAUGHT, "dim"))


def _show_summary(summary: RunSummary, console: Console) -> None:
    coverage = summary.coverage
    console.print()
    line(
        console,
        f"coverage: {percent(coverage.share)} of {compact(coverage.parameters)} parameters attributed",
        _missing(summary),
    )
    line(console, one_line(summary.certificate.line))
    settings = (
        f"settings: {summary.method}; {summary.recipe}; damping {summary.damping}; {count(summary.documents)} "
        f"documents ({count(summary.skipped)} skipped); trained on {count(summary.trained_on)}"
    )
    line(console, one_line(settings))
    for note in summary.notes:
        line(console, one_line(note))
    line(console, (f"influence > 0 supports the answer; {unit_words(summary.unit)}", "dim"))


def _missing(summary: RunSummary) -> str:
    found = [
        f"{shorten(one_line(gap.kind), 40)} {compact(gap.parameters)} ({shorten(one_line(gap.reason), 60)})"
        for gap in gaps(summary.coverage)[:3]
    ]
    return f"; not: {', '.join(found)}" if found else "; nothing is left out"
