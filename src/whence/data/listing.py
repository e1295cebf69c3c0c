"""A corpus as its files: what was typed, with the weight and tags of each source and the attribute files beside it.

Reads no row. sources.py knows paths, attributes.py knows which files belong together; here they meet.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from whence.data.attributes import beside
from whence.data.config import CorpusConfig, SourceSettings
from whence.data.hub import hub_id, resolve
from whence.data.sources import Listing, SourceFile, find_files
from whence.errors import CorpusError
from whence.runs import read_json

__all__ = ["corpus_files", "stored_revisions"]


def stored_revisions(folder: Path) -> dict[str, str]:
    """Commits of the hub's datasets that a corpus was begun with: data argument -> commit."""
    path = folder / "settings.json"
    return dict(read_json(path).get("revisions", {})) if path.is_file() else {}


def _from_hub(given: str, known: Mapping[str, str]) -> SourceFile | None:
    """A dataset on the hub as a source, if that is what is meant."""
    wanted = hub_id(given)
    if wanted is None:
        return None
    commit = known.get(given) or resolve(wanted)
    return SourceFile(given, wanted.name, None, given, -1, commit, hub=wanted)


def _found(given: str, known: Mapping[str, str]) -> Listing:
    """The files of one argument; what is no file here may be a dataset on the hub."""
    try:
        return find_files([given])
    except CorpusError:
        source = _from_hub(given, known)
        if source is None:
            raise
        return Listing((source,), (), {given: source.sample})


def _of_source(file: SourceFile, source: SourceSettings) -> SourceFile:
    label = {} if source.label is None else {"label": source.label}
    return replace(file, weight=source.weight, tags={**source.tags, **label})


def corpus_files(config: CorpusConfig, revisions: Mapping[str, str] | None = None) -> Listing:
    """The files of a corpus in order, ready to be read.

    Args:
        config: What to read.
        revisions: Commits to keep to, data argument -> commit; the newest of what is not in it.

    Raises:
        CorpusError: Something is missing, matches nothing, may not be read, or the hub cannot be reached.
    """
    files: list[SourceFile] = []
    ignored: list[str] = []
    commits: dict[str, str] = {}
    sources = config.sources or (SourceSettings(),) * len(config.data)
    for given, source in zip(config.data, sources, strict=True):
        listing = _found(given, revisions or {})
        files.extend(_of_source(file, source) for file in listing.files)
        ignored.extend(listing.ignored)
        commits.update(listing.revisions)
    return Listing(tuple(beside(files, config.attributes)), tuple(ignored), commits)
