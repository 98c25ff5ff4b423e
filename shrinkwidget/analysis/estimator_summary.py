"""What a fitted scikit-learn estimator weighs: its arrays by part, and what makes them grow.

scikit-learn is not imported: estimators are known by the names of their classes, and their arrays are found by looking.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError, a_type
from .model_summary import STYLE, CountedFile, aligned, bytes_text, exactly, html_rows, share_of
from .open_model_tensors_and_channel_axes import nbytes_of, sklearn_class

Array: TypeAlias = NDArray[Any]
Path: TypeAlias = tuple[str, ...]
"""The attributes that lead to an array: ``("_optimizer", "ms")``."""

LINEAR: Final = (
    *("ARDRegression", "BayesianRidge", "ElasticNet", "ElasticNetCV", "HuberRegressor", "Lars", "LarsCV", "Lasso"),
    *("LassoCV", "LassoLars", "LassoLarsCV", "LassoLarsIC", "LinearDiscriminantAnalysis", "LinearRegression"),
    *("LinearSVC", "LinearSVR", "LogisticRegression", "LogisticRegressionCV", "MultiTaskElasticNet"),
    *("MultiTaskElasticNetCV", "MultiTaskLasso", "MultiTaskLassoCV", "OrthogonalMatchingPursuit"),
    *("OrthogonalMatchingPursuitCV", "PassiveAggressiveClassifier", "PassiveAggressiveRegressor", "Perceptron"),
    *("QuantileRegressor", "Ridge", "RidgeCV", "RidgeClassifier", "RidgeClassifierCV", "SGDClassifier"),
    *("SGDRegressor", "TheilSenRegressor"),
)
"""Estimators that predict ``x @ coef_.T + intercept_``."""
KERNEL: Final = ("NuSVC", "NuSVR", "SVC", "SVR")
MLP: Final = ("MLPClassifier", "MLPRegressor")


@dataclass(frozen=True, slots=True)
class EstimatorPart:
    """Some of the arrays of an estimator: what they are, how they come to be as many, their dtype and bytes."""

    name: str
    what: str
    dtype: str
    nbytes: int


@dataclass(frozen=True, repr=False)
class EstimatorSummary:
    """What a fitted scikit-learn estimator weighs, part by part and in all.

    Attributes:
        title: the estimator's class; of a pipeline its steps.
        grows_with: what its bytes are proportional to, in words: ``"support vectors × features"``.
        counts: how many of these there are, and of what else there is to say, by name.
        parts: its arrays in groups, the largest first; a step of a pipeline before the last is one. What has no name
            of its own has that of its attribute.
        pickle: bytes that ``pickle.dump`` writes, by which (or by joblib) scikit-learn's models are saved; None for an
            estimator that cannot be pickled, such as one whose kernel is a lambda.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.svm import LinearSVC
        >>> import shrinkwidget as sw
        >>> found = sw.summary(LinearSVC().fit(*load_iris(return_X_y=True)))
        >>> found.grows_with, found.counts, found.parts[0].nbytes
        ('features × classes', {'features': 4, 'classes': 3}, 96)
    """

    title: str
    grows_with: str
    counts: Mapping[str, int]
    parts: tuple[EstimatorPart, ...]
    pickle: int | None

    @property
    def nbytes(self) -> int:
        """Bytes of all its arrays in memory, those that share memory once."""
        return sum(part.nbytes for part in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values: the totals, and the parts.

        Example:
            >>> from sklearn.linear_model import Ridge
            >>> import shrinkwidget as sw
            >>> sw.summary(Ridge().fit([[0.0], [1.0]], [0, 1])).to_dict()["grows_with"]
            'features × targets'
        """
        totals: dict[str, Any] = {"title": self.title, "grows_with": self.grows_with, "counts": dict(self.counts)}
        totals |= {"nbytes": self.nbytes, "pickle": self.pickle}
        return totals | {"parts": [asdict(part) for part in self.parts]}

    def markdown(self) -> str:
        """Return its parts as a table of GitHub's Markdown, and the total.

        Example:
            >>> from sklearn.linear_model import Ridge
            >>> import shrinkwidget as sw
            >>> print(sw.summary(Ridge().fit([[0.0], [1.0]], [0, 1])).markdown())
            | part | what | dtype | bytes | share |
            | --- | --- | --- | ---: | ---: |
            | weights | 1 × 1 feature | float64 | 8 B | 100.0 % |
            | **Ridge** | features × targets | | 8 B | 100.0 % |
        """
        head, body = self._table()
        total = [f"**{self.title}**", self.grows_with, "", bytes_text(self.nbytes), "100.0 %"]
        lines = [head, ["---", "---", "---", "---:", "---:"], *body, total]
        return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)

    def __repr__(self) -> str:
        head, body = self._table()
        widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
        totals = [f"  {name:<12} {value}" for name, value in self._totals()]
        return "\n".join([self._headline(), *totals, "", *(aligned(row, widths) for row in (head, *body))])

    def _repr_html_(self) -> str:
        totals = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in self._totals())
        return (
            f'<div class="shrinkwidget-size">{STYLE}<strong>{escape(self._headline())}</strong>'
            f'<table><tbody>{totals}</tbody></table><div class="layers">{html_rows(*self._table())}</div></div>'
        )

    def _headline(self) -> str:
        counts = ", ".join(counted(n, name) for name, n in self.counts.items())
        return f"{self.title}: {bytes_text(self.nbytes)}, {counts}"

    def _totals(self) -> list[tuple[str, str]]:
        pickled = "cannot be pickled" if self.pickle is None else exactly(self.pickle)
        return [("in memory", exactly(self.nbytes)), ("grows with", self.grows_with), ("pickle", pickled)]

    def _table(self) -> tuple[list[str], list[list[str]]]:
        rows = [
            [part.name, part.what, part.dtype, bytes_text(part.nbytes), share_of(part.nbytes, self.nbytes)]
            for part in self.parts
        ]
        return ["part", "what", "dtype", "bytes", "share"], rows


