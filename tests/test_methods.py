"""Methods as data: what a specification may say, grids from TOML, and errors that name the table."""

import pytest
from pydantic import ValidationError

from whence.curvature import Damping
from whence.errors import InputError
from whence.fidelity.methods import MethodSpec, default_methods, load_methods, method_of
from whence.gradients import Recipe


def loaded(tmp_path, text):
    path = tmp_path / "methods.toml"
    path.write_text(text, encoding="utf-8")
    return load_methods(path)


def test_the_list_that_is_always_on():
    specs = default_methods()
    names = [spec.name for spec in specs]
    assert len(set(names)) == len(names)
    assert {spec.baseline for spec in specs} - {None} == {
        "random", "length", "loss", "bm25", "tfidf", "representation", "gradient-dot", "gradient-cosine",
    }  # fmt: skip
    inside = [spec.curvature for spec in specs if spec.sites == ("blocks",)]
    assert inside == ["identity", "diagonal", "kfac", "ekfac"]
    coded = [spec for spec in specs if spec.bits == 1]
    assert [spec.coordinates for spec in coded] == [None, None, 1024, 256, 64]
    assert [spec.curvature for spec in coded] == ["unsaturated", *["ekfac"] * 4]
    assert all(spec.kind == ("baseline" if spec.baseline else "influence") for spec in specs)


def test_a_grid(tmp_path):
    specs = loaded(
        tmp_path,
        """
        [[method]]
        curvature = "ekfac"
        sites = "blocks"
        bits = [1, "exact"]
        damping = [0.01, 0.1]

        [[method]]
        name = "sketch"
        curvature = "kfac"
        bits = 1
        coordinates = [64, 128]
        sites = [["*.mlp.*"], ["lm_head", "blocks"]]

        [[method]]
        baseline = ["bm25", "tfidf"]

        [[method]]
        name = "deep"
        baseline = "representation"
        layers = [0.5, 1]
        """,
    )
    assert [spec.name for spec in specs] == [
        "EK-FAC blocks, 1 bit, damping 0.01",
        "EK-FAC blocks, 1 bit, damping 0.1",
        "EK-FAC blocks, exact, damping 0.01",
        "EK-FAC blocks, exact, damping 0.1",
        "sketch [coordinates 64, sites *.mlp.*]",
        "sketch [coordinates 64, sites lm_head blocks]",
        "sketch [coordinates 128, sites *.mlp.*]",
        "sketch [coordinates 128, sites lm_head blocks]",
        "BM25",
        "TF-IDF",
        "deep",
    ]
    assert specs[0].sites == ("blocks",)
    assert specs[0].rule == Damping(value=0.01)
    assert specs[5].sites == ("lm_head", "blocks")
    assert specs[-1].layers == (0.5, 1.0)
    assert specs[4].settings == {"curvature": "kfac", "sites": "*.mlp.*", "bits": 1, "coordinates": 64}


def test_scores_are_found_beside_the_file(tmp_path):
    (spec,) = loaded(tmp_path, '[[method]]\nscores = "other/scores.npy"\nsign = -1\ndivide = true')
    assert spec.scores == str(tmp_path / "other" / "scores.npy")
    assert (spec.kind, spec.sign, spec.divide, spec.name) == ("imported", -1, True, "scores, sign -1")


WRONG = {
    "no table": ("", r"must hold \[\[method\]\] tables .*it has none"),
    "something else": ('[lab]\nseeds = 2\n[[method]]\nbaseline = "bm25"', "nothing else; it has lab"),
    "one table": ('[method]\nbaseline = "bm25"', "must hold"),
    "not TOML": ("[[method", "could not read methods"),
    "no kind": ("[[method]]\nbits = 1", r"table 1:\n  give exactly one of .*got none"),
    "two kinds": ('[[method]]\nname = "x"\nbaseline = "bm25"\ncurvature = "ekfac"', r"table 1 .'x'.:\n.*and baseline"),
    "unknown setting": ('[[method]]\nbaseline = "bm25"\n[[method]]\ncurvature = "ekfac"\ndampening = 1',
                        "table 2:\n  there is no setting 'dampening'; there are name, curvature"),
    "unknown curvature": ('[[method]]\ncurvature = "shampoo"', "curvature: .*'ekfac'.*got 'shampoo'"),
    "not its own": ('[[method]]\nbaseline = "bm25"\ndamping = 0.1', "'damping' belongs to influence, not to bm25"),
    "sign of ours": ('[[method]]\ncurvature = "ekfac"\nsign = -1', "'sign' belongs to imported"),
    "two dampings": ('[[method]]\ncurvature = "ekfac"\ndamping = 1\nweight_decay = 1', "not both"),
    "no damping": ('[[method]]\ncurvature = "ekfac"\ndamping = 0', "damping: .*greater than 0"),
    "identity damped": ('[[method]]\ncurvature = "identity"\ndamping = 0.1', "no curvature to fit or to damp"),
    "exact codes": ('[[method]]\ncurvature = "ekfac"\ncoordinates = 64', "'exact' stores no codes"),
    "no size": ('[[method]]\ncurvature = "ekfac"\nbits = 1\nprojection = "hadamard"', "needs 'coordinates'"),
    "size of all": ('[[method]]\ncurvature = "ekfac"\nbits = 1\nprojection = "none"\ncoordinates = 64', "keeps every"),
    "bits": ('[[method]]\ncurvature = "ekfac"\nbits = [1, 2]', "bits: .*got 2"),
    "empty axis": ('[[method]]\ncurvature = "ekfac"\nbits = []', "bits is an empty list"),
    "no depth": ('[[method]]\nbaseline = "representation"\nlayers = []', "at least one depth"),
    "too deep": ('[[method]]\nbaseline = "representation"\nlayers = [12]', "layers.0: .*less than or equal to 1"),
    "twice": ('[[method]]\nbaseline = "bm25"\n[[method]]\nbaseline = "bm25"', "two methods named 'BM25'"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused(tmp_path, name):
    text, message = WRONG[name]
    with pytest.raises(InputError, match=message):
        loaded(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="could not read methods from"):
        load_methods(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xff")
    with pytest.raises(InputError, match="could not read methods from"):
        load_methods(tmp_path / "latin.toml")


def test_a_method_is_frozen():
    with pytest.raises(ValidationError):
        MethodSpec(baseline="bm25").name = "other"


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(bits=8, projection="kronecker", coordinates=128),
        Recipe(method="identity", bits=16, projection="none"),
        Recipe(damping=Damping(kind="weight_decay", value=0.3), seed=3, precision="full"),
    ],
    ids=lambda recipe: recipe.name,
)
def test_an_index_as_a_method_and_back(recipe):
    assert method_of(recipe).recipe(like=recipe) == recipe
    assert MethodSpec.model_validate(method_of(recipe).model_dump(exclude_unset=True)) == method_of(recipe)
