"""What in a text a machine can check: sums, chains of thought, final answers, JSON and Python in fences.

    arithmetic   48 / 2 = 24, <<48/2=24>>, 16 - 3 - 4 = 9: both sides are computed with fractions, exactly; a result
                 given with n decimals may be rounded to n decimals
    answer       the number after #### or "the answer is", against the last result of the steps, and against a gold one
    wrong chain  a step is wrong though the final answer is right: the step is the finding, not the answer
    units        a result in another unit than both sides of a sum were in
    json, code   what stands in a fence marked json or python does not parse

Nothing is executed. Prose without sums is not judged.
"""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from whence.audits.corpus_rows import RawDocument
from whence.interfaces.quality import Issue

__all__ = ["Step", "correctness_issues", "final_answer", "steps", "value_of"]

_NUMBER = r"[$€£]?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)%?"
_AFTER = r"(?<![\w.,)%$])(?<![-+*/×÷=])(?<![-+*/×÷=\d)]\s)"  # the sum does not go on to the left
_SUM = re.compile(
    rf"{_AFTER}(?P<left>\(*\s*{_NUMBER}\)*(?:\s*[-+*/x×÷−]\s*\(*\s*{_NUMBER}\)*)+)\s*=\s*"
    rf"(?P<right>-?\s*{_NUMBER})(?!\s*[-+*/x×÷(]|\s?[\d.]*\d|,\d)"
)
_CALCULATOR = re.compile(r"<<(?P<left>[^<>=]{1,80})=(?P<right>[^<>=]{1,30})>>")
_FINAL = re.compile(
    rf"(?:####|\b(?:final\s+)?answer\s*(?:is|:|=)|\bA:)\s*(?P<value>-?{_NUMBER})(?!,?\d)"
    rf"|\\boxed\{{(?P<boxed>-?{_NUMBER})\}}",
    re.I,
)
_FENCE = re.compile(r"```(?P<kind>json|python|py)\s*\n(?P<body>.*?)```", re.S | re.I)


@dataclass(frozen=True, slots=True)
class Step:
    """One sum of a chain.

    Attributes:
        start, stop: Its characters.
        left, right: As written.
        said: Value of the right side.
        true: Value of the left side, computed.
    """

    start: int
    stop: int
    left: str
    right: str
    said: Fraction
    true: Fraction

    @property
    def right_sum(self) -> bool:
        """Whether both sides are the same, up to the decimals that are given."""
        places = len(self.right.partition(".")[2].rstrip("% ")) if "." in self.right else 0
        if self.said == self.true:
            return True
        if abs(self.true - self.said) <= Fraction(1, 2) / 10**places and (places or self.true.denominator > 1):
            return True
        return "%" in self.left + self.right and self.said in (self.true * 100, self.true / 100)