def counted(n: int, name: str) -> str:
    """Return a count with its noun: ``"1 class"``, ``"1,797 examples"``."""
    singular = {"classes": "class"}.get(name, name.removesuffix("s"))
    return f"{n:,} {singular if n == 1 else name}"


def summarize_estimator(estimator: Any) -> EstimatorSummary:
    """Weigh a fitted estimator of scikit-learn, or a pipeline that ends in one.

    Raises:
        ModelError: for an estimator of another kind, or one that was not fitted.
    """
    steps: list[Any] = [estimator]
    if sklearn_class(estimator) == "Pipeline":
        steps = [step for _, step in estimator.steps if step not in (None, "passthrough")]
    *before, last = steps
    family = next((family for family in _FAMILIES if sklearn_class(last) in family.classes), None)
    if family is None:
        if hasattr(last, "best_estimator_"):
            raise ModelError(f"{a_type(last)} is a search: give the estimator it found, .best_estimator_")
        raise ModelError(
            f"cannot weigh {a_type(last)}: of scikit-learn's estimators linear models, support vector machines, MLPs, "
            f"decision trees, random forests, gradient boosting and nearest neighbours are known, alone or in a "
            f"Pipeline"
        )
    if not all(hasattr(last, name) for name in family.needs):
        raise ModelError(f"this {type(last).__name__} is not fitted: call .fit(X, y) first")
    seen: dict[tuple[int, int], Array] = {}
    parts = _parts_of(last, family, seen)
    for step in before:
        arrays = [array for _, array in _arrays(step, (), seen)]
        what = _shapes(arrays)
        nbytes = sum(array.nbytes for array in arrays)
        if words := getattr(step, "vocabulary_", None):  # of a vectorizer: texts are no arrays
            what, nbytes = f"{counted(len(words), 'terms')}, pickled", nbytes + nbytes_of(words)
        parts.append(EstimatorPart(type(step).__name__, what, _dtypes(arrays), nbytes))
    counted_file: Any = CountedFile()
    try:
        pickle.dump(estimator, counted_file, protocol=pickle.HIGHEST_PROTOCOL)
        pickled = counted_file.nbytes
    except Exception:  # noqa: BLE001  # an object of others may raise anything
        pickled = None
    return EstimatorSummary(
        " → ".join(type(step).__name__ for step in steps),
        family.grows_with(last),
        family.counts(last),
        tuple(sorted((part for part in parts if part.nbytes), key=lambda part: -part.nbytes)),
        pickled,
    )


