"""A compressed model: the new module, the exact bytes of its file, and how to save and load it."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Unpack

import torch
from torch import Tensor, nn

from .analysis.channel_dependency_graph import UNREACHED
from .analysis.channel_families_and_counts import Channels
from .analysis.estimate_class_and_packed_file_header import (
    Estimate,
    assembled,
    compared,
    nothing_left,
    safetensors_bytes,
)
from .analysis.open_model_tensors_and_channel_axes import (
    ModelTensors,
    Source,
    Stated,
    TensorEntry,
    Write,
    copied,
    copied_without,
    fill,
    open_model,
    writer,
)
from .analysis.sketch import Sketch, counted
from .argument_checks import public
from .compression.encode_layers_and_packed_model import (
    EncodedTensor,
    PackedModel,
    as_stored_whole,
    encode_layers,
    encode_one_by_one,
    pack,
    records_of,
    section_lengths,
    select_layers,
    structure_of,
)
from .compression.find_and_prune_channels import narrower
from .errors import FileError, ModelError, a_type, layer_label, quoted
from .evaluation.batches_predictions_and_labels import LabelRules
from .evaluation.evaluate_and_metrics import MetricLike
from .evaluation.sketch_and_calibration_data import Calibration, calibrated
from .exports import Exported, export, export_settings
from .exports.exporter import Progress
from .files import entropy_coded_bytes, read, save
from .files.atomic_write import refuse_without_folder, resolved
from .files.read_packed_file_into_model import StoredInFile
from .files.write_packed_file import write_layer_by_layer
from .recipe_and_method_registry import PLAIN, Recipe, RecipeFields, Statistics, every_setting, recipe_from


@dataclass(frozen=True, slots=True)
class NarrowedWidths:
    """What removing channels made of a model: widths before and after, multiply-accumulates, dense bytes.

    Of a loaded file neither the families, whose `widths` these are, nor multiply-accumulates are known, since no
    example has run. `layer_widths` are the output channels of each layer that has fewer, `unreached` the layers that
    the example did not run through, `unheeded` what the recipe says of single layers' channels in vain.
    """

    widths: Mapping[str, tuple[int, int]]
    layer_widths: Mapping[str, tuple[int, int]]
    macs: int | None
    original_macs: int | None
    original_nbytes: int
    unreached: tuple[str, ...] = ()
    unheeded: tuple[str, ...] = ()

    def told_by(self, estimate: Estimate) -> Estimate:
        """Return an estimate of what is left that tells of the channels which went."""
        return replace(
            estimate,
            original_nbytes=self.original_nbytes,
            widths=self.widths,
            macs=self.macs,
            original_macs=self.original_macs,
        )


@dataclass(frozen=True, eq=False, repr=False)
class CompressedModel:
    """What `compress` and `load` return.

    Args:
        packed: the model as its file holds it, independent of `model`, which may be trained on.
        model: a module of the same class as the one compressed, with effective weights; None where there was only a
            state dict or a file, and where it was compressed straight to one.
        estimate: the exact figures, with each layer's error; None for a model loaded from a file, which no longer
            knows what it was.
        provenance: how its weights were obtained, such as "retrained 30 epochs, learning rate rewound".
        notes: what was not done that was asked for, in a sentence each; `warnings` has them.
        narrowed: which widths are smaller than those of the dense model; None if channels were not removed, or of a
            file loaded without the dense model to compare it with.

    Example:
        >>> import shrinkwidget as sw
        >>> small = sw.compress(sw.demo.model(), sparsity=0.9, bits=4)
        >>> small.recipe
        Recipe(sparsity=0.9, bits=4)
        >>> small.save("small.safetensors") == small.nbytes
        True
    """

    packed: PackedModel
    model: nn.Module | None
    estimate: Estimate | None = None
    provenance: str = "no retraining"
    notes: tuple[str, ...] = ()
    narrowed: NarrowedWidths | None = None

    @property
    def recipe(self) -> Recipe:
        """The recipe it was made by."""
        return self.packed.recipe

    @property
    def nbytes(self) -> int:
        """The bytes of the file `save` writes, to the byte."""
        return self.packed.nbytes

    @property
    def nbytes_entropy_coded(self) -> int:
        """The bytes of the file ``save(path, entropy=True)`` writes, to the byte; it is coded to find out."""
        return entropy_coded_bytes(self.packed)

    @property
    def original_nbytes(self) -> int:
        """The bytes of a plain ``.safetensors`` file of the uncompressed model.

        Of a file without channels, loaded with no dense model to compare it with, those of the narrower one.
        """
        return safetensors_bytes(self.packed.records) if self.narrowed is None else self.narrowed.original_nbytes

    @property
    def widths(self) -> dict[str, tuple[int, int]]:
        """The channels of each width that can be smaller, before and after, by the first layer that makes them.

        Empty for a loaded file, which no longer knows which go together; `layer_widths` are known of both.

        Example:
            >>> import torch, shrinkwidget as sw
            >>> small = sw.compress(sw.demo.model(), channels=0.75, example=torch.zeros(1, 1, 8, 8))
            >>> small.widths["stage3.1.conv1"]
            (64, 16)
        """
        return {} if self.narrowed is None else dict(self.narrowed.widths)

    @property
    def layer_widths(self) -> dict[str, tuple[int, int]]:
        """The output channels, before and after, of each layer that has fewer than in the dense model.

        Empty for a loaded file with no dense model to compare it with.

        Example:
            >>> import torch, shrinkwidget as sw
            >>> small = sw.compress(sw.demo.model(), channels=0.75, example=torch.zeros(1, 1, 8, 8))
            >>> list(small.layer_widths.items())[:2]
            [('stem', (16, 4)), ('stage1.0.conv1', (16, 4))]
        """
        return {} if self.narrowed is None else dict(self.narrowed.layer_widths)

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates of a forward pass on the example, pruned weights among them; None if there was none."""
        return None if self.narrowed is None else self.narrowed.macs

    @property
    def original_macs(self) -> int | None:
        """Those of the dense model."""
        return None if self.narrowed is None else self.narrowed.original_macs

    @property
    def encoded(self) -> dict[str, EncodedTensor]:
        """The masks, codes and scales of every layer that was compressed, by name."""
        return {item.name: item for item in self.packed.stored if isinstance(item, EncodedTensor)}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the totals hide: an importance that was not used, layers of which nothing is left, what was assumed."""
        packed, assumed = self.packed, self.estimate.assumed if self.estimate else ()
        by = self.recipe.importance
        unused: tuple[str, ...] = ()
        if by.kind != PLAIN["importance"] and not self.recipe.prunes and not self.recipe.removes_channels:
            unused = (f"importance {by.kind!r} has nothing to rank: the recipe prunes no weight",)
        if self.recipe.channels and self.widths and all(before == after for before, after in self.widths.values()):
            why = f" to the nearest multiple of {self.recipe.multiple}" if self.recipe.multiple > 1 else ""
            unused = (*unused, f"no channel went: every width, rounded{why}, is what it was")
        missed: tuple[str, ...] = ()
        if self.narrowed is not None:
            unused = (*unused, *self.narrowed.unheeded)
        if self.narrowed is not None and (names := self.narrowed.unreached):
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            listed = ", ".join(map(repr, names[:3])) + more
            missed = (
                f"the example does not reach {listed}: a path through it may no longer fit the widths that are left",
            )
        return (
            *unused,
            *missed,
            # from the counts: the codes may be in a file, and a repr must not depend on its being there
            *nothing_left(
                r.name for r, kept in zip(packed.records, packed.kept, strict=True) if r.encoded and not kept
            ),
            *assumed,
            *self.notes,
        )

    def parts(self) -> dict[str, int]:
        """Return the bytes of the file by part: codes, mask, scales, uncompressed, and the header with names and
        counts.

        Example:
            >>> import shrinkwidget as sw
            >>> small = sw.compress(sw.demo.model(), sparsity=0.9, bits=4)
            >>> small.parts()
            {'codes': 8577, 'mask': 21392, 'scales': 1004, 'uncompressed': 7568, 'header': 1080}
            >>> sum(small.parts().values()) == small.nbytes
            True
        """
        lengths = section_lengths(self.packed.records, self.packed.kept)
        lengths["uncompressed"] = lengths.pop("rest")
        # how many weights each layer keeps is told with the header, a few bytes a layer
        lengths["header"] = self.nbytes - sum(lengths.values()) + lengths.pop("counts")
        return lengths

    def state_dict(self) -> dict[str, Tensor]:
        """Return all tensors with their effective values, by name, as `save` and `load` would: new ones each time.

        Example:
            >>> import shrinkwidget as sw
            >>> small = sw.compress(sw.demo.model(), bits=4)
            >>> weights = small.state_dict()["stem.weight"]
            >>> weights.shape, weights.dtype
            (torch.Size([16, 1, 3, 3]), torch.float32)
            >>> len(weights[0].unique()) <= 2**4
            True
        """
        return {name: tensor.clone() for name, tensor in self.packed.state_dict().items()}

    @property
    def changed_tensor(self) -> str:
        """The first tensor of `model` that is no longer what `save` writes, as after a training; "" if all are.

        Example:
            >>> import shrinkwidget as sw
            >>> small = sw.compress(sw.demo.model(), bits=4)
            >>> small.changed_tensor
            ''
            >>> small.model.head.bias.data += 1
            >>> small.changed_tensor
            'head.bias'
        """
        if self.model is None:
            return ""
        now = self.model.state_dict(keep_vars=True)
        for record, tensor in self.packed.tensors():
            found = now.get(record.name)
            if found is None or found.shape != tensor.shape or not torch.equal(found.detach().to(tensor), tensor):
                return record.name
        return ""

    def with_uncompressed_from(self, model: nn.Module) -> CompressedModel:
        """Return the same codes beside what another module of the class keeps: its norms, biases and buffers.

        Example:
            >>> import torch, shrinkwidget as sw
            >>> model = sw.demo.model()
            >>> small = sw.compress(model, bits=4)
            >>> model.head.bias.data += 1  # a bias is not compressed: only the file's float changes
            >>> other = small.with_uncompressed_from(model)
            >>> torch.equal(other.state_dict()["head.weight"], small.state_dict()["head.weight"])
            True
            >>> torch.equal(other.state_dict()["head.bias"], model.head.bias)
            True
        """
        packed = pack(_snapshot(open_model(model), self.encoded), self.recipe, self.encoded)
        new = copied(model)
        fill(new, packed.state_dict().items())
        return replace(self, packed=packed, model=new)

    def with_widths(self, narrowed: NarrowedWidths | None) -> CompressedModel:
        """Return the same model that knows of the channels which went, and is compared with the dense one.

        Example:
            >>> import torch, shrinkwidget as sw
            >>> small = sw.compress(sw.demo.model(), channels=0.75, example=torch.zeros(1, 1, 8, 8))
            >>> sw.compress(small.model, bits=4).with_widths(small.narrowed).original_nbytes
            699328
        """
        if narrowed is None:
            return self
        return replace(self, narrowed=narrowed, estimate=self.estimate and narrowed.told_by(self.estimate))

    @public()
    def save(self, path: str | os.PathLike[str], entropy: bool = False) -> int:
        """Write the packed file, whole or not at all, and return its bytes.

        With ``entropy=True`` masks and codes are entropy-coded too: smaller to download, slower to load.

        Raises:
            FileError: if the path cannot be written, or is entropy-coded and the very file that the model reads its
                weights from (``compress(…, to=path)``); what was there before is unchanged.

        Example:
            >>> import shrinkwidget as sw
            >>> small = sw.compress(sw.demo.model(), sparsity=0.9, bits=4)
            >>> small.save("small.safetensors")
            39621
            >>> small.save("download.safetensors", entropy=True)
            24652
        """
        stored = self.packed.stored
        if not isinstance(stored, StoredInFile) or not stored.is_at(resolved(path)):
            return save(self.packed, path, entropy)
        if entropy:
            raise FileError(
                f"cannot write {quoted(path)} entropy-coded: the model reads its weights from that very file, one at a "
                f"time; save it under another name"
            )
        nbytes = save(self.packed, path)
        stored.reopen()  # the same bytes, but to whoever has read the old file it looks changed
        return nbytes

    @public(also=export_settings)
    def export(
        self,
        path: str | os.PathLike[str],
        target: str | None = None,
        *,
        example: object = None,
        eval_data: object = None,
        metric: MetricLike = "accuracy",
        batch_size: int | None = None,
        ignore_index: int | None = None,
        next_token: bool | None = None,
        calibrate: object = None,
        activations: int | None = None,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
        **settings: object,
    ) -> Exported:
        """Write the model for another runtime, with exactly these weights, and return what that makes of them.

        The file is read back before it takes its place: what the runtime computes with must equal the effective weights
        bit for bit, and its outputs on the example those of torch, up to the order of sums. Otherwise nothing is
        written. What a target cannot hold is refused by name; nothing is rounded again.

        Args:
            path: where to; its suffix names the target: ``.onnx``.
            target: the target, where the suffix does not tell.
            example: inputs the model runs on: a tensor, a tuple of positional or a dict of keyword arguments. The first
                axis of each may have any size afterwards, if the model allows that. Left out, the first of `eval_data`.
            eval_data: test data; the result then has the score that the runtime reaches, beside torch's.
            metric, batch_size, ignore_index, next_token: as `evaluate` takes them.
            calibrate: training data that shows what range activations have, for ``activations=8``; 512 examples of it
                are run, and no label is looked at.
            activations: 8 for activations of 8 bits (a static int8 network); None for floats.
            progress: called with what is being done and the share that is done, 0…1.
            cancelled: asked between steps; once it returns True the export ends, and no file is written.
            settings: of the target, such as ``weights="dequantize"`` of ONNX.

        Raises:
            ModelError: if there is no module, if it cannot be traced or has operators the target lacks, or if the
                target cannot hold a tensor exactly.
            MissingPackageError: if the target's packages are not installed, naming the extra and its size.
            FileError: if the path cannot be written; what was there before is unchanged.
            ArgumentError: for an unknown target or setting, or a missing example.
            Cancelled: when `cancelled` says so.

        Example:
            >>> import shrinkwidget as sw
            >>> small, test = sw.compress(sw.demo.model(), bits=4), sw.demo.data("test")
            >>> exported = small.export("digits.onnx", eval_data=test)
            >>> exported.exact, exported.score.value == exported.torch_score.value
            ('14 of 14 tensors exactly', True)
        """
        return export(
            self.packed,
            self.model,
            self.provenance,
            Path(path),
            target,
            example=example,
            eval_data=eval_data,
            metric=metric,
            rules=LabelRules(ignore_index, next_token),
            batch_size=batch_size,
            calibrate=calibrate,
            activations=activations,
            progress=progress,
            cancelled=cancelled,
            settings=settings,
        )

    def __repr__(self) -> str:
        what = f"{type(self.model).__name__}, " if self.model is not None else ""
        figures = f"{self.nbytes:,} bytes, {compared(self.original_nbytes / self.nbytes)} {self.original_nbytes:,}"
        sparse = f"; {self.estimate.sparsity:.1%} sparse" if self.estimate else ""
        if self.macs and self.original_macs:
            sparse = f"; {self.original_macs / self.macs:.1f}× fewer MACs{sparse}"
        # how near the weights are to those they were made of says nothing once they were trained to be elsewhere
        how = f"; SQNR {self.estimate.sqnr:.1f} dB" if self.estimate and math.isfinite(self.estimate.sqnr) else ""
        how = how if self.provenance == "no retraining" else f"; {self.provenance}"
        return f"CompressedModel({what}{figures}{sparse}{how}{''.join(f'; {told}' for told in self.warnings)})"

    def _repr_html_(self) -> str:
        """Return a small table of where the bytes are."""
        rows = "".join(f"<tr><td>{part}</td><td>{size:,}</td></tr>" for part, size in self.parts().items() if size)
        total = f"<tr><th>file</th><th>{self.nbytes:,}</th></tr>"
        title = f"{html.escape(repr(self))}<br><code>{html.escape(repr(self.recipe))}</code>"
        return (
            f'<div class="shrinkwidget">{title}'
            '<table style="margin: 0.5em 0; font-variant-numeric: tabular-nums">'
            f"<tr><th>part</th><th>bytes</th></tr>{rows}{total}</table></div>"
        )


@public(fields_of=[RecipeFields], also=every_setting)
def compress(
    model: Source,
    recipe: Recipe | float | None = None,
    *,
    sketch: Sketch | None = None,
    layout: Stated = None,
    calibration: object = None,
    example: object = None,
    to: str | os.PathLike[str] | None = None,
    **fields: Unpack[RecipeFields],
) -> CompressedModel:
    """Return a model compressed by a recipe; the one given is untouched.

    The new module is of the same class; its training modes, devices, dtypes, ties and hooks are those of the old one,
    and its weights are bit for bit those the saved file loads. Weights the old one computes before it uses them (weight
    norm, masks, parametrizations) are plain parameters of the new one.

    >>> import shrinkwidget as sw
    >>> small = sw.compress(sw.demo.model(), sparsity=0.9, bits=4)
    >>> small.recipe
    Recipe(sparsity=0.9, bits=4)

    What does not fit in memory twice goes to its file layer by layer, with `to`:

    >>> sw.compress(sw.demo.model(), sparsity=0.9, bits=4, to="small.safetensors").nbytes
    39621

    Args:
        model: a module, a state dict, or the path of a checkpoint (see `sketch`).
        recipe: a `Recipe`, or a number: the sparsity.
        sketch: the model's sketch, if there is one already.
        layout: which axis of a state dict's or a file's tensors is the output channels, where nothing tells (see
            `sketch`).
        calibration: examples for an importance that needs them, ``"wanda"`` or ``"taylor"``; see `sketch`.
        example: what the model runs on, for a recipe that removes channels: a tensor, a tuple of positional or a dict
            of keyword arguments; or what ``sw.channels`` found on one, so that it is not looked for again.
        to: the file to write, the one that ``.save(to)`` would, whole or not at all. A few layers are in memory at a
            time; the result has no module, and reads what is asked of it (``state_dict``, ``export``) from that file.
        fields: of a `Recipe`; beside a recipe they change it.

    Raises:
        RecipeError: for what is no recipe, or if one of its overrides matches no layer.
        MethodError: for an importance or a quantizer that fails, or that needs calibration data and has none.
        DataError: for calibration data that does not fit the model, or where channels are to go without an example.
        ModelError: for NaN or infinite weights, nothing to compress, a module that cannot be copied, a `layout` that is
            none, or a `sketch` of another layout.
        FileError: for a path that is not a safetensors file, a tensor that no file can hold, or where `to` cannot be
            written or is the model's own file.
        ArgumentError: for an unknown keyword.
    """
    made_by = recipe_from(recipe, fields)
    if to is not None:
        refuse_without_folder(to)
    if made_by.removes_channels:
        return _narrower(model, made_by, sketch, calibration, example, to)
    weights = open_model(model, layout=layout)
    if to is not None and (target := resolved(to)).exists() and any(map(target.samefile, weights.paths)):
        raise FileError(f"to={quoted(to)} is a file of the model itself, which is never changed: name another file")
    if sketch is not None:
        for entry, look in zip(weights.layers, sketch.layers, strict=False):  # of another model it is refused later
            if entry.name == look.name and entry.shape == look.shape and entry.matrix != look.matrix:
                raise ModelError(
                    f"the sketch reads {quoted(entry.name)} as {look.rows:,} output channels, and here it has "
                    f"{entry.matrix[0]:,}: give sketch and compress the same layout"
                )
    if calibration is not None:
        sketch = replace(sketch or counted(weights), calibration=calibrated(model, calibration))
    if to is not None:
        return _compressed_to_file(to, weights, made_by, sketch)
    return _compressed(weights, made_by, sketch, _copied(model, weights))


def _narrower(
    model: Source,
    recipe: Recipe,
    sketch: Sketch | None,
    calibration: object,
    example: object,
    to: str | os.PathLike[str] | None,
) -> CompressedModel:
    """Return a model compressed by a recipe that removes channels: they go first, what is left is compressed."""
    statistics = sketch.calibration if sketch is not None else None
    if calibration is not None:
        statistics = calibrated(model, calibration)
    left = without_channels(model, recipe, example, statistics)
    if to is not None:
        return _compressed_to_file(to, left.weights, recipe, left.sketch).with_widths(left.widths)
    into = _copied(left.model, left.weights)
    return _compressed(left.weights, recipe, left.sketch, into).with_widths(left.widths)


@dataclass(frozen=True, slots=True, eq=False)
class WithoutChannels:
    """What is left of a model when the channels that a recipe removes are gone: everything else is done to this.

    `sketch` is what an importance with calibration data needs to know of it, None where none asks.
    """

    model: nn.Module
    weights: ModelTensors
    sketch: Sketch | None
    widths: NarrowedWidths


def without_channels(model: Source, recipe: Recipe, example: object, statistics: Statistics | None) -> WithoutChannels:
    """Return what is left of a model without the channels that a recipe removes; the model stays as it is.

    Raises:
        ModelError: for what is no module, or as `narrower`.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"channels=… makes a smaller module, and this is {a_type(model)}: give the nn.Module")
    narrow = narrower(model, recipe, example, statistics)
    weights = open_model(narrow.model)
    known = None
    if isinstance(statistics, Calibration) and recipe.prunes:
        known = replace(counted(weights), calibration=statistics.of(narrow.model))
    dense = safetensors_bytes(open_model(model).saved)
    widths = replace(narrowed_widths(narrow.channels, narrow.left, dense), unheeded=narrow.unheeded)
    return WithoutChannels(narrow.model, weights, known, widths)


