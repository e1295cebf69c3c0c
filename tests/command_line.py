"""How tests call the command line, and find what it made."""

import json
import sys
from pathlib import Path

from whence.cli import main

ASK = ("--prompt", "the harbour was", "--completion", " built before town")


def launch(*arguments: object) -> int:
    """Call the command as the console script does; its exit status."""
    before = sys.argv
    sys.argv = ["whence", *map(str, arguments)]
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


def index_of(run: Path) -> Path:
    (manifest,) = run.glob("index/*/manifest.json")
    return manifest.parent


def result(run: Path) -> dict:
    (path,) = run.glob("traces/*/result.json")
    return json.loads(path.read_text())


def hits(run: Path) -> list[dict]:
    (path,) = run.glob("traces/*/hits.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def codes(run: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in index_of(run).glob("*/codes.npy")}