def _parts_of(fitted: Any, family: _Family, seen: dict[tuple[int, int], Array]) -> list[EstimatorPart]:
    groups: dict[str, list[Array]] = {}
    for path, array in _arrays(fitted, (), seen):
        name = next((part for attribute, part in family.parts.items() if attribute in path), path[0])
        groups.setdefault(name, []).append(array)
    sizes = {name: sum(array.nbytes for array in arrays) for name, arrays in groups.items()}
    # What is below a hundredth and has no name of its own is one row, or a table of an SVM would have a dozen of 8
    # bytes.
    known, least = set(family.parts.values()), sum(sizes.values()) / 100
    small = [name for name in groups if name not in known and sizes[name] < least]
    parts = [
        EstimatorPart(name, family.what(fitted, name) or _shapes(arrays), _dtypes(arrays), sizes[name])
        for name, arrays in groups.items()
        if name not in small
    ]
    if small:
        others = [array for name in small for array in groups[name]]
        parts.append(EstimatorPart("other", ", ".join(small), _dtypes(others), sum(sizes[name] for name in small)))
    return parts


# ---- the arrays of an estimator ----


def _arrays(value: Any, path: Path, seen: dict[tuple[int, int], Array]) -> Iterator[tuple[Path, Array]]:
    """Yield every array an estimator holds, and the attributes that lead there; those in one memory once.

    `seen` holds on to the arrays: the memory of one that is gone would be given to the next.
    """
    if isinstance(value, np.ndarray) and value.dtype != object:
        place = (value.__array_interface__["data"][0], value.nbytes)
        if value.nbytes and place not in seen:
            seen[place] = value
            yield path, value
        return
    for name, child in _children(value):
        yield from _arrays(child, (*path, name), seen)


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    where = type(value).__module__
    if isinstance(value, np.ndarray):  # of objects: the trees of gradient boosting
        yield from (("", child) for child in value.flat)
    elif isinstance(value, list | tuple):
        yield from (("", child) for child in value)
    elif isinstance(value, Mapping):
        yield from ((str(name), child) for name, child in value.items())
    elif hasattr(value, "tocsr"):  # scipy's sparse matrices
        yield from ((name, getattr(value, name)) for name in ("data", "indices", "indptr") if hasattr(value, name))
    elif hasattr(value, "get_arrays"):  # KDTree and BallTree, whose first array is the examples themselves
        yield from (("", np.asarray(array)) for array in value.get_arrays())
    # Compiled (Cython): no attributes to walk through; its pickled state has the arrays.
    elif where == "sklearn.tree._tree":
        state = value.__getstate__()
        yield from ((name, state[name]) for name in ("nodes", "values"))
    elif where.startswith("sklearn.") or hasattr(value, "get_params"):
        yield from getattr(value, "__dict__", {}).items()


def _shapes(arrays: list[Array]) -> str:
    if len(arrays) == 1:
        shape = arrays[0].shape
        return " × ".join(f"{n:,}" for n in shape) if len(shape) > 1 else counted(arrays[0].size, "numbers")
    return f"{counted(sum(array.size for array in arrays), 'numbers')} in {len(arrays):,} arrays" if arrays else ""