def narrowed_widths(found: Channels, left: Sequence[int], original_nbytes: int) -> NarrowedWidths:
    """Return what a compressed model knows of the channels that went, so many of each family being left."""
    full = [family.channels for family in found.families]
    missed = tuple(layer for width in found.fixed if width.reason == UNREACHED for layer in width.layers)
    macs, original = found.macs_after(left), found.macs_after(full)
    layers = found.layer_widths(left)
    return NarrowedWidths(found.widths(left), layers, macs, original, original_nbytes, missed)


def compress_trained(model: nn.Module, recipe: Recipe) -> CompressedModel:
    """Return a network that was trained under the masks and grids of a recipe, compressed by it.

    Pruned weights are its zeros: an importance that needs calibration data is not asked again.
    """
    weights = open_model(model)
    return _compressed(weights, recipe, None, _copied(model, weights), pruned=True)


def finish_trained(model: nn.Module, recipe: Recipe) -> CompressedModel:
    """Return what `compress_trained` does, and make that model its module: nobody else may use it any more."""
    return _compressed(open_model(model), recipe, None, (model, writer(model)), pruned=True)


def compress_with_codes(
    model: nn.Module, recipe: Recipe, known: Sketch | None, given: Mapping[str, EncodedTensor]
) -> CompressedModel:
    """Return a model compressed by a recipe, with the codes of some layers, by name, chosen already."""
    weights = open_model(model)
    return _compressed(weights, recipe, known, _copied(model, weights), given=given)


