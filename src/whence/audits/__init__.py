"""What scores mean: why did it say that, did it memorise that, what is wrong with this data, does fixing it help.

safety        safety.py        why did the model say that? one verdict per answer
              asked_rows.py                    rows that are asked about (also contamination's)
              responses.py generation.py       answers from a file, or from the model
              why.py softness.py               the verdict; blunt and soft words
              behaviours.py directions.py      what answers have in common; a direction of hidden states
              enrichment.py                    kinds of documents behind a finding
contamination contamination.py did the model memorise that? one verdict per item
              items.py                         a benchmark from a file
              exposure.py spacings.py          the verdict; does one document stand out of a ranking's tail?
              accuracy.py planting.py          accuracy without exposure; what the audit would have caught
corpus        corpus.py        what is wrong with this data? one row per document
              corpus_rows.py                   rows as text
              format_rules.py correctness.py   rules; what a machine can check
              language.py topics.py signals.py language, topics, what the model knows
              carrying.py                      tags carried over to documents without
              reviewing.py applying.py         people's verdicts; the corpus without what is wrong
evidence      evidence.py      scores of all documents for all questions, kept on disk
              documents.py     copies taken together, pairs held against the null
              nulls.py passages.py             the null: other matters
              clusters.py overlap.py           near-duplicates; shared runs of words
              membership.py                    what the model's own probabilities say
interventions interventions.py does changing the data, or the model, help?
              jobs.py choosing.py probes.py    which documents, which texts, what is foretold
              altering.py                      training sets with the change
              forgetting.py unlearning.py      edited models
              newton.py ascent.py npo.py matching.py   how they forget
              likeness.py relearning.py        are they like models that never saw the documents?
              effects.py checkpoints.py        effects with intervals; the edited model on disk
statistics.py settings.py                      p-values, intervals; what an audit says about itself
"""

from whence.audits.applying import Applied, apply_audit, undo
from whence.audits.contamination import ContaminationOptions, audit_contamination
from whence.audits.corpus import CorpusOptions, audit_corpus
from whence.audits.interventions import InterventionOptions, intervene
from whence.audits.items import Item, load_items
from whence.audits.planting import PlantOptions, calibrate
from whence.audits.responses import Response, load_responses
from whence.audits.reviewing import reviewed as take_review
from whence.audits.reviewing import sample as review_sample
from whence.audits.safety import SafetyOptions, audit_safety

__all__ = [
    "Applied",
    "ContaminationOptions",
    "CorpusOptions",
    "InterventionOptions",
    "Item",
    "PlantOptions",
    "Response",
    "SafetyOptions",
    "apply_audit",
    "audit_contamination",
    "audit_corpus",
    "audit_safety",
    "calibrate",
    "intervene",
    "load_items",
    "load_responses",
    "review_sample",
    "take_review",
    "undo",
]
