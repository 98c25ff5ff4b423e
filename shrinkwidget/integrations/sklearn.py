"""scikit-learn's linear models, perceptrons and kernel machines as PyTorch modules with the same predictions.

What converts is in `_CONVERT`, by class; the scalers that may stand before it in a pipeline are in `SCALERS`.
scikit-learn is imported to ask whether an estimator was fitted, and the modules do without it.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..analysis.estimator_summary import KERNEL, LINEAR, MLP
from ..analysis.open_model_tensors_and_channel_axes import is_estimator, sklearn_class
from ..argument_checks import public
from ..errors import DataError, MissingPackageError, ModelError, a_type, quoted

Array: TypeAlias = NDArray[Any]

SUPPORTED: Final = (
    "linear models (LogisticRegression, LinearSVC, Ridge, SGDClassifier, …), SVC, NuSVC, SVR, NuSVR, MLPClassifier and "
    "MLPRegressor, alone or in a Pipeline behind StandardScaler, MinMaxScaler, MaxAbsScaler or RobustScaler"
)
"""What converts, as an error says it."""

_ACTIVATIONS: Final[Mapping[str, Callable[[], nn.Module]]] = {
    "identity": nn.Identity,
    "logistic": nn.Sigmoid,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
}
_PROBED: Final = 16
"""Rows on which module and estimator are compared."""
_CLOSE: Final = 1e-5
"""The largest difference of two predictions in float64, as a share of the prediction where that is above 1."""


@public()
def from_sklearn(estimator: Any) -> SklearnModel:
    """Return a module that predicts what a fitted scikit-learn estimator does; the estimator is not changed.

    Its weights are ordinary parameters: `explore`, `compress`, `evaluate` and `retrain` work on it as on any network.
    They keep the dtype of the fitted arrays, which is float64 unless the estimator was fitted on float32: without it,
    features that were never scaled would not add up to the same prediction within 1e-5. ``.float()`` halves the bytes.

    Inputs are dense, of any dtype; those of more than two axes are flattened. Make rows of a sparse matrix dense,
    whole or batch by batch: ``torch.from_numpy(X[:128].toarray())``.

    Args:
        estimator: a linear model, `SVC`, `NuSVC`, `SVR`, `NuSVR`, `MLPClassifier` or `MLPRegressor`, alone or as
            the last step of a pipeline behind scalers. Module and estimator are compared on a few rows before it is
            returned.

    Raises:
        ModelError: for any other estimator, one that was not fitted, one that keeps sparse weights, or a kernel
            that is precomputed or a function.
        MissingPackageError: where scikit-learn is not installed; the extra "sklearn" brings it.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> from sklearn.svm import SVC
        >>> import shrinkwidget as sw
        >>> images, labels = load_digits(return_X_y=True)
        >>> svc = SVC().fit(images[:1000], labels[:1000])
        >>> model = sw.from_sklearn(svc)
        >>> bool((model.predict(images[1000:]) == svc.predict(images[1000:])).all())
        True
        >>> small = sw.compress(model, bits=4)
        >>> sw.evaluate(small, (images[1000:], labels[1000:])) > 0.93
        True
    """
    try:
        from sklearn.exceptions import NotFittedError
        from sklearn.utils.validation import check_is_fitted
    except ImportError as error:
        raise MissingPackageError('sw.from_sklearn needs scikit-learn: pip install "shrinkwidget[sklearn]"') from error
    if isinstance(estimator, type):
        raise ModelError(
            f"{estimator.__name__} is a class: give an estimator made of it, {estimator.__name__}(…).fit(X, y)"
        )
    if not is_estimator(estimator):
        raise ModelError(
            f"cannot convert {a_type(estimator)}: give a fitted scikit-learn estimator; supported are {SUPPORTED}"
        )
    scalers, last = _steps(estimator)
    name = sklearn_class(last)
    convert = next((how for names, how in _CONVERT.items() if name in names), None)
    if convert is None:
        raise ModelError(_unsupported(last, name))
    try:
        for step in (*scalers, last):
            check_is_fitted(step)
    except NotFittedError as error:
        raise ModelError(f"this {type(step).__name__} is not fitted: call .fit(X, y) first") from error
    parts = convert(last)
    classes = getattr(last, "classes_", None)
    module = SklearnModel([_scaler(step) for step in scalers], parts, None if classes is None else np.asarray(classes))
    _compare(module.eval(), estimator, scalers, last)
    return module


class SklearnModel(nn.Module):
    """A fitted scikit-learn estimator as a module; `from_sklearn` makes it.

    Called on inputs, float or integer ``[rows, …]``, it returns what `evaluate` scores and `retrain` trains:

    * of a regression the prediction, shaped as the estimator's,
    * of two classes the decision value ``[rows]``, which is positive for the second class,
    * of more classes the decision values ``[rows, classes]``, and of several labels a row a value for each
      ``[rows, labels]``. Those of an MLP are logits, before softmax or sigmoid; those of an SVC are of one class
      against all others (``"ovr"``). In training mode an SVC's votes are softened, so that they have a gradient.

    Labels in the data are class numbers, 0, 1, …: `class_numbers` makes them of others.

    Attributes:
        classes: the labels the estimator knows, in order; None for a regression.
        scaler: what a pipeline does before, else empty; its numbers are buffers, and not compressed.
        estimator: a ``Linear`` layer, the layers of an MLP, or a `KernelMachine`.

    Example:
        >>> import torch, shrinkwidget as sw
        >>> from sklearn.linear_model import Perceptron
        >>> model = sw.from_sklearn(Perceptron().fit([[0.0], [1.0], [2.0]], ["low", "middle", "high"]))
        >>> model.classes.tolist(), model(torch.zeros(5, 1)).shape
        (['high', 'low', 'middle'], torch.Size([5, 3]))
    """

    def __init__(self, scalers: Sequence[nn.Module], fitted: Converted, classes: Array | None) -> None:
        super().__init__()
        self.scaler = nn.Sequential(*scalers)
        self.estimator = fitted.module
        self.classes = classes
        self._squeezed = fitted.squeezed
        self._multilabel = fitted.multilabel

    def forward(self, x: Tensor) -> Tensor:
        """Return predictions of a regression, or decision values."""
        # A column is dropped where scikit-learn's predict gives a vector.
        values: Tensor = self.estimator(self._rows(x))
        return values.squeeze(1) if self._squeezed else values

    def _rows(self, x: Tensor) -> Tensor:
        """Return inputs as the estimator takes them: dense rows, scaled, in its dtype."""
        x = x if x.layout == torch.strided else x.to_dense()
        # cast, as scikit-learn does: rows are float32 or integers as often as they are float64
        rows: Tensor = self.scaler(x.flatten(1)).to(next(self.estimator.parameters()).dtype)
        return rows

    @torch.no_grad()
    def predict(self, inputs: Any) -> Array:
        """Return what the estimator's own `predict` returns: labels ``[rows]``, or values of a regression.

        Where classes have equally many votes, an SVC takes the first unless it was told to ``break_ties``, and so
        does this; `evaluate` takes the class of the largest decision value, as ``break_ties=True`` does.

        Example:
            >>> from sklearn.datasets import load_iris
            >>> from sklearn.linear_model import LogisticRegression
            >>> import shrinkwidget as sw
            >>> rows, species = load_iris(return_X_y=True)
            >>> model = sw.from_sklearn(LogisticRegression(max_iter=1000).fit(rows, species))
            >>> model.predict(rows[:3])
            array([0, 0, 0])
        """
        x = torch.as_tensor(inputs).to(next(self.parameters()).device)
        if self.classes is not None and isinstance(self.estimator, KernelMachine):
            values = self.estimator.voted(self._rows(x))
        else:
            values = self(x)
            if self.classes is not None:
                # two classes have one decision value between them, several labels one each
                values = (values > 0).long() if values.ndim == 1 or self._multilabel else values.argmax(1)
        found: Array = values.numpy(force=True)
        return found if self.classes is None or self._multilabel else np.asarray(self.classes[found])

    def class_numbers(self, labels: Any) -> Tensor:
        """Return labels as the estimator knows them (texts, −1 and 1, …) as class numbers, int64 ``[rows]``.

        Raises:
            DataError: for a label it was not fitted on.
            ModelError: for a regression, which has no classes.

        Example:
            >>> from sklearn.linear_model import LogisticRegression
            >>> import shrinkwidget as sw
            >>> spam = LogisticRegression().fit([[0.0], [1.0]], ["ham", "spam"])
            >>> sw.from_sklearn(spam).class_numbers(["spam", "ham"])
            tensor([1, 0])
        """
        if self.classes is None or self._multilabel:
            raise ModelError(
                "class numbers are those of one label a row: this model has values to predict, give them as they are"
            )
        found = np.asarray(labels)
        strange = found[~np.isin(found, self.classes)]
        if strange.size:
            known = ", ".join(map(str, self.classes[:10].tolist()))
            raise DataError(
                f"the estimator was not fitted on the label {quoted(strange.flat[0].item())}; it knows {known}"
            )
        # sorted, as `numpy.unique` gave them to fit
        return torch.from_numpy(np.searchsorted(self.classes, found))

    @public()
    def prune_support_vectors(self, sparsity: float) -> SklearnModel:
        """Return the model with fewer support vectors; this one is not changed.

        Unlike pruned weights, which cost a mask, those that go leave the file, and the arithmetic too. First go those
        whose coefficients are all zero, whatever the sparsity; then, in each class, those whose term in the decision
        has the smallest norm in the kernel's space, ‖dual_coef[:, s]‖ · √k(s, s).

        Args:
            sparsity: the share of each class's support vectors to remove, 0 … 1; at least one of all stays.

        Raises:
            ModelError: if the model has no support vectors, or for a sparsity out of range.

        Example:
            >>> from sklearn.datasets import load_breast_cancer
            >>> from sklearn.svm import SVC
            >>> import shrinkwidget as sw
            >>> model = sw.from_sklearn(SVC().fit(*load_breast_cancer(return_X_y=True)))
            >>> half = model.prune_support_vectors(0.5)
            >>> round(len(half.estimator.support_vectors) / len(model.estimator.support_vectors), 1)
            0.5
        """
        machine = self.estimator
        if not isinstance(machine, KernelMachine):
            raise ModelError(
                f"{type(machine).__name__} has no support vectors: prune its weights, sw.compress(model, {sparsity!r})"
            )
        if not isinstance(sparsity, int | float) or not 0 <= sparsity <= 1:
            raise ModelError(f"prune_support_vectors({sparsity!r}): the share to remove must be from 0 to 1")
        kept = Converted(machine.pruned(float(sparsity)), self._squeezed, self._multilabel)
        return SklearnModel(copy.deepcopy(list(self.scaler)), kept, self.classes).train(self.training)


@dataclass(frozen=True)
class Converted:
    """What predicts in an estimator, and how its outputs are shaped as the estimator's."""

    module: nn.Module
    squeezed: bool = False
    multilabel: bool = False