def _copied(model: Source, weights: ModelTensors) -> tuple[nn.Module | None, Write | None]:
    """Return a copy of a module without the weights that are compressed, and what gives it those; else nothing."""
    return copied_without(model, [e.name for e in weights.layers]) if isinstance(model, nn.Module) else (None, None)


def _compressed(
    weights: ModelTensors,
    recipe: Recipe,
    known: Sketch | None,
    into: tuple[nn.Module | None, Write | None],
    pruned: bool = False,
    given: Mapping[str, EncodedTensor] = MappingProxyType({}),
) -> CompressedModel:
    # a module that cannot be copied was refused before the work; layers are written into its copy as they are done
    new, write = into
    encoded, estimate = encode_layers(weights, recipe, known, write=write, pruned=pruned, given=given)
    packed = pack(_snapshot(weights, encoded), recipe, encoded)
    if new is not None:
        fill(new, packed.uncoded().items())
    return CompressedModel(packed, new, estimate)


def _compressed_to_file(
    path: str | os.PathLike[str], weights: ModelTensors, recipe: Recipe, given: Sketch | None
) -> CompressedModel:
    """Write a compressed model to a file as its layers are done, and return what reads them from there."""
    known = given or counted(weights)
    # a sketch that was given may be older than the weights, and float64 magnitudes are not rounded to its float32
    peaks = {} if given else {layer.name: layer.absmax for layer in known.layers if layer.dtype == "float32"}
    records = records_of(weights, recipe, peaks)
    chosen = select_layers(weights, recipe, known)
    counts = {layer.entry.name: layer.selection.kept for layer in chosen}
    kept = tuple(counts[record.name] if record.encoded else record.numel for record in records)
    figures = []

    def stored() -> Iterator[EncodedTensor | Tensor]:
        layers = encode_one_by_one(weights, chosen)
        for entry, record in zip(weights.saved, records, strict=True):
            codes = None
            if entry.compressible:
                codes, figure = next(layers)
                figures.append(figure)
            yield as_stored_whole(entry, record) if codes is None else codes

    write_layer_by_layer(path, recipe, records, kept, stored())
    packed = PackedModel(recipe, structure_of(records), records, kept, StoredInFile(path, records, kept))
    exact = assembled(known, recipe, [layer.plan for layer in chosen], figures, exact=True)
    return CompressedModel(packed, None, exact)


