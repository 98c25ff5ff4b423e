"""What summary says of a scikit-learn estimator is what its arrays weigh."""

from __future__ import annotations

import io
import json
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Lasso, LogisticRegression, LogisticRegressionCV, Ridge, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, NearestNeighbors
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC, NuSVC, OneClassSVM
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

import shrinkwidget as sw
from shrinkwidget.errors import ModelError
from shrinkwidget.results import EstimatorSummary

ROWS, LABELS = (array[:300] for array in load_digits(return_X_y=True))

ESTIMATORS: dict[str, Any] = {
    "logistic": LogisticRegression(max_iter=20),
    "logistic by search": LogisticRegressionCV(max_iter=5, Cs=2, cv=2),
    "linear svc": LinearSVC(),
    "sgd": SGDClassifier(max_iter=5, random_state=0),
    "ridge": Ridge(),
    "lasso": Lasso(),
    "svc": SVC(),
    "nu svc": NuSVC(nu=0.1),
    "svr": SVR(),
    "one class": OneClassSVM(),
    "mlp": MLPClassifier((9, 7), max_iter=3, random_state=0),
    "mlp, lbfgs": MLPRegressor(hidden_layer_sizes=(9,), solver="lbfgs", max_iter=3, random_state=0),
    "tree": DecisionTreeClassifier(random_state=0),
    "regression tree": DecisionTreeRegressor(random_state=0),
    "forest": RandomForestClassifier(7, random_state=0),
    "extra trees": ExtraTreesRegressor(7, random_state=0),
    "boosting": GradientBoostingClassifier(n_estimators=2, random_state=0),
    "histogram boosting": HistGradientBoostingClassifier(max_iter=3, random_state=0),
    "neighbors": KNeighborsClassifier(algorithm="kd_tree"),
    "neighbors, ball tree": KNeighborsRegressor(algorithm="ball_tree"),
    "neighbors, brute force": KNeighborsClassifier(algorithm="brute"),
    "scaled": make_pipeline(StandardScaler(), MinMaxScaler(), SVC()),
}


@pytest.fixture(scope="module")
def fitted() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few steps do not converge, and defaults of LogisticRegressionCV will change
        return {name: estimator.fit(ROWS, LABELS) for name, estimator in ESTIMATORS.items()}


