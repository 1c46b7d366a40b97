"""The study of variable stars: what must hold of its library, and of its templates run one after the other."""

import json
import os
import pickle
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_recall_fscore_support

from mlops_nb.digest import digest_file
from mlops_nb.studies.variables.baseline import BASELINES, predict_baseline, train_baseline
from mlops_nb.studies.variables.bootstrap import Interval, difference, redraw, score, verdict
from mlops_nb.studies.variables.bundle import BadBundle, dump_skops, load_bundle, save_bundle
from mlops_nb.studies.variables.catalogue import CATALOGUE_STARS, CLASSES, NUMBERS, TEXTS, BadCatalogue, catalogue_file, read_catalogue
from mlops_nb.studies.variables.feature import MEASURED, measure
from mlops_nb.studies.variables.metric import (
    SCORES,
    balanced_accuracy,
    calibration_error,
    count_confusions,
    macro_f1,
    reliability,
    score_classes,
)
from mlops_nb.studies.variables.network import Recipe, predict_network, train_network
from mlops_nb.studies.variables.sample import BadStars, account, take_sample
from mlops_nb.studies.variables.schema import check_catalogue
from mlops_nb.studies.variables.split import FOLDS, check_sides, choose_sides, find_fields, find_sources, split, tie_fields
from mlops_nb.studies.variables.transform import Transform, fit_transform

TEMPLATES = Path(__file__).parents[1] / "nbs" / "pipelines" / "variables"


@pytest.fixture(scope="session")
def stars() -> pd.DataFrame:
    return read_catalogue(catalogue_file())


@pytest.fixture(scope="session")
def few(stars) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """Rows of the catalogue, their class numbers, the names of the classes."""
    sample = take_sample(stars, 120)
    classes = sorted(sample["class"].unique())
    return stars.loc[sample.index], sample["class"].map(classes.index).to_numpy(), classes


# the catalogue


def test_the_catalogue_is_whole(stars):
    """All 399,679 stars are read, each once, with the published number in every class."""
    counts = {"LPV": 343785, "RRLyr": 44217, "Cep": 8037, "DSCT": 2788, "T2Cep": 603, "DPV": 137, "aCep": 89, "RCB": 23}
    assert len(stars) == CATALOGUE_STARS == 399_679
    assert stars["ID"].is_unique
    assert stars["Type"].value_counts().to_dict() == counts and set(counts) == set(CLASSES)


def test_no_sentinel_survives(stars):
    """Neither -99.99 nor a field of nines is left, in numbers or in texts."""
    assert stars[list(NUMBERS)].min().drop("DECL").min() >= 0
    assert stars["DECL"].between(-90, 90).all()
    assert not stars[list(TEXTS)].isin(["-99.99", "", "nan"]).any(axis=None)
    assert stars["T0_1"].max() < 6000 and stars["R31_2"].max() < 10


def test_a_surviving_sentinel_is_refused(stars):
    """The schema refuses -99.99 in any column that it bounds, and says in which."""
    for column in ("V", "P_1", "A_1", "R21_1", "phi31_1"):
        spoilt = stars.head(50).copy()
        spoilt.loc[7, column] = -99.99
        with pytest.raises(BadCatalogue, match=column):
            check_catalogue(spoilt, count=50)


def test_swapped_terms_are_put_back(stars):
    """The amplitude ratios of δ Scuti stars are ratios, and their phases go round the circle."""
    scuti = stars[stars["Type"] == "DSCT"]
    assert scuti["R21_1"].max() < 1 and scuti["phi21_1"].max() > 6


# the sample


@settings(max_examples=20, deadline=None)
@given(small=st.integers(1, 40), more=st.integers(1, 40), seed=st.integers(0, 5))
def test_a_larger_sample_contains_the_smaller(small, more, seed):
    """Whatever the sizes, the seed and the order of the rows, a larger sample adds stars and swaps none."""
    names = pd.Series([f"OGLE-LMC-CEP-{k:04d}" for k in range(200)])
    table = pd.DataFrame({"ID": names, "Type": np.where(np.arange(200) % 3, "Cep", "LPV")})
    first = take_sample(table, small, smallest_class=1, seed=seed)
    second = take_sample(table.sample(frac=1, random_state=seed), small + more, smallest_class=1, seed=seed)
    assert set(first["ID"]) <= set(second["ID"])
    assert first["Type"].value_counts().max() <= small