# ---- scalers ----


class Scaler(nn.Module):
    """Subtracts a number from each feature and divides by another, in their dtype; `clip` bounds the result."""

    shift: Tensor
    scale: Tensor

    def __init__(self, shift: Tensor, scale: Tensor, clip: tuple[float, float] | None = None) -> None:
        super().__init__()
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)
        self.clip = clip

    def forward(self, x: Tensor) -> Tensor:
        """Scale rows ``[rows, features]``."""
        x = (x.to(self.scale.dtype) - self.shift) / self.scale
        return x if self.clip is None else x.clamp(*self.clip)


SCALERS: Final[Mapping[str, Callable[[Any], tuple[Array | None, Array | None]]]] = {
    "MaxAbsScaler": lambda step: (None, step.scale_),
    # scikit-learn multiplies and then adds, x · scale_ + min_
    "MinMaxScaler": lambda step: (-step.min_ / step.scale_, 1 / step.scale_),
    "RobustScaler": lambda step: (step.center_, step.scale_),
    "StandardScaler": lambda step: (step.mean_ if step.with_mean else None, step.scale_),
}
"""By class of a scaler, what it subtracts from each feature and what it then divides by; None where it does neither."""


def _scaler(step: Any) -> Scaler:
    shift, scale = SCALERS[sklearn_class(step)](step)
    none = np.zeros(step.n_features_in_)
    low, high = getattr(step, "feature_range", (0, 1))
    return Scaler(
        _tensor(none if shift is None else shift),
        _tensor(none + 1 if scale is None else scale),
        clip=(low, high) if getattr(step, "clip", False) else None,
    )