def value_of(expression: str) -> Fraction | None:
    """The value of a sum of numbers with + - * / and brackets, exactly; None if it is none or divides by zero.

    >>> value_of("(16 - 3 - 4) * $2.50"), value_of("1/0"), value_of("a+1")
    (Fraction(45, 2), None, None)
    """
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", expression)
    text = re.sub(r"[$€£\s]", "", text).replace("×", "*").replace("x", "*").replace("÷", "/").replace("−", "-")
    text = re.sub(r"(\d+(?:\.\d+)?)%", r"(\1/100)", text)
    text = re.sub(r"(?<![\d.])0+(?=\d)", "", text)
    try:
        return _computed(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _computed(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        inner = _computed(node.operand)
        return -inner if isinstance(node.op, ast.USub) else inner
    if isinstance(node, ast.BinOp):
        left, right = _computed(node.left), _computed(node.right)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Div):
            return left / right
    raise ValueError("not a sum")


def steps(text: str) -> list[Step]:
    """The sums of a text in order; where a calculator's mark repeats one, the mark counts."""
    found = [_step(match) for match in _CALCULATOR.finditer(text)]
    marked = [(match.start(), match.end()) for match in _CALCULATOR.finditer(text)]
    for match in _SUM.finditer(_without_marks(text)):
        # a sum written out right before its mark is the same sum
        if not any(start - 4 <= match.end("left") + 6 and match.start() <= stop for start, stop in marked):
            found.append(_step(match))
    return sorted((each for each in found if each is not None), key=lambda each: each.start)


def _without_marks(text: str) -> str:
    """Marks blanked out, places kept."""
    return _CALCULATOR.sub(lambda match: " " * len(match.group()), text)


def _step(match: re.Match[str]) -> Step | None:
    left, right = match["left"], match["right"]
    true, said = value_of(left), value_of(right)
    if true is None or said is None:
        return None
    return Step(match.start(), match.end(), left.strip(), right.strip(), said, true)


def final_answer(text: str) -> Fraction | None:
    """The number that a text ends in as its answer, if it marks one."""
    found = list(_FINAL.finditer(text))
    return value_of(found[-1]["value"] or found[-1]["boxed"]) if found else None


def correctness_issues(document: RawDocument) -> list[Issue]:
    """All that can be checked and is wrong."""
    out: list[Issue] = []
    for field, text in document.texts.items():
        out += [*_chain(document, field, text), *_fences(field, text), *_units(field, text)]
    return out


def _chain(document: RawDocument, field: str, text: str) -> Iterator[Issue]:
    found = steps(text)
    wrong = [step for step in found if not step.right_sum]
    final, gold = final_answer(text), _gold(document)
    right = final is not None and (final == gold if gold is not None else _reached(found, final))
    for step in wrong:
        why = f"{step.left} is {_shown(step.true)}, not {step.right}"
        kind = "wrong chain" if right else "arithmetic"
        told = f"{why}; the final answer {_shown(final)} is right all the same" if right and final is not None else why
        yield Issue(
            kind=kind, confidence=0.95, reason=told, field=field, start=step.start, stop=step.stop,
            evidence=text[step.start : step.stop][:80], action="relabel" if right else "drop",
        )  # fmt: skip
    if final is not None and gold is not None and final != gold:
        yield _answer(field, text, f"the final answer is {_shown(final)}, the row says {_shown(gold)}", 0.95)
    elif final is not None and gold is None and found and not wrong and final not in {step.said for step in found}:
        why = f"the final answer {_shown(final)} is the result of no step (the last is {_shown(found[-1].said)})"
        yield _answer(field, text, why, 0.7)


def _answer(field: str, text: str, why: str, sure: float) -> Issue:
    match = list(_FINAL.finditer(text))[-1]
    return Issue(
        kind="answer", confidence=sure, reason=why, field=field, start=match.start(), stop=match.end(),
        evidence=match.group()[:80], action="relabel",
    )  # fmt: skip


def _gold(document: RawDocument) -> Fraction | None:
    """The right answer, where the row has it beside the text."""
    for name in ("gold", "ground_truth", "final_answer", "reference_answer", "label"):
        value = document.fields.get(name)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            found = final_answer(str(value))
            return found if found is not None else value_of(str(value))
    return None


def _reached(found: list[Step], final: Fraction) -> bool:
    """Whether the answer is what a chain without its mistakes gives.

    Either the steps give it once wrong results are put right wherever they are used, or no step uses a wrong result and
    the last one gives it as it stands.
    """
    if _corrected(found) == final:
        return True
    wrong = [(place, step.said) for place, step in enumerate(found) if not step.right_sum]
    used = any(_holds(later.left, said) for place, said in wrong for later in found[place + 1 :])
    return bool(found) and not used and found[-1].right_sum and found[-1].said == final


def _holds(left: str, value: Fraction) -> bool:
    return re.search(rf"(?<![\d.]){re.escape(_shown(value))}(?![\d.])", left) is not None


def _corrected(found: list[Step]) -> Fraction | None:
    """What the last step would give with every wrong result put right wherever it is used again."""
    fixed: dict[Fraction, Fraction] = {}
    value = None
    for step in found:
        left = step.left
        for said, true in fixed.items():
            left = re.sub(rf"(?<![\d.]){re.escape(_shown(said))}(?![\d.])", f"({true})", left)
        value = value_of(left)
        if value is None:
            return None
        if not step.right_sum:
            fixed[step.said] = value
    return value


def _shown(value: Fraction | None) -> str:
    if value is None:
        return "none"
    return str(value.numerator) if value.denominator == 1 else f"{float(value):g}"


def _fences(field: str, text: str) -> Iterator[Issue]:
    for match in _FENCE.finditer(text):
        body, kind = match["body"], match["kind"].lower()
        try:
            if kind == "json":
                json.loads(body)
            else:
                ast.parse(body)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            name = "json" if kind == "json" else "code"
            said = str(error).split("\n")[0][:120]
            yield Issue(
                kind=name, confidence=0.95, reason=f"the {kind} in this fence does not parse: {said}", field=field,
                start=match.start(), stop=match.end(), evidence=body[:80], action="drop",
            )  # fmt: skip


_UNITS: dict[str, tuple[str, int | Fraction]] = {
    "km": ("length", 1000), "m": ("length", 1), "cm": ("length", Fraction(1, 100)), "mm": ("length", Fraction(1, 1000)),
    "kg": ("mass", 1000), "g": ("mass", 1), "dollar": ("money", 100), "cent": ("money", 1), "second": ("time", 1),
    "minute": ("time", 60), "hour": ("time", 3600), "day": ("time", 86400), "week": ("time", 604800),
}  # fmt: skip


def _units(field: str, text: str) -> Iterator[Issue]:
    """Sums whose terms have one unit and whose result has another, unless it is the same in that unit."""
    unit = r"(km|kg|cm|mm|m|g|hours?|minutes?|seconds?|days?|weeks?|dollars?|cents?)"
    pattern = rf"(\d[\d.,]*)\s*{unit}\s*([-+])\s*(\d[\d.,]*)\s*{unit}\s*=\s*(\d[\d.,]*)\s*{unit}\b"
    for match in re.finditer(pattern, text, re.I):
        one, two, three = (match.group(i).lower().rstrip("s") for i in (2, 5, 7))
        total, said = value_of(f"{match[1]} {match[3]} {match[4]}"), value_of(match[6])
        if one != two or two == three:
            continue
        (kind, size), (other, unit_of) = _UNITS[one], _UNITS[three]
        if kind == other and total is not None and said is not None and total * size == said * unit_of:
            continue
        yield Issue(
            kind="units", confidence=0.8, reason=f"{one} and {two} give {three}", field=field,
            start=match.start(), stop=match.end(), evidence=match.group()[:80], action="relabel",
        )  # fmt: skip