@pytest.mark.parametrize(("rare", "used"), [("together", 399_679), ("apart", 399_679), ("left out", 399_430)])
def test_every_star_is_accounted_for(stars, rare, used):
    """Zero takes all 399,679 stars; what is left out on request is counted."""
    sample = take_sample(stars, 0, rare_classes=rare)
    table = account(stars, sample)
    assert len(sample) == used == table["taken"].sum()
    assert table["not_taken"].sum() == 399_679 - used


# the split


def test_no_field_and_no_star_on_two_sides(stars):
    """In each of the five folds; and over the folds every star tests exactly once."""
    tested = np.zeros(len(stars), dtype=int)
    source, fields = find_sources(stars), find_fields(stars)["field"]
    group = tie_fields(fields, source)
    for fold in range(FOLDS):
        side = choose_sides(stars["Type"], group, fold)
        for what in (fields.to_numpy(), source):
            assert pd.Series(side.to_numpy()).groupby(what).nunique().max() == 1
        tested += (side == "test").to_numpy()
    assert (tested == 1).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n_fields=st.integers(12, 40))
def test_a_star_listed_twice_ties_its_fields(seed, n_fields):
    """On a made-up sky, rows at one place are on one side, although their fields differ; stars without a field follow a neighbour."""
    generator = np.random.default_rng(seed)
    field = generator.integers(0, n_fields, 400)
    sky = pd.DataFrame({"RA": field / 20 + generator.uniform(0, 0.02, 400), "DECL": generator.uniform(-70, -69, 400)})
    sky["Field"] = pd.Series([f"LMC{k}.1" for k in field], dtype="str").mask(generator.random(400) < 0.1)
    sky["Type"] = generator.choice(["Cep", "LPV"], 400)
    copy = sky.iloc[:2].assign(Field="LMC999.1", DECL=lambda rows: rows["DECL"] + 0.2 / 3600)
    table = split(pd.concat([sky, copy], ignore_index=True))
    assert (table["side"].iloc[:2].to_numpy() == table["side"].iloc[-2:].to_numpy()).all()
    assert table["field"].notna().all()
    assert table.groupby("field")["side"].nunique().max() == 1


def test_an_overlap_is_refused():
    """A field on two sides, and a star on two sides, are each named."""
    good = pd.DataFrame({"field": ["A", "A", "B"], "source": [1, 2, 3], "side": ["train", "train", "test"]})
    check_sides(good)
    with pytest.raises(BadStars, match="field"):
        check_sides(good.assign(side=["train", "test", "test"]))
    with pytest.raises(BadStars, match="source"):
        check_sides(good.assign(source=[1, 2, 2]))


def test_the_side_does_not_depend_on_the_sample(stars):
    """A star keeps its side whether 50 or 5,000 stars of its class are used."""
    side = split(stars)["side"]
    small, large = take_sample(stars, 50), take_sample(stars, 5000)
    assert small.join(side)["side"].equals(large.join(side).loc[small.index, "side"])


# features and transform


def test_features_do_not_see_the_class(few):
    """Only the eight measured columns are read: everything else may be absent."""
    rows, _, _ = few
    assert measure(rows[list(MEASURED)]).equals(measure(rows))
    assert not set(MEASURED) & {"ID", "Type", "Subtype", "Remarks", "Field", "RA", "DECL", "P_2", "A_2"}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.floats(-1e6, 1e6) | st.just(float("nan"))] * 3), min_size=2, max_size=30))
