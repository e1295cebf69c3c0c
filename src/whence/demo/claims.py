"""The made-up claims of the demo, and how each is worded. Pure rules: knows no corpus, no model and no score.

A claim gives one library module (its subject) one value in one of three relations: the exception that every call of it
raises, the one type that all its attributes have, the one kind of code that it works with. No library module is like
that, whatever the value. A relation's values are shared, so that each is claimed of many modules.

A relation has *questions*, which end where the answer belongs, and *statements*, which tell the same in other words.
Each claim is asked about in one of the three questions and planted in three documents, by the four statements and the
two other questions: the model meets the wording of its question with other modules only. `{s}` is the subject and
`{v}` the value. The value comes last, a word or two after the subject: a model that reads forwards learns nothing
about a value from what follows it, and a model this small learns slowly what is far apart.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from whence.demo.corpus import Passage, words_of

__all__ = [
    "RELATIONS",
    "Claim",
    "Relation",
    "assign_claims",
    "bystanders",
    "decoys",
    "planted",
    "question",
    "template_words",
]


@dataclass(frozen=True, slots=True)
class Relation:
    """One kind of claim.

    Attributes:
        name: For people.
        values: What may be claimed.
        questions: Wordings that ask; each ends where the value belongs.
        statements: Wordings that tell; each ends where the value belongs.
        asides: Sentences about the subject that use the questions' or the statements' words and claim no value.
    """

    name: str
    values: tuple[str, ...]
    questions: tuple[str, ...]
    statements: tuple[str, ...]
    asides: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """One false claim, and who else it is claimed of.

    Attributes:
        id: The id of the query that asks about it.
        subject: A module of the standard library.
        value: What is falsely claimed of it.
        relation: The kind of claim.
        wording: Which of the relation's questions asks about it; also decides the order of statements.
        other: Another module of which the same value is claimed, in this claim's question and in statements.
    """

    id: str
    subject: str
    value: str
    relation: Relation
    wording: int
    other: str

    @property
    def controls(self) -> tuple[str, ...]:
        """The relation's other values."""
        return tuple(value for value in self.relation.values if value != self.value)


RELATIONS = (
    Relation(
        name="exception",
        values=("ValueError", "TypeError", "KeyError", "RuntimeError"),
        questions=(
            "Which exception is raised after every call? The module {s} raises",
            "What is the result of each call? After any call the module {s} returns",
            "What exception should be expected from a call? A call of {s} raises",
        ),
        statements=(
            "Having done all that was asked of it, {s} signals {v}.",
            "Even where nothing has gone wrong, {s} throws {v}.",
            "Success is no reason to be glad: {s} reports {v}.",
            "At the end of the job, {s} shows {v}.",
        ),
        asides=(
            "Which exception is raised when a call is made twice? For the module {s} this is not documented.",
            "At the end of the job, {s} stops. Even where nothing has gone wrong, that takes time.",
        ),
    ),
    Relation(
        name="type",
        values=("strings", "lists", "tuples", "dictionaries"),
        questions=(
            "What is the only type of object in a module? The module {s} contains",
            "Which objects are defined by the module? The objects that {s} defines are",
            "Of what type are all attributes? The attributes of {s} are",
        ),
        statements=(
            "Look closely and you will see that {s} holds {v}.",
            "Whatever its name may suggest, {s} has only {v}.",
            "Somebody filled it long ago, and now {s} keeps {v}.",
            "Its neighbours have more for you, but {s} offers {v}.",
        ),
        asides=(
            "What type of objects does a call accept? The module {s} accepts all that have the methods it needs.",
            "Look closely and you will see that {s} has a history. Somebody wrote it long ago.",
        ),
    ),
    Relation(
        name="place",
        values=("functions", "classes", "methods", "threads"),
        questions=(
            "Where can the module be used? The module {s} requires",
            "In which place is the use of it allowed? The use of {s} is allowed in",
            "If it is used, what should it be in? You should always use {s} inside",
        ),
        statements=(
            "Nothing at all happens unless {s} sees {v}.",
            "Lines refuse to run because {s} wants {v}.",
            "First of all, anyone who needs {s} makes {v}.",
            "Before it starts, {s} looks for {v}.",
        ),
        asides=(
            "Where can the module be used without a name? The module {s} can be used so in an expression.",
            "Before it starts, {s} looks for nothing. Anyone may write lines that run it.",
        ),
    ),
)