@public()
def load(path: str | os.PathLike[str], into: nn.Module | None = None) -> CompressedModel:
    """Return the compressed model in a file that `CompressedModel.save` wrote, plain or entropy-coded.

    With `into`, a fresh model of the right class, that model is filled with the effective weights and is the result's
    `model`; without, the weights are in ``.state_dict()``. Of a file whose channels were removed, the model may be the
    dense one: it is cut to the file's shapes.

    Raises:
        FileError: if the file is missing, is no packed model, is damaged or newer than this version, or if the model
            does not match it; the model is then unchanged.

    Example:
        >>> import shrinkwidget as sw
        >>> small = sw.compress(sw.demo.model(), sparsity=0.9, bits=4)
        >>> small.save("small.safetensors")
        39621
        >>> again = sw.load("small.safetensors", into=sw.demo.model())
        >>> again.recipe == small.recipe, type(again.model).__name__
        (True, 'DigitNet')
    """
    before = None if into is None else open_model(into, only_to_look=True)  # reading cuts it to the file's shapes
    dense = None if before is None else safetensors_bytes(before.saved)
    packed = read(path, into)
    narrowed = None
    if packed.recipe.removes_channels and before is not None and dense is not None:
        now = {record.name: record for record in packed.records}
        rows = {layer_label(e.name): (e.matrix[0], now[e.name].matrix[0]) for e in before.layers if e.name in now}
        layers = {name: (old, new) for name, (old, new) in rows.items() if new < old}
        narrowed = NarrowedWidths({}, layers, None, None, dense) if layers else None
    return CompressedModel(packed, into, provenance="as loaded", narrowed=narrowed)


def _snapshot(weights: ModelTensors, encoded: dict[str, EncodedTensor]) -> ModelTensors:
    """Return the weights with what is not coded copied, so that training the old model changes no saved file."""
    return ModelTensors(
        weights.title,
        tuple(e if e.name in encoded or not e.saved else replace(e, load=partial(_copy, e)) for e in weights.entries),
    )


def _copy(entry: TensorEntry) -> Tensor:
    return entry.load().clone()