class ArraysOfAPickle(pickle.Pickler):
    """Counts the arrays that a pickle writes: an account of them that owes nothing to `summary`."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._seen: dict[tuple[int, int], Any] = {}
        super().__init__(io.BytesIO(), protocol=5)

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.ndarray) and value.dtype != object:
            place = (value.__array_interface__["data"][0], value.nbytes)
            self.nbytes += 0 if place in self._seen else value.nbytes
            self._seen[place] = value
        return NotImplemented


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_array_of_its_pickle_is_weighed_once(name: str, fitted: dict[str, Any]) -> None:
    found = sw.summary(fitted[name])
    assert found.pickle == len(pickle.dumps(fitted[name], protocol=pickle.HIGHEST_PROTOCOL))
    arrays = ArraysOfAPickle()
    arrays.dump(fitted[name])
    beside = arrays.nbytes - found.nbytes  # settings such as a generator's state, 625 numbers, are not what was fitted
    assert 0 <= beside < 5200
    assert found.nbytes == sum(part.nbytes for part in found.parts)
    assert [part.nbytes for part in found.parts] == sorted((part.nbytes for part in found.parts), reverse=True)


def parts(estimator: Any) -> dict[str, int]:
    return {part.name: part.nbytes for part in sw.summary(estimator).parts}


def test_a_linear_model_is_features_times_classes(fitted: dict[str, Any]) -> None:
    found = sw.summary(fitted["linear svc"])
    assert (found.grows_with, found.counts) == ("features × classes", {"features": 64, "classes": 10})
    assert (found.parts[0].name, found.parts[0].what) == ("weights", "10 × 64 features")
    assert parts(fitted["linear svc"])["weights"] == 10 * 64 * 8
    assert sw.summary(fitted["ridge"]).counts == {"features": 64, "targets": 1}
    # two classes need one row
    two = LinearSVC().fit(ROWS, LABELS > 4)
    assert parts(two)["weights"] == 64 * 8
    # what a search leaves behind weighs more than its model
    assert parts(fitted["logistic by search"])["coefs_paths_"] == 10 * 2 * 2 * 65 * 8


def test_a_support_vector_machine_is_support_vectors_times_features(fitted: dict[str, Any]) -> None:
    svc = fitted["svc"]
    count = len(svc.support_vectors_)
    found = sw.summary(svc)
    assert found.grows_with == "support vectors × features"
    assert found.counts == {"support vectors": count, "features": 64, "classes": 10}
    assert parts(svc)["support vectors"] == count * 64 * 8
    assert parts(svc)["coefficients"] == 9 * count * 8
    assert [part.what for part in found.parts if part.name == "other"] == [
        "class_weight_, classes_, _n_support, _num_iter"
    ]
    negated = parts(SVC().fit(ROWS, LABELS > 4))
    assert negated["coefficients, negated"] == negated["coefficients"]
    sparse = SVC().fit(TfidfVectorizer().fit_transform(["a cow", "the sea", "cow and sea"]), [0, 1, 1])
    assert sw.summary(sparse).nbytes > 0


def test_the_optimizer_of_a_perceptron_weighs_twice_its_weights(fitted: dict[str, Any]) -> None:
    found = sw.summary(fitted["mlp"])
    assert found.counts == {"features": 64, "hidden units": 16, "classes": 10}
    weights, biases = 64 * 9 + 9 * 7 + 7 * 10, 9 + 7 + 10
    assert parts(fitted["mlp"])["weights"] == weights * 8
    assert parts(fitted["mlp"])["optimizer"] == 2 * (weights + biases) * 8
    assert "optimizer" not in parts(fitted["mlp, lbfgs"])


@pytest.mark.parametrize("name", ["tree", "forest", "extra trees", "boosting"])
def test_trees_are_nodes(name: str, fitted: dict[str, Any]) -> None:
    estimator = fitted[name]
    trees = np.ravel(getattr(estimator, "estimators_", estimator))
    nodes = sum(tree.tree_.node_count for tree in trees)
    found = sw.summary(estimator)
    assert found.counts["trees"] == len(trees)
    assert found.counts["nodes"] == nodes
    record = trees[0].tree_.__getstate__()["nodes"].dtype.itemsize
    per_node = 10 if name in ("tree", "forest") else 1
    assert parts(estimator)["nodes"] == nodes * record
    assert parts(estimator)["node values"] == nodes * per_node * 8


def test_trees_of_several_targets_are_weighed_too() -> None:
    both = np.stack([LABELS, -LABELS], 1)
    tree = DecisionTreeRegressor(random_state=0).fit(ROWS, both)
    assert parts(tree)["node values"] == tree.tree_.node_count * 2 * 8
    classes = RandomForestClassifier(3, random_state=0).fit(ROWS, np.stack([LABELS, LABELS > 4], 1))
    assert sw.summary(classes).counts["classes"] == 12


def test_histogram_boosting_keeps_its_bins(fitted: dict[str, Any]) -> None:
    estimator = fitted["histogram boosting"]
    nodes = sum(len(tree.nodes) for trees in estimator._predictors for tree in trees)
    assert sw.summary(estimator).counts == {"trees": 30, "nodes": nodes, "classes": 10}
    assert parts(estimator)["bins"] > 0
    assert sw.summary(GradientBoostingRegressor(n_estimators=2).fit(ROWS, LABELS)).counts["trees"] == 2


def test_neighbors_keep_every_example(fitted: dict[str, Any]) -> None:
    found = sw.summary(fitted["neighbors"])
    assert (found.grows_with, found.counts) == ("examples × features", {"examples": 300, "features": 64})
    assert parts(fitted["neighbors"])["examples"] == 300 * 64 * 8  # in the search tree as well, and counted once
    assert parts(fitted["neighbors"])["search tree"] < 300 * 64 * 8 / 4
    assert "search tree" not in parts(fitted["neighbors, brute force"])
    half = NearestNeighbors(algorithm="brute").fit(ROWS[:150])
    assert parts(half)["examples"] * 2 == parts(fitted["neighbors"])["examples"]


def test_a_pipeline_is_its_last_step_and_what_stands_before(fitted: dict[str, Any]) -> None:
    found = sw.summary(fitted["scaled"])
    assert found.title == "StandardScaler → MinMaxScaler → SVC"
    assert parts(fitted["scaled"])["StandardScaler"] == 3 * 64 * 8  # means, variances, scales
    assert found.counts["features"] == 64


def test_the_vocabulary_of_a_text_model_is_weighed() -> None:
    texts = ["the cow eats grass", "a whale dives in the sea", "stars shine at night"]
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, [0, 1, 2])
    words = model[0].vocabulary_
    step = next(part for part in sw.summary(model).parts if part.name == "TfidfVectorizer")
    assert step.what == f"{len(words)} terms, pickled"
    assert step.nbytes == len(pickle.dumps(words)) + model[0].idf_.nbytes


def test_it_is_shown_as_text_html_and_markdown(fitted: dict[str, Any]) -> None:
    found = sw.summary(fitted["scaled"])
    assert isinstance(found, EstimatorSummary)
    for shown in (repr(found), found._repr_html_(), found.markdown()):
        for part in found.parts:
            assert part.name in shown
            assert part.what in shown
    assert repr(found).startswith("StandardScaler → MinMaxScaler → SVC: ")
    assert "support vectors, 64 features, 10 classes" in repr(found).splitlines()[0]
    assert f"({found.nbytes:,} bytes)" in repr(found)
    widths = {line.count("|") for line in found.markdown().splitlines()}
    assert widths == {6}
    assert json.loads(json.dumps(found.to_dict()))["parts"][0]["nbytes"] == found.parts[0].nbytes


def test_what_cannot_be_pickled_is_weighed_all_the_same() -> None:
    svc = SVC(kernel=lambda x, y: x @ y.T).fit(ROWS[:50], LABELS[:50])
    found = sw.summary(svc)
    assert found.pickle is None
    assert "cannot be pickled" in repr(found)


def test_nothing_of_the_estimator_changes(fitted: dict[str, Any]) -> None:
    for estimator in fitted.values():
        before = pickle.dumps(estimator)
        sw.summary(estimator)
        assert pickle.dumps(estimator) == before


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "other": (
        lambda: KMeans(2, n_init=1).fit(ROWS),
        "cannot weigh a KMeans: of scikit-learn's estimators linear models, support vector machines, .* are known",
    ),
    "last step": (lambda: make_pipeline(StandardScaler()).fit(ROWS), "cannot weigh a StandardScaler: of scikit"),
    "unfitted": (
        lambda: RandomForestClassifier(),
        r"this RandomForestClassifier is not fitted: call \.fit\(X, y\) first",
    ),
    "search": (
        lambda: GridSearchCV(Ridge(), {"alpha": [1.0]}, cv=2).fit(ROWS, LABELS),
        r"a GridSearchCV is a search: give the estimator it found, \.best_estimator_",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_weighed_is_refused_by_name(name: str) -> None:
    build, sentence = REFUSED[name]
    with pytest.raises(ModelError, match=f"^{sentence}") as found:
        sw.summary(build())
    assert "\n" not in str(found.value)


def test_an_estimator_takes_no_example(fitted: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="an example and a layout are for networks"):
        sw.summary(fitted["ridge"], torch.zeros(1, 64))