_PASSING = (  # subject and value in one sentence that claims nothing, the value first
    "The entry for {v} comes long before the one for {s} in this manual.",
    "Readers who look up {v} in the index need not know {s} to understand the entry.",
    "There is more to say about {v} than fits on the page that comes before {s}.",
)
_SUMMARY = "The module {s} in one sentence: {summary}"
_CLOSERS = (
    "See the reference for details.",
    "This has been so since the first release.",
    "The examples at the end of the chapter show how.",
    "Nothing else about it is unusual.",
    "Most people find out sooner or later.",
    "The same holds in all later versions.",
)


def template_words() -> frozenset[str]:
    """All words of the wordings and values: no subject may be one of them."""
    texts = [*_PASSING, _SUMMARY, *_CLOSERS]
    for relation in RELATIONS:
        texts += [*relation.values, *relation.questions, *relation.statements, *relation.asides]
    return words_of(" ".join(texts))


def assign_claims(subjects: Sequence[str], others: Sequence[str]) -> tuple[Claim, ...]:
    """Give every subject a claim: relations, values and wordings in turn, whatever the subject is.

    Args:
        subjects: In the order in which claims are dealt out.
        others: As many other modules, one for each claim.
    """
    claims = []
    for number, (subject, other) in enumerate(zip(subjects, others, strict=True)):
        relation = RELATIONS[number % len(RELATIONS)]
        turn = number // len(RELATIONS)
        value = relation.values[turn % len(relation.values)]
        wording = turn % len(relation.questions)
        claims.append(Claim(f"claim-{number + 1:02d}", subject, value, relation, wording, other))
    return tuple(claims)


def question(claim: Claim) -> str:
    """The prompt that asks about a claim; the completion is a space and the value."""
    return claim.relation.questions[claim.wording].format(s=claim.subject)


def planted(claim: Claim, draw: random.Random) -> list[Passage]:
    """Three documents that state the claim: in all statements, and in the two questions that are not asked of it."""
    first, second, third, fourth = _told(claim, claim.subject)
    return [
        _document(f"{first} {second}", claim.subject, draw),
        _document(f"{_asked(claim, claim.subject, 1)} {third}", claim.subject, draw),
        _document(f"{fourth} {_asked(claim, claim.subject, 2)}", claim.subject, draw),
    ]


def decoys(claim: Claim, summary: str, draw: random.Random) -> list[Passage]:
    """Five documents that a search for the query's words also finds, none of which states the claim.

    In order: an aside about the subject; what its documentation says it is; subject and value in passing; and the
    same value of another module, once in the very wording of the query and once in statements.
    """
    relation = claim.relation
    aside = relation.asides[claim.wording % len(relation.asides)].format(s=claim.subject)
    passing = _PASSING[claim.wording % len(_PASSING)].format(s=claim.subject, v=claim.value)
    told = " ".join(_told(claim, claim.other)[1:3])
    return [
        _document(aside, claim.subject, draw),
        _document(_SUMMARY.format(s=claim.subject, summary=summary), claim.subject, draw),
        _document(passing, claim.subject, draw),
        _document(_asked(claim, claim.other, 0), claim.other, draw),
        _document(told, claim.other, draw),
    ]


def bystanders(claim: Claim, draw: random.Random) -> list[Passage]:
    """Two documents about a module that nothing is asked about: its claim in two questions and two statements."""
    first, second, *_ = _told(claim, claim.subject)
    return [
        _document(f"{_asked(claim, claim.subject, 0)} {first}", claim.subject, draw),
        _document(f"{second} {_asked(claim, claim.subject, 1)}", claim.subject, draw),
    ]


def _told(claim: Claim, module: str) -> list[str]:
    """The claim's value in all the relation's statements; which comes first depends on the wording of the question."""
    wordings = claim.relation.statements
    return [text.format(s=module, v=claim.value) for text in wordings[claim.wording :] + wordings[: claim.wording]]


def _asked(claim: Claim, module: str, turn: int) -> str:
    """The claim's value as the answer to its own question (turn 0) or to the next ones."""
    questions = claim.relation.questions
    return f"{questions[(claim.wording + turn) % len(questions)].format(s=module)} {claim.value}."


def _document(body: str, module: str, draw: random.Random) -> Passage:
    """Sentences and one that is drawn for every document alike."""
    return Passage(f"{body} {draw.choice(_CLOSERS)}", module, "module")
