"""The table of methods by what is typed; a method is a file and a line here."""

from whence.methods.arnoldi import Arnoldi
from whence.methods.astra import Astra
from whence.methods.base import Method
from whence.methods.bm25 import LexicalBm25
from whence.methods.cg import ConjugateGradients
from whence.methods.combined import Combined
from whence.methods.datainf import DataInf
from whence.methods.ekfac import Ekfac, Kfac
from whence.methods.explicit import Explicit
from whence.methods.fisher import Fisher
from whence.methods.grass import Grass
from whence.methods.iprox import Iprox
from whence.methods.less import Less
from whence.methods.lissa import Lissa
from whence.methods.logra import Logra
from whence.methods.lowrank import LowRank
from whence.methods.magic import Magic
from whence.methods.plain import GradientCosine, GradientDot
from whence.methods.proxy import Proxy
from whence.methods.relatif import Relatif
from whence.methods.representations import Representations
from whence.methods.source import Source
from whence.methods.tfidf import LexicalTfidf
from whence.methods.tracin import Tracin
from whence.methods.trackstar import TrackStar
from whence.methods.trajectory import Trajectory
from whence.methods.trak import Trak
from whence.methods.unsaturated import Unsaturated

__all__ = ["METHODS"]

_ALL: tuple[type[Method], ...] = (
    GradientDot,
    GradientCosine,
    Kfac,
    Ekfac,
    Magic,
    Tracin,
    Less,
    Source,
    LowRank,
    Astra,
    Explicit,
    ConjugateGradients,
    Lissa,
    Arnoldi,
    DataInf,
    Relatif,
    Logra,
    Grass,
    Trak,
    TrackStar,
    Fisher,
    Unsaturated,
    Trajectory,
    Proxy,
    Iprox,
    LexicalBm25,
    LexicalTfidf,
    Representations,
    Combined,
)

METHODS: dict[str, type[Method]] = {kind.key: kind for kind in _ALL}