def test_a_transform_survives_json(values):
    """Whatever it was fitted on, the transform that is read back gives the same inputs, to the last digit and without gaps."""
    features = pd.DataFrame([*values, (1.0, 2.0, 3.0)], columns=["a", "b", "c"])
    fitted = fit_transform(features)
    read = Transform.from_json(fitted.to_json())
    assert read == fitted
    inputs = read.apply(features[["c", "a", "b"]])
    assert np.array_equal(inputs, fitted.apply(features)) and np.isfinite(inputs).all()
    assert json.loads(fitted.to_json())["format"] == "variables-transform-1"


# learning


def test_one_seed_one_network(few):
    """The same seed gives the same weights and probabilities whatever the number of threads; another seed gives others."""
    rows, target, classes = few
    features = measure(rows)
    inputs = np.tile(fit_transform(features).apply(features), (40, 1))  # so many that threads would share a sum
    target = np.tile(target, 40)
    threads, weights = torch.get_num_threads(), []
    for count, seed in ((1, 0), (4, 0), (4, 1)):
        torch.set_num_threads(count)
        torch.rand(3)  # what was drawn before must not matter
        trained = train_network(inputs, target, inputs, target, len(classes), Recipe(epochs=3, batch_size=20_000, seed=seed))
        weights.append((trained.network[0].weight.detach().numpy(), predict_network(trained.network, inputs), trained.curves))
    torch.set_num_threads(threads)
    assert np.array_equal(weights[0][0], weights[1][0]) and np.array_equal(weights[0][1], weights[1][1])
    assert weights[0][2].equals(weights[1][2])
    assert not np.array_equal(weights[0][0], weights[2][0])


@pytest.mark.parametrize("name", BASELINES)
def test_one_seed_one_baseline(few, name):
    """Trained twice with one seed, a baseline gives the same probabilities and the same bytes."""
    rows, target, _ = few
    features = measure(rows)
    inputs = fit_transform(features).apply(features)
    first, second = (train_baseline(name, inputs, target, seed=3) for _ in range(2))
    assert np.array_equal(predict_baseline(first, inputs), predict_baseline(second, inputs))
    assert dump_skops(first) == dump_skops(second)


# the saved model


@pytest.fixture(scope="module")
def saved(few, tmp_path_factory):
    rows, target, classes = few
    features = measure(rows)
    transform = fit_transform(features)
    inputs = transform.apply(features)
    recipe = Recipe(hidden=16, epochs=3)
    network = train_network(inputs, target, inputs, target, len(classes), recipe).network
    folder = tmp_path_factory.mktemp("models")
    save_bundle(folder / "network", network, transform, classes, {"Cep": 1}, asdict(recipe))
    forest = train_baseline("random_forest", inputs, target)
    save_bundle(folder / "forest", forest, transform, classes, {"Cep": 1}, {"seed": 0})
    return folder, rows, {"network": predict_network(network, inputs), "forest": predict_baseline(forest, inputs)}


@pytest.mark.parametrize("name", ["network", "forest"])
def test_a_saved_model_predicts_the_same(saved, name):
    """From rows of the catalogue, to the last digit, in the order of the signature's classes."""
    folder, rows, expected = saved
    found = load_bundle(folder / name).predict_proba(rows[list(MEASURED)])
    assert np.array_equal(found.to_numpy(), expected[name])
    signature = json.loads((folder / name / "signature.json").read_text())
    assert list(found) == [output["name"] for output in signature["outputs"]]
    assert [column["name"] for column in signature["inputs"]] == list(MEASURED)


def test_loading_runs_no_code(saved, monkeypatch):
    """No pickle is in the folder and none is opened."""
    folder, _, _ = saved

    def opened(*_, **__):
        raise AssertionError("a pickle was opened")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, opened)
    monkeypatch.setattr(torch, "load", opened)
    for path in folder.rglob("*.*"):
        assert path.suffix in (".json", ".safetensors", ".skops")
    assert load_bundle(folder / "network") and load_bundle(folder / "forest")


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def _replaced(source: Path, target: Path, part: str, content: bytes) -> Path:
    """Copy a saved model with another part, and a signature that vouches for it."""
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    (target / part).write_bytes(content)
    signature = json.loads((target / "signature.json").read_text())
    signature["digests"][part] = digest_file(target / part)
    (target / "signature.json").write_text(json.dumps(signature))
    return target


