"""The figures behind a certificate as rows, rendered nowhere."""

from dataclasses import dataclass
from typing import get_args

from whence.interfaces import Certificate, Estimate, Measure, Reading
from whence.report.lab_words import decimals, is_bm25

__all__ = ["CertificateRow", "certificate_rows"]


@dataclass(frozen=True, slots=True)
class CertificateRow:
    """One measure: of the certified method, its ceiling, of BM25, and by how much it beats that on the same resamples.

    `over` is None where that was not measured; `places` are the decimals that suit the figures.
    """

    measure: Measure
    method: Estimate | None
    ceiling: Estimate | None
    bm25: Estimate | None
    over: Estimate | None
    places: int


def certificate_rows(certificate: Certificate) -> list[CertificateRow]:
    """Every measure of a measured certificate, the one its line gives first; none if it is not measured."""
    if certificate.state != "measured":
        return []
    own = {r.measure: r.estimate for r in certificate.readings if not is_bm25(r.method)}
    lexical = {r.measure: r.estimate for r in certificate.readings if is_bm25(r.method)}
    if certificate.measure is not None:
        own |= {certificate.measure: certificate.estimate} if certificate.estimate is not None else {}
        lexical |= {certificate.measure: certificate.bm25} if certificate.bm25 is not None else {}
    order = sorted(get_args(Measure), key=lambda measure: measure != certificate.measure)
    over = {r.measure: _over(r) for r in certificate.readings if not is_bm25(r.method)}
    return [_row(certificate, m, own.get(m), lexical.get(m), over.get(m)) for m in order if m in own or m in lexical]


def _over(reading: Reading) -> Estimate | None:
    """The difference to BM25 that a reading's detail holds."""
    found = [reading.detail.get(f"over_bm25{end}") for end in ("", "_low", "_high")]
    if any(each is None for each in found):
        return None
    return Estimate(value=float(found[0] or 0.0), low=float(found[1] or 0.0), high=float(found[2] or 0.0))


def _row(
    certificate: Certificate, measure: Measure, own: Estimate | None, lexical: Estimate | None, over: Estimate | None
) -> CertificateRow:
    ceiling = certificate.ceiling if measure == certificate.measure else None
    found = [estimate for estimate in (own, ceiling, lexical) if estimate is not None]
    return CertificateRow(measure, own, ceiling, lexical, over, decimals(found))