def _dtypes(arrays: list[Array]) -> str:
    # the dtype of nodes has a field for each thing a node knows
    names = {"record" if array.dtype.names else str(array.dtype): None for array in arrays}
    return ", ".join(names)


# ---- what each family of estimators consists of, and what makes it grow ----


@dataclass(frozen=True)
class _Family:
    """Estimators that weigh alike.

    `parts` names groups of arrays by an attribute on the way to them. `needs` are attributes a fitted one has.
    """

    classes: tuple[str, ...]
    needs: tuple[str, ...]
    parts: Mapping[str, str]
    counts: Callable[[Any], dict[str, int]]
    grows_with: Callable[[Any], str]
    what: Callable[[Any, str], str] = field(default=lambda _fitted, _part: "")


def _classes_or_targets(fitted: Any, targets: int) -> dict[str, int]:
    classes = getattr(fitted, "classes_", None)
    if classes is None:
        return {"targets": targets}
    # of several outputs it is a list with the classes of each
    return {"classes": sum(map(len, classes)) if isinstance(classes, list) else len(classes)}


def _linear_counts(fitted: Any) -> dict[str, int]:
    rows, features = np.atleast_2d(fitted.coef_).shape if not hasattr(fitted.coef_, "tocsr") else fitted.coef_.shape
    return {"features": features, **_classes_or_targets(fitted, rows)}


def _linear_what(fitted: Any, part: str) -> str:
    if part != "weights":
        return ""
    rows = 1 if fitted.coef_.ndim == 1 else len(fitted.coef_) if isinstance(fitted.coef_, np.ndarray) else 0
    return f"{rows:,} × {counted(fitted.coef_.shape[-1], 'features')}" if rows else "sparse"


def _kernel_what(fitted: Any, part: str) -> str:
    count, features = fitted.support_vectors_.shape
    if part == "support vectors":
        return f"{count:,} × {counted(features, 'features')}"
    # libsvm fits a machine for each pair of classes; a support vector has a coefficient for each class but its own
    return f"{fitted.dual_coef_.shape[0]:,} × {counted(count, 'support vectors')}" if part == "coefficients" else ""


def _mlp_counts(fitted: Any) -> dict[str, int]:
    hidden = sum(weights.shape[1] for weights in fitted.coefs_[:-1])
    sizes = {"features": len(fitted.coefs_[0]), "hidden units": hidden}
    return sizes | _classes_or_targets(fitted, fitted.n_outputs_)


def _mlp_what(fitted: Any, part: str) -> str:
    if part == "weights":
        return " + ".join(" × ".join(map(str, weights.shape)) for weights in fitted.coefs_)
    return "kept by fit, for more training" if part == "optimizer" else ""


def _trees(fitted: Any) -> list[Any]:
    # histogram gradient boosting shows its trees nowhere in public
    if hasattr(fitted, "_predictors"):
        return [tree for trees in fitted._predictors for tree in trees]
    found = getattr(fitted, "estimators_", None)
    return [fitted.tree_] if found is None else [tree.tree_ for tree in np.asarray(found, dtype=object).flat]


def _tree_counts(fitted: Any) -> dict[str, int]:
    trees = _trees(fitted)
    nodes = sum(len(tree.nodes) if hasattr(tree, "nodes") else tree.node_count for tree in trees)
    return {"trees": len(trees), "nodes": nodes, **_classes_or_targets(fitted, getattr(fitted, "n_outputs_", 1))}


def _tree_what(fitted: Any, part: str) -> str:
    counts = _tree_counts(fitted)
    nodes = f"{counted(counts['nodes'], 'nodes')} in {counted(counts['trees'], 'trees')}"
    tree = _trees(fitted)[0]
    if part == "nodes":
        node = tree.nodes if hasattr(tree, "nodes") else tree.__getstate__()["nodes"]
        return f"{nodes} × {node.itemsize} B"
    if part == "node values":
        per_node = int(np.prod(tree.value.shape[1:]))
        return f"{counted(counts['nodes'], 'nodes')} × {counted(per_node, 'numbers')}"
    return ""