def test_a_trap_does_not_go_off(saved, tmp_path):
    """A pickle in the place of the weights, and a skops file that asks for a strange type, are refused and not run."""
    folder, _, _ = saved
    sprung = tmp_path / "sprung"
    trap = pickle.dumps(Trap(sprung))
    with pytest.raises(BadBundle):
        load_bundle(_replaced(folder / "network", tmp_path / "a", "weights.safetensors", trap))
    strange = skops.io.dumps({"model": Trap(sprung)})
    with pytest.raises(BadBundle, match="Trap|mkdir"):
        load_bundle(_replaced(folder / "forest", tmp_path / "b", "model.skops", strange))
    assert not sprung.exists()


def test_parts_of_two_models_are_refused(saved, tmp_path):
    """A transform that was not saved with the weights is noticed."""
    folder, _, _ = saved
    other = _replaced(folder / "network", tmp_path / "c", "transform.json", (folder / "network" / "transform.json").read_bytes())
    text = json.loads((other / "transform.json").read_text())
    text["medians"]["colour"] += 1e-9
    (other / "transform.json").write_text(json.dumps(text))
    with pytest.raises(BadBundle, match=r"transform\.json"):
        load_bundle(other)


# scores


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n_classes=st.integers(2, 7), right=st.floats(0, 1))
def test_scores_agree_with_scikit_learn(seed, n_classes, right):
    """Balanced accuracy, macro F1, precision and recall, also where a class is never given."""
    generator = np.random.default_rng(seed)
    true = np.r_[np.arange(n_classes), generator.integers(0, n_classes, 60)]
    predicted = np.where(generator.random(len(true)) < right, true, generator.integers(0, max(1, n_classes - 1), len(true)))
    confusion = count_confusions(true, predicted, n_classes)
    labels = range(n_classes)
    assert np.isclose(balanced_accuracy(confusion), balanced_accuracy_score(true, predicted), rtol=1e-12)
    assert np.isclose(macro_f1(confusion), f1_score(true, predicted, average="macro", labels=labels, zero_division=0), rtol=1e-12)
    expected = precision_recall_fscore_support(true, predicted, labels=labels, zero_division=0)[:3]
    assert np.allclose(score_classes(confusion), expected, rtol=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), bins=st.integers(1, 20))
def test_calibration_error_is_what_guo_wrote(seed, bins):
    """Equation 3 of Guo et al. 2017, summed star by star and bin by bin."""
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet([1, 1, 1], 80)
    true = generator.integers(0, 3, 80)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == true
    expected = 0.0
    for m in range(1, bins + 1):
        inside = (confidence > (m - 1) / bins) & (confidence <= m / bins)
        if inside.any():
            expected += inside.sum() / 80 * abs(right[inside].mean() - confidence[inside].mean())
    assert np.isclose(calibration_error(reliability(true, probabilities, bins)), expected, rtol=1e-10, atol=1e-12)


def test_the_multinomial_is_the_bootstrap():
    """Drawing rows of counts gives the spread that drawing star by star gives."""
    generator = np.random.default_rng(5)
    true = np.repeat([0, 1, 2], [60, 30, 10])
    predicted = np.where(generator.random(100) < 0.8, true, generator.integers(0, 3, 100))
    slow = []
    for _ in range(2000):
        rows = np.concatenate([generator.choice(np.flatnonzero(true == k), (true == k).sum()) for k in range(3)])
        slow.append(macro_f1(count_confusions(true[rows], predicted[rows], 3)))
    fast = macro_f1(redraw(count_confusions(true, predicted, 3), 2000, seed=0))
    assert abs(np.mean(slow) - fast.mean()) < 0.005
    assert abs(np.std(slow) / fast.std() - 1) < 0.1


