"""What people look at: a result as a terminal table, as files, and as one self-contained page. Knows no torch.

files.py            result.json, hits.jsonl, hits.parquet, page.html; and back
terminal.py         tables for the console
html.py             the page: its frame and each query's section
cards.py            a hit; what BM25 would have named
tokens.py           shaded tokens
figures.py          bars, site profiles, rank against rank
breakdowns.py       influence added up by tag
about.py            certificate, coverage, settings
facts.py            what can be said about a trace, rendered nowhere

lab_files.py        results.json, table.csv, table.md, page.html and the plots of a lab result; and back
lab_terminal.py     a lab result and a certificate for the console
lab_page.py         the lab's page: table, plots, measure by measure
lab_figures.py      a measure as a forest plot
plots.py            fidelity against cost and bytes: PNG, SVG, interactive
lab_points.py       what such a plot shows and where
lab_labels.py       where names go beside points
pareto.py           which methods none other beats
lab_table.py        a lab result as rows and columns, rendered nowhere
lab_certificate.py  the figures behind a certificate, rendered nowhere
lab_words.py        what each measure means, and how its numbers are written

safety_page.py      why a model said what it said
contamination_page.py   memorised or generalised
quality_page.py     what is wrong with a corpus
proxy_page.py       what is left of a model that was made into a proxy
quality_files.py    the same on disk, and for the console
intervention_page.py   what a repair did, held against others
intervention_files.py  the same on disk, and back
intervention_terminal.py  the same for the console
audit_files.py      an audit of answers on disk, and back
audit_terminal.py   the same for the console
audit_words.py      how such audits say things
audit_frame.py      what the pages of all audits share
charts.py           small charts: bars, lines, points, histograms

console.py          text on a console that cannot harm it
frame.py            a page in one file, under a strict policy
records.py          results as JSON and back
markup.py           HTML that escapes by default
text.py             words and numbers for people; hidden characters made visible
page/               templates, style sheets and scripts of the pages
"""

from whence.report.audit_files import load_contamination, load_safety, save_contamination, save_safety
from whence.report.audit_terminal import show_contamination, show_safety
from whence.report.files import load, save
from whence.report.html import page
from whence.report.intervention_files import load_intervention, save_intervention
from whence.report.intervention_terminal import show_intervention
from whence.report.lab_files import load_lab, save_lab
from whence.report.lab_terminal import show_certificate, show_lab
from whence.report.proxy_page import save_proxy_page, show_proxy
from whence.report.quality_files import load_corpus_audit, read_reports, save_corpus_audit, show_corpus_audit
from whence.report.terminal import show

__all__ = [
    "load",
    "load_contamination",
    "load_corpus_audit",
    "load_intervention",
    "load_lab",
    "load_safety",
    "page",
    "read_reports",
    "save",
    "save_contamination",
    "save_corpus_audit",
    "save_intervention",
    "save_lab",
    "save_proxy_page",
    "save_safety",
    "show",
    "show_certificate",
    "show_contamination",
    "show_corpus_audit",
    "show_intervention",
    "show_lab",
    "show_proxy",
    "show_safety",
]
