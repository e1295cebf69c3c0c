"""What scores mean: why did it say that, did it memorise that, what is wrong with this data, does fixing it help.

safety        safety.py        why did the model say that? one verdict per answer
              asked_rows.py                    rows that are asked about (also contamination's)
              responses.py generation.py       answers from a file, or from the model
              wordings.py                      does it hold when the question is worded otherwise?
              why.py softness.py               the verdict; blunt and soft words
              behaviours.py directions.py      what answers have in common; a direction of hidden states
              enrichment.py                    kinds of documents behind a finding
contamination contamination.py did the model memorise that? one verdict per item
              items.py                         a benchmark from a file
              exposure.py spacings.py          the verdict; does one document stand out of a ranking's tail?
              accuracy.py planting.py          accuracy without exposure; what the audit would have caught
corpus        corpus.py        what is wrong with this data? one row per document
              corpus_rows.py                   rows as text
              format_rules.py encodings.py     rules; text decoded anew where that is certain
              datatrove_filters.py             what datatrove's own filters refuse
              correctness.py                   what a machine can check
              language.py topics.py signals.py language, topics, what the model knows
              disagreement.py                  tags that documents nearest by gradient speak against
              carrying.py                      tags carried over to documents without
              reviewing.py applying.py         people's verdicts; the corpus without what is wrong
evidence      evidence.py      scores of all documents for all questions, kept on disk
              documents.py     copies taken together, pairs held against the null
              nulls.py passages.py             the null: other matters
              clusters.py overlap.py           near-duplicates; shared runs of words
              membership.py                    what the model's own probabilities say
interventions interventions.py does changing the data, or the model, help?
              jobs.py choosing.py probes.py    which documents, which texts, what is foretold
              asked.py                         targets from any file of answers, or from an audit
              plans.py                         all trainings, counted beforehand
              altering.py                      training sets with the change
              forgetting.py unlearning.py      edited models
              newton.py ascent.py npo.py matching.py   how they forget
              likeness.py relearning.py        are they like models that never saw the documents?
              effects.py checkpoints.py        effects with intervals; the edited model on disk
statistics.py settings.py                      p-values, intervals; what an audit says about itself

The names below are loaded when first used: reading a file of answers, or auditing a corpus without a model, needs no
torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whence.audits.applying import Applied as Applied
    from whence.audits.applying import apply_audit as apply_audit
    from whence.audits.applying import undo as undo
    from whence.audits.asked import Asked as Asked
    from whence.audits.asked import asked_by_audit as asked_by_audit
    from whence.audits.asked import load_targets as load_targets
    from whence.audits.contamination import ContaminationOptions as ContaminationOptions
    from whence.audits.contamination import audit_contamination as audit_contamination
    from whence.audits.corpus import CorpusOptions as CorpusOptions
    from whence.audits.corpus import audit_corpus as audit_corpus
    from whence.audits.interventions import InterventionOptions as InterventionOptions
    from whence.audits.interventions import intervene as intervene
    from whence.audits.items import Item as Item
    from whence.audits.items import load_items as load_items
    from whence.audits.planting import PlantOptions as PlantOptions
    from whence.audits.planting import calibrate as calibrate
    from whence.audits.responses import Response as Response
    from whence.audits.responses import load_responses as load_responses
    from whence.audits.reviewing import reviewed as take_review
    from whence.audits.reviewing import sample as review_sample
    from whence.audits.safety import SafetyOptions as SafetyOptions
    from whence.audits.safety import audit_safety as audit_safety

_HOMES = {
    "Applied": "applying",
    "Asked": "asked",
    "ContaminationOptions": "contamination",
    "CorpusOptions": "corpus",
    "InterventionOptions": "interventions",
    "Item": "items",
    "PlantOptions": "planting",
    "Response": "responses",
    "SafetyOptions": "safety",
    "apply_audit": "applying",
    "asked_by_audit": "asked",
    "audit_contamination": "contamination",
    "audit_corpus": "corpus",
    "audit_safety": "safety",
    "calibrate": "planting",
    "intervene": "interventions",
    "load_items": "items",
    "load_responses": "responses",
    "load_targets": "asked",
    "review_sample": "reviewing.sample",
    "take_review": "reviewing.reviewed",
    "undo": "applying",
}

__all__ = [
    "Applied",
    "Asked",
    "ContaminationOptions",
    "CorpusOptions",
    "InterventionOptions",
    "Item",
    "PlantOptions",
    "Response",
    "SafetyOptions",
    "apply_audit",
    "asked_by_audit",
    "audit_contamination",
    "audit_corpus",
    "audit_safety",
    "calibrate",
    "intervene",
    "load_items",
    "load_responses",
    "load_targets",
    "review_sample",
    "take_review",
    "undo",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'whence.audits' has no attribute {name!r}; it has {', '.join(__all__)}")
    home, _, called = _HOMES[name].partition(".")
    return getattr(import_module(f"whence.audits.{home}"), called or name)


def __dir__() -> list[str]:
    return __all__