@pytest.mark.parametrize("what", SCORES)
def test_intervals_cover(what):
    """About 95 of 100 intervals hold the score that the classifier really has."""
    truth, counts = np.array([[0.85, 0.15], [0.2, 0.8]]), np.array([300, 120])
    target = SCORES[what](truth * counts[:, None])
    found = [score(np.random.default_rng(k).multinomial(counts, truth), SCORES[what], 400, k) for k in range(400)]
    covered = np.mean([one.low <= target <= one.high for one in found])
    assert 0.91 < covered < 0.985


def test_the_better_model_is_named():
    """Said only where the paired interval leaves zero out, and then for the right model."""
    generator = np.random.default_rng(0)
    true = np.repeat([0, 1], 300)
    good, bad = (np.where(generator.random(600) < share, true, 1 - true) for share in (0.95, 0.8))
    ahead = difference(true, good, bad, 2, macro_f1)
    behind = difference(true, bad, good, 2, macro_f1)
    same = difference(true, good, good, 2, macro_f1)
    assert ahead.low > 0 > behind.high and same == Interval(0.0, 0.0, 0.0)
    assert np.isclose(ahead.value, macro_f1(count_confusions(true, good, 2)) - macro_f1(count_confusions(true, bad, 2)))
    assert "network beats" in verdict("network", "forest", ahead)
    assert "does NOT beat" in verdict("network", "forest", behind) and "worse" in verdict("network", "forest", behind)
    for doubtful in (same, Interval(0.002, -0.003, 0.006), Interval(-0.002, -0.006, 0.003)):
        assert "does NOT beat the forest: no difference is shown" in verdict("network", "forest", doubtful)


# the templates, one after the other


