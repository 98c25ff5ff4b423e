"""A converted estimator predicts what the estimator does, and everything that works on networks works on it."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine, make_classification
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.linear_model import (
    Lasso,
    LinearRegression,
    LogisticRegression,
    Perceptron,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, PolynomialFeatures, RobustScaler, StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC, LinearSVR, NuSVC, NuSVR, OneClassSVM
from sklearn.tree import DecisionTreeRegressor

import shrinkwidget as sw
from shrinkwidget.errors import ArgumentError, DataError, MissingPackageError, ModelError
from shrinkwidget.integrations.sklearn import KernelMachine, SklearnModel

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

DATA: dict[str, Callable[..., Any]] = {
    "digits": load_digits,
    "breast cancer": load_breast_cancer,
    "wine": load_wine,
    "diabetes": load_diabetes,
}


def halves(name: str, seed: int = 0) -> tuple[Any, Any, Any, Any]:
    """Return rows and targets to fit on, and others to predict: shuffled, at most 400 of each."""
    rows, targets = DATA[name](return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(rows))
    fitted, held_out = order[: len(order) // 2][:400], order[len(order) // 2 :][:400]
    return rows[fitted], targets[fitted], rows[held_out], targets[held_out]


def decisions(model: torch.nn.Module, rows: Any) -> Any:
    with torch.no_grad():
        return model(torch.from_numpy(rows)).numpy()


def machine(model: SklearnModel) -> KernelMachine:
    assert isinstance(model.estimator, KernelMachine)
    return model.estimator


def assert_same(estimator: Any, rows: Any) -> Any:
    """Check the decision values to 1e-5 and the labels to the last; return the module."""
    model = sw.from_sklearn(estimator)
    predicted = estimator.predict(rows)
    found = decisions(model, rows)
    if hasattr(estimator, "classes_"):
        assert np.array_equal(model.predict(rows), predicted)
        wanted = estimator.decision_function(rows) if hasattr(estimator, "decision_function") else None
    else:
        assert model.predict(rows).shape == predicted.shape
        wanted = predicted
    if wanted is not None:
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() < 1e-5
    return model


# ---- linear models ----


@pytest.mark.parametrize("data", ["digits", "breast cancer", "wine"])
@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(max_iter=200),
        LinearSVC(),
        SGDClassifier(random_state=0),
        Perceptron(random_state=0),
        RidgeClassifier(),
        LinearDiscriminantAnalysis(),
        LogisticRegression(fit_intercept=False),
    ],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.filterwarnings("ignore:Variables are collinear")
def test_a_linear_classifier_decides_alike(estimator: Any, data: str) -> None:
    rows, labels, others, _ = halves(data)
    assert_same(clone(estimator).fit(rows, labels), others)


@pytest.mark.parametrize(
    "estimator",
    [LinearRegression(), Ridge(), Lasso(), LinearSVR(), SGDRegressor(random_state=0), Ridge(fit_intercept=False)],
    ids=lambda e: type(e).__name__,
)
def test_a_linear_regression_predicts_alike(estimator: Any) -> None:
    rows, targets, others, _ = halves("diabetes")
    assert_same(clone(estimator).fit(rows, targets), others)


def test_several_targets_keep_their_columns() -> None:
    rows, targets, others, _ = halves("diabetes")
    both = np.stack([targets, -2 * targets], 1)
    assert decisions(assert_same(LinearRegression().fit(rows, both), others), others).shape == (len(others), 2)
    assert decisions(assert_same(LinearRegression().fit(rows, targets[:, None]), others), others).shape == (
        len(others),
        1,
    )
    several = np.stack([targets > 100, targets > 150, targets < 200], 1).astype(int)
    model = assert_same(RidgeClassifier().fit(rows, several), others)
    assert model.predict(others).shape == (len(others), 3)


# ---- kernel machines ----


@pytest.mark.parametrize("kernel", ["rbf", "poly", "sigmoid", "linear"])
@pytest.mark.parametrize("data", ["digits", "breast cancer", "wine"])
def test_a_support_vector_classifier_votes_alike(data: str, kernel: str) -> None:
    for seed in range(3):
        rows, labels, others, _ = halves(data, seed)
        svc = SVC(kernel=kernel, coef0=0.5, degree=2, gamma="auto" if seed == 1 else "scale", C=10.0**-seed)
        assert_same(make_pipeline(StandardScaler(), svc).fit(rows, labels), others)


@pytest.mark.parametrize("break_ties", [False, True])
def test_ties_go_where_scikit_learn_sends_them(break_ties: bool) -> None:
    tied = 0
    for seed in range(4):
        rows, labels = make_classification(
            600, 6, n_informative=4, n_classes=5, flip_y=0.4, n_clusters_per_class=1, random_state=seed
        )
        svc = SVC(break_ties=break_ties).fit(rows[:200], labels[:200])
        assert_same(svc, rows[200:])
        tied += int((svc.decision_function(rows[200:]).argmax(1) != svc.predict(rows[200:])).sum())
    assert (tied == 0) is break_ties  # else nothing was tied, and nothing shown


def test_each_pair_decides_as_libsvm_does() -> None:
    rows, labels, others, _ = halves("digits")
    svc = NuSVC(nu=0.1, decision_function_shape="ovo").fit(rows, labels)
    model = sw.from_sklearn(svc)
    with torch.no_grad():
        margins = machine(model).margins(torch.from_numpy(others)).numpy()
    assert margins.shape == (len(others), 45)
    assert np.abs(margins - svc.decision_function(others)).max() < 1e-5
    assert np.array_equal(model.predict(others), svc.predict(others))
    # its shape is that of pairs; the module's is one value a class all the same, as nothing else can be scored
    wanted = svc.set_params(decision_function_shape="ovr").decision_function(others)
    assert np.abs(decisions(model, others) - wanted).max() < 1e-5


def test_training_mode_changes_no_label() -> None:
    rows, labels, others, _ = halves("wine")
    for svc in (SVC(), SVC(break_ties=True)):
        model = sw.from_sklearn(svc.fit(rows, labels)).train()
        assert np.array_equal(model.predict(others), svc.predict(others))


@pytest.mark.parametrize("kernel", ["rbf", "poly", "sigmoid", "linear"])
@pytest.mark.parametrize("kind", [SVR, NuSVR])
def test_a_support_vector_regression_predicts_alike(kind: Any, kernel: str) -> None:
    rows, targets, others, _ = halves("diabetes")
    assert_same(kind(kernel=kernel, C=10).fit(rows, targets), others)


# ---- perceptrons ----


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("data", ["digits", "breast cancer"])
def test_a_perceptron_gives_the_same_probabilities(data: str, activation: str) -> None:
    rows, labels, others, _ = halves(data)
    for seed in range(2):
        mlp = MLPClassifier((12, 7), activation, max_iter=8, random_state=seed)
        estimator = make_pipeline(StandardScaler(), mlp).fit(rows, labels)
        model = assert_same(estimator, others)
        logits = torch.from_numpy(decisions(model, others))
        wanted = estimator.predict_proba(others)
        found = logits.softmax(1) if logits.ndim == 2 else torch.stack([1 - logits.sigmoid(), logits.sigmoid()], 1)
        assert np.abs(found.numpy() - wanted).max() < 1e-5


def test_a_perceptron_of_several_labels() -> None:
    rows, targets, others, _ = halves("diabetes")
    several = np.stack([targets > 100, targets > 150, targets < 200], 1).astype(int)
    mlp = MLPClassifier((8,), max_iter=300, random_state=0, learning_rate_init=0.1).fit(rows, several)
    model = assert_same(mlp, others)
    assert 0 < model.predict(others).mean() < 1
    assert np.abs(1 / (1 + np.exp(-decisions(model, others))) - mlp.predict_proba(others)).max() < 1e-5


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_a_perceptron_regresses_alike(activation: str) -> None:
    rows, targets, others, _ = halves("diabetes")
    assert_same(
        MLPRegressor(hidden_layer_sizes=(9,), activation=activation, max_iter=50, random_state=0).fit(rows, targets),
        others,
    )
    both = np.stack([targets, -targets], 1)
    assert_same(
        MLPRegressor(hidden_layer_sizes=(9,), activation=activation, max_iter=50, random_state=0).fit(rows, both),
        others,
    )


def test_a_perceptron_with_poisson_loss_ends_in_an_exponential() -> None:
    if "loss" not in MLPRegressor().get_params():
        pytest.skip("scikit-learn before 1.7 has the squared loss only")
    rows, targets, others, _ = halves("diabetes")
    mlp = MLPRegressor(loss="poisson", hidden_layer_sizes=(5,), max_iter=30, random_state=0)
    assert_same(mlp.fit(rows, targets / 100), others)


# ---- pipelines, dtypes, text ----


@pytest.mark.parametrize(
    "scaler",
    [
        StandardScaler(),
        StandardScaler(with_mean=False),
        StandardScaler(with_std=False),
        MinMaxScaler(),
        MinMaxScaler((-1, 2), clip=True),
        MaxAbsScaler(),
        RobustScaler(),
        RobustScaler(with_centering=False),
        RobustScaler(with_scaling=False),
    ],
    ids=str,
)
def test_a_scaler_before_it_is_part_of_the_module(scaler: Any) -> None:
    for name, last in (("wine", SVC()), ("wine", LogisticRegression(max_iter=50)), ("diabetes", Ridge())):
        rows, targets, others, _ = halves(name)
        assert_same(
            Pipeline([("none", "passthrough"), ("scale", clone(scaler)), ("last", last)]).fit(rows, targets), others
        )


def test_it_keeps_the_dtype_it_was_fitted_in() -> None:
    rows, labels, others, _ = halves("digits")
    mlp = MLPClassifier((8,), max_iter=5, random_state=0)
    assert {p.dtype for p in sw.from_sklearn(mlp.fit(rows, labels)).parameters()} == {torch.float64}
    model = sw.from_sklearn(mlp.fit(rows.astype(np.float32), labels))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert np.array_equal(model.predict(others), mlp.predict(others.astype(np.float32)))


def test_inputs_may_be_images_integers_and_halves() -> None:
    rows, labels, others, _ = halves("digits")
    model = sw.from_sklearn(SVC().fit(rows, labels))
    wanted = decisions(model, others)
    for inputs in (others.reshape(-1, 1, 8, 8), others.astype(np.uint8), others.astype(np.float32)):
        assert np.array_equal(decisions(model, inputs), wanted)
    half = copy.deepcopy(model).float()
    assert np.abs(decisions(half, others) - wanted).max() < 1e-3


FARM = (
    "the cow eats grass;a sheep on the meadow;hens lay eggs in the barn;the farmer milks a cow;grass and hay for sheep"
)
SEA = "the ship sails at sea;a whale dives in the waves;fish swim in the sea;the sailor on a ship;waves and wind at sea"
SKY = "a star shines at night;the moon and a planet;stars fill the night sky;a telescope shows the moon;planet and star"


def test_text_goes_through_its_vectorizer_as_dense_rows() -> None:
    texts = [text for topic in (FARM, SEA, SKY) for text in topic.split(";")]
    labels = np.repeat(["farm", "sea", "sky"], 5)
    vectorizer = TfidfVectorizer()
    sparse = vectorizer.fit_transform(texts)
    asked = vectorizer.transform(["a whale at sea", "the moon at night", "sheep in the barn"])
    for estimator in (LogisticRegression(C=10), LinearSVC(), MLPClassifier((6,), max_iter=400, random_state=0)):
        estimator.fit(sparse, labels)  # weights of a model fitted on sparse rows are dense
        model = sw.from_sklearn(estimator)
        assert model.predict(asked.toarray()).tolist() == estimator.predict(asked).tolist() == ["sea", "sky", "farm"]
        if hasattr(estimator, "decision_function"):
            assert np.abs(decisions(model, asked.toarray()) - estimator.decision_function(asked)).max() < 1e-5
        tensor = torch.from_numpy(asked.toarray())
        assert torch.equal(model(tensor.to_sparse()), model(tensor))
        assert sw.evaluate(model, (sparse.toarray(), model.class_numbers(labels))).value == 1
    assert_same(SVC().fit(sparse.toarray(), labels), asked.toarray())


def test_labels_of_any_kind_become_class_numbers() -> None:
    rows, labels, others, wanted = halves("wine")
    names = np.array(["Barolo", "Grignolino", "Barbera"])
    svc = make_pipeline(StandardScaler(), SVC()).fit(rows, names[labels])
    model = sw.from_sklearn(svc)
    score = sw.evaluate(model, (others, model.class_numbers(names[wanted])))
    assert score.value == pytest.approx(svc.score(others, names[wanted]))
    with pytest.raises(DataError, match="was not fitted on the label 'Chianti'; it knows Barbera, Barolo, Grignolino"):
        model.class_numbers(["Barolo", "Chianti"])
    regression = sw.from_sklearn(Ridge().fit(rows, labels))
    with pytest.raises(ModelError, match="class numbers are those of one label a row"):
        regression.class_numbers(labels)


# ---- what works on a network works on it ----


@pytest.fixture(scope="module")
def svc() -> Any:
    rows, labels, _, _ = halves("digits")
    return make_pipeline(StandardScaler(), SVC()).fit(rows, labels)


def test_the_module_is_a_copy_and_draws_no_random_numbers(svc: Any) -> None:
    rows, labels, others, _ = halves("digits")
    before, state = svc.decision_function(others), torch.get_rng_state()
    model = sw.from_sklearn(svc)
    sw.from_sklearn(LinearRegression().fit(rows, labels))
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert np.array_equal(svc.decision_function(others), before)


def test_a_support_vector_machine_in_4_bits(svc: Any, tmp_path: Path) -> None:
    _, _, others, labels = halves("digits")
    model = sw.from_sklearn(svc)
    assert sw.evaluate(model, (others, labels)).value == pytest.approx(svc.score(others, labels), abs=0.005)
    small = sw.compress(model, bits=4)
    assert set(small.encoded) == {"estimator.support_vectors", "estimator.dual_coef"}
    assert small.warnings == ()
    assert small.original_nbytes / small.nbytes > 12  # of 64 bits
    assert sw.evaluate(small, (others, labels)).value > svc.score(others, labels) - 0.03
    assert small.save(tmp_path / "svm.safetensors") == small.nbytes
    again = sw.load(tmp_path / "svm.safetensors", into=sw.from_sklearn(svc)).model
    assert again is not None
    assert np.array_equal(decisions(again, others), decisions(small.model, others))  # type: ignore[arg-type]


def test_a_linear_model_is_evaluated_as_scikit_learn_does_it() -> None:
    rows, labels, others, wanted = halves("breast cancer")
    estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, labels)
    score = sw.evaluate(sw.from_sklearn(estimator), (others, wanted))
    assert score.value == pytest.approx(estimator.score(others, wanted))
    rows, targets, others, wanted = halves("diabetes")
    ridge = Ridge().fit(rows, targets)
    mse = sw.evaluate(sw.from_sklearn(ridge), (others, wanted), "mse")
    assert mse.value == pytest.approx(((ridge.predict(others) - wanted) ** 2).mean())


def test_the_sliders_work_on_it(svc: Any) -> None:
    _, _, others, labels = halves("digits")
    ex = sw.explore(sw.from_sklearn(svc), (others, labels), sparsity=0.2, bits=6)
    ex.wait()
    assert ex.estimate.exact
    assert ex.score is not None
    assert ex.score.value > 0.8
    ex.close()


def test_pruned_support_vectors_leave_the_file(svc: Any) -> None:
    model = sw.from_sklearn(svc)
    half = model.prune_support_vectors(0.5)
    before, after = machine(model), machine(half)
    assert after.support_per_class == tuple(count - round(count / 2) for count in before.support_per_class)
    assert len(after.support_vectors) == sum(after.support_per_class) < len(before.support_vectors)
    assert sw.compress(half, bits=4).nbytes < 0.6 * sw.compress(model, bits=4).nbytes
    # those that stay are the ones with the largest terms: k(s, s) = 1 in this kernel
    all_norms = before.dual_coef.detach().norm(dim=0).split(before.support_per_class)
    left = after.dual_coef.detach().norm(dim=0).split(after.support_per_class)
    for norms, kept in zip(all_norms, left, strict=True):
        assert torch.equal(norms.sort().values[-len(kept) :], kept.sort().values)
    assert len(machine(model.prune_support_vectors(1)).support_vectors) == 1


def test_support_vectors_without_a_coefficient_change_nothing_when_they_go(svc: Any) -> None:
    _, _, others, _ = halves("digits")
    model = sw.from_sklearn(svc)
    idle = [0, 3, 40, 41]
    with torch.no_grad():
        machine(model).dual_coef[:, idle] = 0
    fewer = model.prune_support_vectors(0)
    assert len(machine(fewer).support_vectors) == len(machine(model).support_vectors) - len(idle)
    assert np.abs(decisions(fewer, others) - decisions(model, others)).max() < 1e-12


def test_retraining_brings_back_what_pruned_support_vectors_lost(svc: Any) -> None:
    rows, labels, others, wanted = halves("digits")
    pruned = sw.from_sklearn(svc).prune_support_vectors(0.7)
    small = sw.compress(pruned, bits=4)
    before = sw.evaluate(small, (others, wanted))
    again = sw.retrain(small, (rows, labels), epochs=4, lr=0.01, progress=False)
    assert sw.evaluate(again, (others, wanted)).value > before.value + 0.1
    assert again.nbytes == small.nbytes


# ---- what does not convert says so ----


class Shifted(Ridge):  # type: ignore[misc]  # scikit-learn is untyped
    """Predicts something else than its coefficients say."""

    def predict(self, X: Any) -> Any:  # noqa: N803
        return super().predict(X) + 1


class Swapped(SVC):  # type: ignore[misc]
    """Takes one class for another."""

    def predict(self, X: Any) -> Any:  # noqa: N803
        return self.classes_[::-1][np.searchsorted(self.classes_, super().predict(X))]


def searched() -> Any:
    rows, labels, _, _ = halves("wine")
    return GridSearchCV(LogisticRegression(max_iter=20), {"C": [1.0]}, cv=2).fit(rows, labels)


def fitted(estimator: Any) -> Callable[[], Any]:
    def fit() -> Any:
        rows, labels, _, _ = halves("wine")
        return estimator.fit(rows, labels)

    return fit


def fitted_on_sparse_rows() -> Any:
    texts = FARM.split(";") + SEA.split(";")
    return SVC().fit(TfidfVectorizer().fit_transform(texts), [0] * 5 + [1] * 5)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "forest": (
        lambda: RandomForestClassifier(3),
        r"RandomForestClassifier cannot become a module: trees compare one feature at a time, .* supported are",
    ),
    "tree": (lambda: DecisionTreeRegressor(), r"DecisionTreeRegressor cannot become a module: trees compare"),
    "neighbors": (
        lambda: KNeighborsClassifier(),
        r"KNeighborsClassifier cannot become a module: it keeps its examples",
    ),
    "other": (lambda: GaussianProcessClassifier(), r"GaussianProcessClassifier cannot become a module; supported are"),
    "one class": (lambda: OneClassSVM(), r"OneClassSVM cannot become a module; supported are"),
    "link": (lambda: PoissonRegressor(), r"PoissonRegressor cannot become a module; supported are"),
    "search": (searched, r"a GridSearchCV is a search: give the estimator it found, \.best_estimator_"),
    "class": (lambda: SVC, r"SVC is a class: give an estimator made of it, SVC\(…\)\.fit\(X, y\)"),
    "module": (lambda: torch.nn.Linear(2, 2), r"cannot convert a Linear: give a fitted scikit-learn estimator"),
    "unfitted": (lambda: SVC(), r"this SVC is not fitted: call \.fit\(X, y\) first"),
    "unfitted pipeline": (
        lambda: make_pipeline(StandardScaler(), SVC()),
        r"this StandardScaler is not fitted: call \.fit\(X, y\) first",
    ),
    "step": (
        fitted(make_pipeline(PolynomialFeatures(), Ridge())),
        r"step 'polynomialfeatures' of the pipeline is a PolynomialFeatures, and only .* sw\.from_sklearn\(pipe",
    ),
    "precomputed": (
        lambda: SVC(kernel="precomputed").fit(np.eye(4), [0, 0, 1, 1]),
        r"the kernel of this SVC is precomputed, which no module can compute: fit it with 'rbf', 'poly', 'sigmoid' or",
    ),
    "callable": (fitted(SVC(kernel=lambda x, y: x @ y.T)), r"the kernel of this SVC is a function of yours, which no"),
    "sparse rows": (
        fitted_on_sparse_rows,
        r"this SVC was fitted on sparse rows and keeps sparse support vectors: fit it",
    ),
    "sparse weights": (
        lambda: fitted(LogisticRegression(max_iter=20))().sparsify(),
        r"the coef_ of this LogisticRegression is sparse: call \.densify\(\) first",
    ),
    "labels overridden": (fitted(Swapped()), r"Swapped predicts other values than its fitted arrays give"),
    "overridden": (fitted(Shifted()), r"Shifted predicts other values than its fitted arrays give"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_convert_is_refused_by_name(name: str) -> None:
    build, sentence = REFUSED[name]
    given = build()
    with pytest.raises(ModelError, match=f"^{sentence}") as found:
        sw.from_sklearn(given)
    assert "\n" not in str(found.value)


def test_only_support_vector_machines_lose_support_vectors(svc: Any) -> None:
    with pytest.raises(
        ModelError, match=r"Linear has no support vectors: prune its weights, sw\.compress\(model, 0\.5\)"
    ):
        sw.from_sklearn(fitted(Ridge())()).prune_support_vectors(0.5)
    with pytest.raises(ModelError, match=r"prune_support_vectors\(1\.5\): the share to remove must be from 0 to 1"):
        sw.from_sklearn(svc).prune_support_vectors(1.5)
    with pytest.raises(ArgumentError, match="did you mean 'sparsity'"):
        sw.from_sklearn(svc).prune_support_vectors(amount=0.5)  # type: ignore[call-arg]


@pytest.mark.parametrize("function", [sw.explore, sw.sketch])
def test_an_estimator_given_for_a_model_leads_to_from_sklearn(function: Callable[[Any], object], svc: Any) -> None:
    with pytest.raises(
        ModelError, match=r"cannot look at a Pipeline: give sw\.from_sklearn\(estimator\), a module with"
    ):
        function(svc)


def test_without_scikit_learn_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.exceptions", None)
    with pytest.raises(MissingPackageError, match=r'needs scikit-learn: pip install "shrinkwidget\[sklearn\]"'):
        sw.from_sklearn(3)
