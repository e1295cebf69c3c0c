"""What people look at: a result as a terminal table, as files, and as one self-contained page. Knows no torch.

files.py      result.json, hits.jsonl, hits.parquet, page.html; and back
terminal.py   tables for the console
html.py       the page: its frame and each query's section
cards.py      a hit; what BM25 would have named
tokens.py     shaded tokens
figures.py    bars, site profiles, rank against rank
about.py      certificate, coverage, settings
facts.py      what can be said about a trace, rendered nowhere
markup.py     HTML that escapes by default
text.py       words and numbers for people; hidden characters made visible
page/         page.html, style.css, page.js
"""

from whence.report.files import load, save
from whence.report.html import page
from whence.report.terminal import show

__all__ = ["load", "page", "save", "show"]