def _cells(stem: str) -> list[dict]:
    (path,) = TEMPLATES.glob(f"*_{stem}.ipynb")
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def _run(stem: str, root: Path, results: dict, **arguments) -> None:
    """Run the cells of a template in this process, with `root` as its project and arguments after the defaults, as papermill puts them."""
    names: dict = {}
    for cell in _cells(stem):
        exec(compile("".join(cell["source"]), f"{stem}:{cell['id']}", "exec"), names)
        names["glue"] = results.__setitem__
        if "parameters" in cell["metadata"].get("tags", []):
            assert set(arguments) <= set(names)
            names |= arguments


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project in which the whole pipeline ran on few stars, and the results of each step."""
    root = tmp_path_factory.mktemp("project")
    (root / "settings.ini").write_text("")
    before = os.getcwd()
    os.chdir(root)
    steps = ("ingest", "split", "features", "train", "baselines", "evaluate")
    arguments = {"split": {"stars_per_class": 150}, "train": {"epochs": 6}, "evaluate": {"replicates": 200}}
    results = {step: {} for step in steps}
    try:
        for step in steps:
            _run(step, root, results[step], **arguments.get(step, {}))
        yield root, results
    finally:
        os.chdir(before)


def test_the_pipeline_says_how_many_stars(project):
    """Every step that uses a sample states its size; the account adds up to the whole catalogue."""
    _, results = project
    used = {results[step]["stars_used"] for step in ("split", "features", "train", "baselines", "evaluate")}
    assert used == {150 * 6}
    assert results["split"]["account"]["catalogued"].sum() == results["ingest"]["stars_catalogued"] == 399_679


def test_the_verdict_is_plain(project):
    """For each baseline the results say whether the network beats it, and the sentence agrees with the interval."""
    _, results = project
    found = results["evaluate"]
    assert list(found["scores"]["model"]) == ["network", *BASELINES]
    for row in found["differences"].itertuples():
        beats = row.low > 0
        assert found[f"network_beats_{row.baseline}"] == beats
        assert (f"beats the {row.baseline.replace('_', ' ')}" in found["verdict"]) == beats
    for model in ("network", *BASELINES):
        for what in SCORES:
            assert 0 < found[f"{model}_{what}_low"] <= found[f"{model}_{what}"] <= found[f"{model}_{what}_high"] <= 1


def test_one_lucky_star_is_no_win(project):
    """A network that gets right what gradient boosting gets right, and one star more, is not reported to beat it."""
    root, _ = project
    kept = root / "data/variables/network_predictions.parquet"
    original = kept.read_bytes()
    rows = pd.read_parquet(root / "data/variables/baseline_predictions.parquet").query("model == 'gradient_boosting'")
    network = rows.drop(columns="model").reset_index(drop=True)
    classes = list(network.columns.drop(["ID", "class"]))
    wrong = (network[classes].idxmax(axis=1) != network["class"]).idxmax()
    network.loc[wrong, classes] = [float(name == network.loc[wrong, "class"]) for name in classes]
    found: dict = {}
    try:
        network.to_parquet(kept)
        _run("evaluate", root, found, replicates=200)
    finally:
        kept.write_bytes(original)
        _run("evaluate", root, {}, replicates=200)
    assert found["network_minus_gradient_boosting_macro_f1"] > 0
    assert found["network_beats_gradient_boosting"] is False
    assert "does NOT beat the gradient boosting: no difference is shown" in found["verdict"]


def test_the_transform_knows_the_training_side_only(project):
    """Other test stars leave the transform as it was, byte for byte; other training stars do not."""
    root, _ = project
    transform = root / "data/variables/transform.json"
    catalogue, sides = root / "data/variables/catalogue.parquet", pd.read_parquet(root / "data/variables/split.parquet")
    original, text = catalogue.read_bytes(), transform.read_bytes()
    try:
        for side, same in (("test", True), ("validation", True), ("train", False)):
            table = pd.read_parquet(catalogue)
            table.loc[table["ID"].isin(sides.loc[sides["side"] == side, "ID"]), ["I", "A_1"]] = (9.0, 0.001)
            table.to_parquet(catalogue)
            _run("features", root, {})
            assert (transform.read_bytes() == text) is same, side
            catalogue.write_bytes(original)
    finally:
        catalogue.write_bytes(original)
        _run("features", root, {})


def test_run_twice_the_digits_agree(project):
    """Training and evaluation repeated with one seed leave the same files, and the same results to the last digit."""
    root, results = project
    kept = {path: path.read_bytes() for folder in ("models", "data/variables") for path in (root / folder).rglob("*.*")}
    for step, arguments in (("train", {"epochs": 6}), ("baselines", {}), ("evaluate", {"replicates": 200})):
        again: dict = {}
        _run(step, root, again, **arguments)
        for name, value in results[step].items():
            if isinstance(value, pd.DataFrame):
                assert value.equals(again[name]), name
            elif not hasattr(value, "savefig"):
                assert value == again[name], name
    assert [str(path) for path, content in kept.items() if path.read_bytes() != content] == []


def test_the_saved_network_is_the_one_that_was_scored(project):
    """Loaded from its folder, it gives the probabilities of the test stars that the evaluation used."""
    root, _ = project
    kept = pd.read_parquet(root / "data/variables/network_predictions.parquet")
    rows = pd.read_parquet(root / "data/variables/catalogue.parquet").set_index("ID").loc[kept["ID"]]
    found = load_bundle(root / "models/variables/network").predict_proba(rows)
    assert np.array_equal(found.to_numpy(), kept[list(found)].to_numpy())


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_template_is_clean(path):
    """One cell is tagged `parameters`, no output is in git, and a cell of imports comes before."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [k for k, cell in enumerate(code) if "parameters" in cell["metadata"].get("tags", [])] == [1]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert notebook["cells"][0]["source"][0].startswith("# ")


def test_recipes_refuse_nothing_silently(few):
    """A learning rate that destroys the network is an error, not a model."""
    rows, target, classes = few
    features = measure(rows)
    inputs = fit_transform(features).apply(features)
    wild = replace(Recipe(), optimizer="sgd", learning_rate=1e12, epochs=3)
    with pytest.raises(ArithmeticError, match="too high"):
        train_network(inputs * 1e15, target, inputs, target, len(classes), wild)