_FAMILIES: Final = (
    _Family(
        classes=(*LINEAR, "GammaRegressor", "PoissonRegressor", "SGDOneClassSVM", "TweedieRegressor"),
        needs=("coef_",),
        parts={"coef_": "weights", "intercept_": "intercepts"},
        counts=_linear_counts,
        grows_with=lambda fitted: "features × classes" if hasattr(fitted, "classes_") else "features × targets",
        what=_linear_what,
    ),
    _Family(
        classes=(*KERNEL, "OneClassSVM"),
        needs=("support_vectors_",),
        parts={
            "support_vectors_": "support vectors",
            "dual_coef_": "coefficients",
            "_dual_coef_": "coefficients, negated",  # of two classes scikit-learn keeps both signs
            "intercept_": "intercepts",
            "_intercept_": "intercepts",
            "support_": "rows they were",
        },
        counts=lambda fitted: {
            "support vectors": fitted.support_vectors_.shape[0],
            "features": fitted.support_vectors_.shape[1],
            **(_classes_or_targets(fitted, 1)),
        },
        grows_with=lambda _fitted: "support vectors × features",
        what=_kernel_what,
    ),
    _Family(
        classes=MLP,
        needs=("coefs_",),
        parts={"coefs_": "weights", "intercepts_": "biases", "_optimizer": "optimizer"},
        counts=_mlp_counts,
        grows_with=lambda _fitted: "width of a layer × width of the next",
        what=_mlp_what,
    ),
    _Family(
        classes=("DecisionTreeClassifier", "DecisionTreeRegressor", "ExtraTreeClassifier", "ExtraTreeRegressor"),
        needs=("tree_",),
        parts={"nodes": "nodes", "values": "node values"},
        counts=_tree_counts,
        grows_with=lambda fitted: "nodes × classes" if hasattr(fitted, "classes_") else "nodes × targets",
        what=_tree_what,
    ),
    _Family(
        classes=("ExtraTreesClassifier", "ExtraTreesRegressor", "RandomForestClassifier", "RandomForestRegressor"),
        needs=("estimators_",),
        parts={"nodes": "nodes", "values": "node values"},
        counts=_tree_counts,
        grows_with=lambda fitted: f"trees × nodes × {'classes' if hasattr(fitted, 'classes_') else 'targets'}",
        what=_tree_what,
    ),
    _Family(
        classes=("GradientBoostingClassifier", "GradientBoostingRegressor"),
        needs=("estimators_",),
        parts={"nodes": "nodes", "values": "node values"},
        counts=_tree_counts,
        grows_with=lambda _fitted: "trees × nodes",
        what=_tree_what,
    ),
    _Family(
        classes=("HistGradientBoostingClassifier", "HistGradientBoostingRegressor"),
        needs=("_predictors",),
        parts={"nodes": "nodes", "_bin_mapper": "bins"},
        counts=_tree_counts,
        grows_with=lambda _fitted: "trees × nodes",
        what=_tree_what,
    ),
    _Family(
        classes=(
            *("KNeighborsClassifier", "KNeighborsRegressor", "NearestNeighbors"),
            *("RadiusNeighborsClassifier", "RadiusNeighborsRegressor"),
        ),
        needs=("_fit_X",),
        parts={"_fit_X": "examples", "_y": "targets", "_tree": "search tree"},
        counts=lambda fitted: dict(zip(("examples", "features"), fitted._fit_X.shape, strict=True)),
        grows_with=lambda _fitted: "examples × features",
        what=lambda fitted, part: (
            f"{fitted._fit_X.shape[0]:,} × {counted(fitted._fit_X.shape[1], 'features')}" if part == "examples" else ""
        ),
    ),
)