# ---- linear models and perceptrons ----


def _linear(fitted: Any) -> Converted:
    coef = fitted.coef_
    if not isinstance(coef, np.ndarray):
        raise ModelError(f"the coef_ of this {type(fitted).__name__} is sparse: call .densify() first")
    weight = coef.reshape(-1, coef.shape[-1])
    # without an intercept it is the single number 0.0
    bias = np.broadcast_to(np.asarray(fitted.intercept_, dtype=weight.dtype), len(weight))
    classes = getattr(fitted, "classes_", None)
    binarizer = getattr(fitted, "_label_binarizer", None)  # of RidgeClassifier, the only one to take several labels
    multilabel = binarizer is not None and binarizer.y_type_.startswith("multilabel")
    squeezed = coef.ndim == 1 if classes is None else len(weight) == 1 and not multilabel
    return Converted(_layer(weight, bias), squeezed, multilabel)


def _perceptron(fitted: Any) -> Converted:
    layers: list[nn.Module] = []
    for weight, bias in zip(fitted.coefs_, fitted.intercepts_, strict=True):
        layers += [_layer(weight.T, bias), _ACTIVATIONS[fitted.activation]()]
    # without the last activation: a network for torch's losses ends in logits, and the largest is the same class
    layers[-1:] = [Exp()] if fitted.out_activation_ == "exp" else []
    multilabel = fitted.out_activation_ == "logistic" and fitted._label_binarizer.y_type_.startswith("multilabel")
    return Converted(nn.Sequential(*layers), fitted.n_outputs_ == 1, multilabel)


class Exp(nn.Module):
    """e to the power of its inputs, in which a regression with Poisson loss ends."""

    def forward(self, x: Tensor) -> Tensor:
        """Return exp(x)."""
        return x.exp()


def _layer(weight: Array, bias: Array) -> nn.Linear:
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, device="meta")  # which draws no random numbers for weights that are replaced
    layer.weight, layer.bias = nn.Parameter(_tensor(weight)), nn.Parameter(_tensor(bias))
    return layer


# ---- kernel machines ----


class KernelMachine(nn.Module):
    """A support vector machine: a weighted sum of kernels between a row and each support vector.

    Of C > 2 classes libsvm fits one machine for each pair i < j; all share the support vectors. That of class c has
    C − 1 coefficients, one for each other class in order, so that a column of `dual_coef` serves C − 1 of the
    C(C − 1)/2 pairs.

    Attributes:
        support_vectors: ``[support vectors, features]``, those of the first class first.
        dual_coef: ``[max(1, classes − 1), support vectors]``.
        intercept: ``[pairs]``.
    """

    pairs: Tensor

    def __init__(
        self,
        support_vectors: Tensor,
        dual_coef: Tensor,
        intercept: Tensor,
        support_per_class: Sequence[int],
        kernel: Kernel,
        break_ties: bool = False,
    ) -> None:
        super().__init__()
        self.support_vectors = nn.Parameter(support_vectors)
        self.dual_coef = nn.Parameter(dual_coef)
        self.intercept = nn.Parameter(intercept)
        self.support_per_class = tuple(support_per_class)
        self.kernel = kernel
        self.break_ties = break_ties
        # which pair each coefficient belongs to; follows from the counts, so no file holds it
        self.register_buffer("pairs", _pairs(self.support_per_class, len(dual_coef)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return decision values: ``[rows, 1]`` of two classes or a regression, else ``[rows, classes]``."""
        margins = self.margins(x)
        if margins.shape[1] == 1:
            return margins
        # a vote has no gradient, so training has a soft one: ±1 beyond the margin, 0 on the border
        return self._sums(margins.tanh()) if self.training else self._by_class(margins)

    def margins(self, x: Tensor) -> Tensor:
        """Return the decision value of each pair ``[rows, pairs]``: positive for the first class of a pair.

        With two classes, as scikit-learn has it, positive for the second.
        """
        coef: Tensor = self.dual_coef
        if len(self.intercept) > 1:
            coef = coef.new_zeros(len(self.intercept), coef.shape[1]).scatter(0, self.pairs, coef)
        return F.linear(self.kernel(x, self.support_vectors), coef, self.intercept)

    def voted(self, x: Tensor) -> Tensor:
        """Return the number of the class that scikit-learn's `predict` chooses, int64 ``[rows]``."""
        margins = self.margins(x)
        if margins.shape[1] == 1:
            return (margins[:, 0] >= 0).long()
        if self.break_ties:
            return self._by_class(margins).argmax(1)
        # libsvm counts votes and takes the first class that has the most
        return self._votes(margins > 0).argmax(1)

    def _by_class(self, margins: Tensor) -> Tensor:
        """Return decision values of each class as scikit-learn makes them of pairs (``_ovr_decision_function``).

        Votes come first; the sum of a class's margins, squeezed into −1/3 … 1/3, decides between equally many.
        """
        sums = self._sums(margins)
        return self._votes(margins >= 0).to(sums.dtype) + sums / (3 * (sums.abs() + 1))

    def _sums(self, margins: Tensor) -> Tensor:
        first, second = self._classes_of_pairs(margins.device)
        sums = margins.new_zeros(len(margins), len(self.support_per_class))
        return sums.index_add(1, first, margins).index_add(1, second, -margins)

    def _votes(self, for_first: Tensor) -> Tensor:
        first, second = self._classes_of_pairs(for_first.device)
        votes = torch.zeros(len(for_first), len(self.support_per_class), dtype=torch.long, device=for_first.device)
        return votes.index_add(1, first, for_first.long()).index_add(1, second, (~for_first).long())

    def _classes_of_pairs(self, device: torch.device) -> tuple[Tensor, Tensor]:
        count = len(self.support_per_class)
        first, second = torch.triu_indices(count, count, offset=1, device=device)
        return first, second

    def extra_repr(self) -> str:
        """Return what ``print(model)`` says of it."""
        count, features = self.support_vectors.shape
        return f"{self.kernel.name}, {count} support vectors × {features} features"

    @torch.no_grad()
    def pruned(self, sparsity: float) -> KernelMachine:
        """Return a machine without the least important support vectors of each class."""
        importance = self.dual_coef.norm(dim=0) * self.kernel.of_itself(self.support_vectors).clamp(min=0).sqrt()
        chosen, start = [], 0
        # Each class by itself, as the two sides of a pair balance. Ranked together, those at the bound C, which all
        # weigh the same, would go from the first class alone.
        for count in self.support_per_class:
            part = importance[start : start + count]
            kept = min(count - round(sparsity * count), int((part > 0).sum()))
            chosen.append(start + part.argsort(stable=True)[count - kept :].sort().values)  # of equal ones the first go
            start += count
        if not any(map(len, chosen)):  # a network needs a weight
            chosen[0] = torch.zeros(1, dtype=torch.long, device=importance.device)
        rows = torch.cat(chosen)
        return KernelMachine(
            self.support_vectors[rows],
            self.dual_coef[:, rows],
            self.intercept.clone(),
            [len(part) for part in chosen],
            self.kernel,
            self.break_ties,
        )


@dataclass(frozen=True)
class Kernel:
    """One of libsvm's kernels: how alike two rows are."""

    name: str
    gamma: float
    coef0: float
    degree: float

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the kernel of every row of x with every row of y, ``[rows of x, rows of y]``."""
        products = x @ y.T
        if self.name == "rbf":
            squares = x.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * products
            return (-self.gamma * squares.clamp(min=0)).exp()  # rounding may leave a distance just below 0
        return self._of_products(products)

    def of_itself(self, x: Tensor) -> Tensor:
        """Return the kernel of every row with itself, ``[rows]``."""
        return torch.ones_like(x[:, 0]) if self.name == "rbf" else self._of_products(x.square().sum(1))

    def _of_products(self, products: Tensor) -> Tensor:
        if self.name == "linear":
            return products
        products = self.gamma * products + self.coef0
        return products.tanh() if self.name == "sigmoid" else products**self.degree


def _pairs(support_per_class: Sequence[int], coefficients: int) -> Tensor:
    """Return the pair of classes each coefficient belongs to, int64 ``[coefficients, support vectors]``.

    Pairs are numbered (0, 1), (0, 2), …, (1, 2), …. The k-th coefficient of a support vector of class c is for the
    pair of c and the k-th of the other classes.
    """
    count = len(support_per_class)
    if coefficients == 1:
        return torch.zeros(1, sum(support_per_class), dtype=torch.long)
    number = torch.zeros(count, count, dtype=torch.long)
    first, second = torch.triu_indices(count, count, offset=1)
    number[first, second] = number[second, first] = torch.arange(len(first))
    others = number[~torch.eye(count, dtype=torch.bool)].view(count, count - 1)
    return others.T.repeat_interleave(torch.tensor(support_per_class), dim=1)


def _kernel_machine(fitted: Any) -> Converted:
    name = type(fitted).__name__
    if callable(fitted.kernel) or fitted.kernel == "precomputed":
        how = "precomputed" if fitted.kernel == "precomputed" else "a function of yours"
        raise ModelError(
            f"the kernel of this {name} is {how}, which no module can compute: "
            f"fit it with 'rbf', 'poly', 'sigmoid' or 'linear'"
        )
    if fitted._sparse:
        raise ModelError(
            f"this {name} was fitted on sparse rows and keeps sparse support vectors: fit it on dense ones, X.toarray()"
        )
    classifies = hasattr(fitted, "classes_")
    # gamma="scale" and "auto" are settled in fit, which keeps the number under a private name only
    kernel = Kernel(fitted.kernel, float(fitted._gamma), float(fitted.coef0), fitted.degree)
    machine = KernelMachine(
        _tensor(fitted.support_vectors_),
        _tensor(fitted.dual_coef_),
        _tensor(fitted.intercept_),
        fitted.n_support_.tolist() if classifies else [len(fitted.support_vectors_)],
        kernel,
        break_ties=classifies and fitted.break_ties and fitted.decision_function_shape == "ovr",
    )
    return Converted(machine, squeezed=len(fitted.intercept_) == 1)


_CONVERT: Final[Mapping[tuple[str, ...], Callable[[Any], Converted]]] = {
    LINEAR: _linear,
    KERNEL: _kernel_machine,
    MLP: _perceptron,
}


# ---- what is given, and whether it came out right ----


def _steps(estimator: Any) -> tuple[list[Any], Any]:
    """Return the scalers of a pipeline and its last step; of anything else itself."""
    if sklearn_class(estimator) != "Pipeline":
        return [], estimator
    *before, (_, last) = estimator.steps
    scalers = [(name, step) for name, step in before if step not in (None, "passthrough")]
    for name, step in scalers:
        if sklearn_class(step) not in SCALERS:
            raise ModelError(
                f"step {quoted(name)} of the pipeline is {a_type(step)}, and only {', '.join(SCALERS)} convert: "
                f"convert the last step, sw.from_sklearn(pipeline[-1]); its inputs are pipeline[:-1].transform(X)"
            )
    return [step for _, step in scalers], last


def _unsupported(estimator: Any, name: str) -> str:
    kind = type(estimator).__name__
    if hasattr(estimator, "best_estimator_"):
        return f"{a_type(estimator)} is a search: give the estimator it found, .best_estimator_"
    why = ""
    if "Tree" in name or "Forest" in name or "Boosting" in name:
        why = ": trees compare one feature at a time, and have no weights to prune or quantize"
    elif "Neighbors" in name:
        why = ": it keeps its examples, and has no weights"
    return f"{kind} cannot become a module{why}; supported are {SUPPORTED}; sw.summary says what an estimator weighs"


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array, order="C"))  # a copy: what is trained here must not change the estimator


def _compare(module: SklearnModel, estimator: Any, scalers: Sequence[Any], last: Any) -> None:
    """Refuse a module that predicts otherwise: for an estimator of a class that changes how it predicts."""
    rows = np.random.default_rng(0).standard_normal((_PROBED, last.n_features_in_))
    if isinstance(module.estimator, KernelMachine):  # far from all support vectors most kernels are 0
        near = last.support_vectors_[:: math.ceil(len(last.support_vectors_) / _PROBED)]
        rows[: len(near)] = 0.9 * near + 0.1 * rows[: len(near)]
    for step in reversed(scalers):
        rows = step.inverse_transform(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of feature names, which arrays do not have
        wanted = np.asarray(estimator.predict(rows))
    found = module.predict(rows)
    same = found.shape == wanted.shape
    if same and module.classes is None:
        close = _CLOSE if found.dtype == np.float64 else 1e-3
        same = np.allclose(found, wanted, rtol=close, atol=close)
    elif same:  # all but one, as a row may lie on a border
        same = int((found != wanted).sum()) <= 1
    if not same:
        raise ModelError(
            f"{type(estimator).__name__} predicts other values than its fitted arrays give: a class that overrides "
            f"predict cannot be converted; supported are {SUPPORTED}"
        )
