"""What a recipe makes of a model, in bytes and in error: what files hold and take, docs/format.md as arithmetic.

From top to bottom: the header of a packed file, the bytes of layers and of the whole, and the `Estimate` of a model.
Nothing here needs torch or numpy: Jupyter's server reads headers, too.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from .. import strict_json
from ..errors import FileError, ModelError, layer_label, quoted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..recipe_and_method_registry import Granularity, Plan, Recipe
    from .open_model_tensors_and_channel_axes import ModelOverview, TensorSpec

Ints: TypeAlias = "NDArray[np.int64]"
T = TypeVar("T", int, "Ints")

FORMAT: Final = "shrinkwidget"
ENTROPY: Final = "shrinkwidget-z"
VERSION: Final = 3
SECTIONS: Final = ("counts", "codes", "mask", "scales", "rest")

# flags of a tensor
COMPRESSIBLE: Final = 1
BFLOAT16: Final = 2

FILE_DTYPES: Final = {
    "uint64": "U64", "int64": "I64", "float64": "F64", "complex64": "C64", "float32": "F32", "uint32": "U32",
    "int32": "I32", "bfloat16": "BF16", "float16": "F16", "uint16": "U16", "int16": "I16",
    "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
"""The dtypes a .safetensors file can hold, in the order its header lists their tensors: torch's names, and its own."""


def impossible_shape(shape: Sequence[int]) -> str:
    """Return what is wrong with a shape that no tensor in memory has, as "the shape …", or ""."""
    most = 64  # of numpy, and more than any model has
    if len(shape) > most:
        return f"the shape of {len(shape):,} dimensions, more than the {most} that can be read"
    # empty axes are no way round: torch multiplies the others, and 2**60 leaves its 64-bit products room
    if (math.prod(shape) or math.prod(max(n, 1) for n in shape)) >= 2**60:
        return f"the shape {quoted(list(shape))}, more than any memory holds"
    return ""


# ---- the header of a packed file ----


def header_text(recipe_json: str, structure: str, lengths: Mapping[str, int], crc: int = 0, fmt: str = FORMAT) -> bytes:
    """Return the JSON header of a packed file as UTF-8, padded with spaces to a multiple of 8 bytes."""
    about = {"format": fmt, "version": str(VERSION), "crc32": f"{crc:08x}"}
    header: dict[str, object] = {"__metadata__": {**about, "recipe": recipe_json, "structure": structure}}
    # five sections of bytes in place of a tensor each: names, shapes and offsets would weigh more than small layers
    end = 0
    for section in SECTIONS:
        begin, end = end, end + lengths[section]
        header[section] = {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % 8)


def structure_item(tensor: TensorSpec, compressible: bool, bfloat16: bool) -> list[object]:
    """Return ``[name, shape, dtype, flags, aliases…]`` of one tensor; before its aliases its layout, if it has one.

    An alias that looks at the tensor otherwise is ``[name, axes, shape]``.
    """
    flags = COMPRESSIBLE * compressible | BFLOAT16 * bfloat16
    layout, views = tensor.layout, tensor.views
    # output channels first go without saying, and nobody needs to know the rows of what is stored as it is
    own = [[layout.groups, *layout.channels]]
    own = own if compressible and own != [[1, 0]] else []
    aliases = [[a, list(views[a].axes), list(views[a].shape)] if a in views else a for a in tensor.aliases]
    return [tensor.name, list(tensor.shape), str(tensor.dtype).removeprefix("torch."), flags, *own, *aliases]


def fold_structure(described: object) -> str:
    """Return the descriptions of all tensors as they stand in the header: base64 of zlib of their JSON.

    Names of layers repeat: uncompressed they would be most of a small model's file.
    """
    return base64.b64encode(zlib.compress(_json(described), 9)).decode()


def unfold_structure(structure: str) -> list[Any]:
    """Return the descriptions of all tensors, each a JSON value that is still to be checked.

    Raises:
        FileError: with a sentence about "its structure", unless the text is one that `fold_structure` writes.
    """
    try:
        unfold = zlib.decompressobj()
        packed = base64.b64decode(structure, validate=True)
        # zlib can unfold 1000 bytes from one; the limit is met before the memory is taken.
        # names of layers repeat, but not so much: beyond a megabyte, 200 times its length is a bomb
        text = unfold.decompress(packed, (1 << 20) + 200 * len(structure))
        if not unfold.eof or unfold.unused_data:
            raise FileError("its structure is cut short, or unfolds to far more than its length allows")
        items = strict_json.parse(text)
        # One way to write each structure, or two files of the same model could differ, and checksums with them.
        if _json(items) != text or base64.b64encode(packed).decode() != structure:
            raise FileError("its structure is not written as shrinkwidget writes it: another program has changed it")
    except (binascii.Error, zlib.error, ValueError, RecursionError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"its structure is not base64 of zlib of JSON ({error})") from error
    if not isinstance(items, list):
        raise FileError("its structure is not a list of tensors")
    return items


def _json(described: object) -> bytes:
    return json.dumps(described, separators=(",", ":"), ensure_ascii=True).encode()


# ---- bytes ----

WORD_ZERO_BITS: Final = 5
"""Zero points of up to so many bits share the 16-bit word of their scale; larger ones would blur it."""


@dataclass(frozen=True, slots=True)
class LayerBytes:
    """What one compressible tensor takes in a packed file, in bytes, and whether its codes cover all its weights."""

    codes: int
    mask: int
    scales: int
    as_is: int
    dense: bool


def layer_bytes(matrix: tuple[int, int], kept: int, plan: Plan, itemsize: int) -> LayerBytes:
    """Return the bytes of a layer of rows × columns weights of `itemsize` bytes, `kept` of which survive."""
    n = math.prod(matrix)
    if plan.keep:
        return LayerBytes(codes=0, mask=0, scales=0, as_is=n * itemsize, dense=True)
    codes, mask = code_and_mask_bytes(n, kept, plan, itemsize)
    return LayerBytes(codes, mask, scale_bytes(matrix, plan), as_is=0, dense=not mask)


def code_and_mask_bytes(n: Any, kept: Any, plan: Plan, itemsize: int) -> tuple[Any, Any]:
    """Return the bytes of the codes and of the mask of a layer of n weights, `kept` of which survive.

    Both are numbers or arrays of them, and so are the bytes.
    """
    bits = stored_bits(plan.bits, itemsize)
    # Either all n weights have a code, pruned ones that of zero, or only the kept ones, beside a mask, a bit a weight:
    # whatever is smaller. Both sides of the inequality are in bits, so that no rounding to bytes decides.
    dense = (kept == n) | (zero_on_grid(plan, bits) & (n * bits <= n + kept * bits))
    coded = kept + (n - kept) * dense
    return ceil_div(coded * bits, 8), ceil_div(n, 8) * (1 - dense)


def scale_bytes(matrix: tuple[int, int], plan: Plan) -> int:
    """Return the bytes of the scales of a layer of rows × columns weights, codebooks and zero points with them."""
    if plan.bits > 8:
        return 0
    scales = 4 << plan.bits if plan.coder.has_codebook else 0
    if plan.coder.has_scales:
        groups = group_count(plan.granularity, matrix)
        # the largest scale as a float32; where there are several, all of them as 16-bit fractions of it
        scales += 4 if groups == 1 else (0 if has_16_bit_scales(plan) else 4) + 2 * groups
        scales += groups if has_zero_bytes(plan, groups) else 0
    return scales


def stored_bits(bits: int, itemsize: int) -> int:
    """Return the bits of one code: those asked for, but plain floats (16, 32) are never wider than the tensor."""
    return min(bits, 8 * itemsize)


def zero_on_grid(plan: Plan, bits: int) -> bool:
    """Tell whether codes of so many bits can say zero: plain floats can, and those of most quantizers."""
    return bits >= 16 or plan.coder.has_zero(bits)  # of sign × mean, and of most codebooks, no code is zero


def zeros_dropped(n: int, zeros: int, negative: int, plan: Plan, itemsize: int) -> int:
    """Return how many of the zeros a layer came with count as pruned under a plan that prunes nothing itself.

    They do wherever that changes no value: a file of them holds a mask and the other weights. Two cases ask for more:
    a grid without zero needs the mask for them alone, which pays where most of them are zero; and plain floats keep
    the sign of a zero as long as they need no mask.

    Args:
        n: weights of the layer.
        zeros: how many of them are zero, of either sign.
        negative: how many of those are -0.0.
        plan: what the recipe asks.
        itemsize: bytes of one weight.
    """
    if plan.keep:
        return 0
    bits = stored_bits(plan.bits, itemsize)
    # One bit beside a mask is never smaller than one bit alone. Taken for two bits, it makes a layer ternary that is
    # mostly zero, which signs alone would ruin.
    width = max(bits, 2)
    masked = n + (n - zeros) * width < n * width
    if masked or (bits < 16 and zero_on_grid(plan, bits)):
        return zeros
    return zeros - negative if bits >= 16 else 0


def has_zero_points(plan: Plan) -> bool:
    """Tell whether each group of a layer has a zero point beside its scale."""
    return plan.bits <= 8 and plan.coder.has_zero_points(plan.bits)


def has_16_bit_scales(plan: Plan) -> bool:
    """Tell whether scales are numbers of 16 bits themselves, rather than fractions of the largest."""
    return plan.bits <= 8 and plan.coder.scale_dtype != "float32"


def has_zero_bytes(plan: Plan, groups: int) -> bool:
    """Tell whether the zero points have bytes of their own.

    Those of a single scale, of more than `WORD_ZERO_BITS`, and beside 16-bit scales, which have no bits to spare.
    """
    return has_zero_points(plan) and (groups == 1 or plan.bits > WORD_ZERO_BITS or has_16_bit_scales(plan))


def group_count(granularity: Granularity, matrix: tuple[int, int]) -> int:
    """Return how many scales a non-empty matrix has: one, one a row, or ⌈columns/g⌉ a row."""
    rows, columns = matrix
    if granularity == "tensor":
        return 1
    if granularity == "channel":
        return rows
    return rows * ceil_div(columns, int(granularity))


def ceil_div(a: T, b: int) -> T:
    """Return a / b rounded up, exactly; of a number, or of an array of whole ones."""
    return -(-a // b)


def header_bytes(recipe_json: str, structure_length: int, lengths: Mapping[str, int]) -> int:
    """Return the bytes of a packed file that are not codes, mask, scales or uncompressed tensors, exactly.

    That is the length field (8), the JSON header, and the section of kept counts. `lengths` are the bytes of the five
    `SECTIONS` by name.
    """
    # only the length of the structure matters, and neither base64 nor a checksum has letters that JSON escapes
    return 8 + len(header_text(recipe_json, "A" * structure_length, lengths)) + lengths["counts"]


def headers_bytes(recipe_bytes: Ints, structure_length: int, lengths: Mapping[str, Ints]) -> Ints:
    """Return `header_bytes` of many files at once, from how long their recipes are in a header (`escaped_bytes`).

    `lengths` are those of the `SECTIONS`, with an entry for each file.
    """
    # in this header each number is a zero of one digit, and only their digits and the recipe differ between files
    bare = len(header_text("", "A" * structure_length, dict.fromkeys(SECTIONS, 0)).rstrip())
    text, end = bare + recipe_bytes, 0 * recipe_bytes
    for section in SECTIONS:
        begin, end = end, end + lengths[section]
        # one more digit for each power of ten that a number reaches
        text = text + sum(number >= 10**k for number in (end - begin, begin, end) for k in range(1, 19))
    return 8 + 8 * ceil_div(text, 8) + lengths["counts"]


def escaped_bytes(text: str) -> int:
    """Return the bytes of a text inside a string of JSON, as the header of a packed file holds a recipe."""
    return len(json.dumps(text, ensure_ascii=False).encode()) - 2


def count_width(n: int) -> int:
    """Return the bytes of the kept count of a layer of n weights."""
    return 4 if n < 2**32 else 8


_RANKS: Final = {name: rank for rank, name in enumerate(FILE_DTYPES)}


def safetensors_bytes(tensors: Iterable[TensorSpec]) -> int:
    """Return the bytes of a plain ``.safetensors`` file of these tensors, tied ones written once, without metadata.

    Equal to ``len(safetensors.torch.save({t.name: …}))``, computed without reading a weight: 8 bytes, a JSON header
    padded to a multiple of 8, and the tensors' own bytes. What is no plain tensor counts as the bytes it is stored in.

    Raises:
        ModelError: for a dtype that no safetensors file can hold.
    """

    def rank(tensor: TensorSpec) -> int:
        dtype = "uint8" if tensor.kind else str(tensor.dtype).removeprefix("torch.")
        if dtype not in _RANKS:
            raise ModelError(
                f"{quoted(tensor.name)} is {dtype}, which a .safetensors file cannot hold: convert it to a float type"
            )
        return _RANKS[dtype]

    header: dict[str, object] = {}
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: (rank(tensor), tensor.name.encode())):  # as the library does
        start, end = end, end + (tensor.stored if tensor.kind else tensor.numel * tensor.dtype.itemsize)
        code = "U8" if tensor.kind else FILE_DTYPES[str(tensor.dtype).removeprefix("torch.")]
        header[tensor.name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + 8 * ceil_div(len(text), 8) + end


# ---- what a recipe makes of a model ----


_FIELDS = ("kept", "threshold", "signal", "noise", "codes", "mask", "scales", "as_is")


@dataclass(frozen=True, slots=True)
class LayerEstimate:
    """What a recipe makes of one layer of n weights.

    `kept`: weights that survive pruning. `threshold`: magnitude below which weights are pruned (0 where no threshold
    decides). `signal`: Σ w². `noise`: Σ (w − effective w)². Then bytes in the packed file: `codes`, `mask`, `scales`
    (codebooks and zero points with them), and `as_is` for a layer under Keep.
    """

    name: str
    n: int
    kept: int
    threshold: float
    signal: float
    noise: float
    codes: int
    mask: int
    scales: int
    as_is: int

    @property
    def nbytes(self) -> int:
        """Bytes of this layer in the packed file, without its share of the header."""
        return self.codes + self.mask + self.scales + self.as_is

    @property
    def sparsity(self) -> float:
        """Fraction of the weights that is pruned."""
        return 1 - self.kept / self.n

    @property
    def sqnr(self) -> float:
        """Signal to noise ratio in dB: 10·log₁₀(Σ w² / Σ (w − effective w)²); infinite without noise."""
        return decibels(self.signal, self.noise)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a recipe makes of a model: per layer, and in all.

    `uncompressed_bytes`: bytes of the tensors no recipe compresses. `header`: the rest of the file (names, shapes,
    recipe).
    `dense`: bytes of the plain ``.safetensors`` file. `download`: bytes of the entropy-coded file, where known.
    `exact` tells whether the figures were counted on the weights or estimated from the sketch. `assumed` are the
    warnings of the sketch. `widths` are the channels of each width before and after, by the first layer that makes
    them, and `macs` the multiply-accumulates of a forward pass on the example, pruned weights among them: counts that
    are always exact, known where the sketch was made with an example.

    Example:
        >>> import shrinkwidget as sw
        >>> estimate = sw.estimate(sw.demo.model(), sparsity=0.9, bits=4)
        >>> estimate.nbytes, round(estimate.ratio, 1), estimate.exact
        (39619, 17.7, False)
        >>> estimate.layer("stem").kept
        125
    """

    recipe: Recipe
    layers: tuple[LayerEstimate, ...]
    uncompressed_bytes: int
    header: int
    original_nbytes: int
    exact: bool = False
    nbytes_entropy_coded: int | None = None
    assumed: tuple[str, ...] = ()
    widths: Mapping[str, tuple[int, int]] | None = None
    macs: int | None = None
    original_macs: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the packed file."""
        return sum(layer.nbytes for layer in self.layers) + self.uncompressed_bytes + self.header

    @property
    def ratio(self) -> float:
        """Compression ratio: dense bytes / bytes now."""
        return self.original_nbytes / self.nbytes

    @property
    def sparsity(self) -> float:
        """Fraction of all compressible weights that is pruned."""
        return 1 - sum(layer.kept for layer in self.layers) / sum(layer.n for layer in self.layers)

    @property
    def sqnr(self) -> float:
        """Signal to noise ratio of all compressible weights together, in dB."""
        return decibels(sum(layer.signal for layer in self.layers), sum(layer.noise for layer in self.layers))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the totals hide: what was assumed, and layers whose outputs no longer depend on their inputs."""
        return (*nothing_left(layer.name for layer in self.layers if not layer.kept), *self.assumed)

    def layer(self, name: str) -> LayerEstimate:
        """Return the layer of this name, with or without its ``.weight``.

        Raises:
            KeyError: if there is none.

        Example:
            >>> import shrinkwidget as sw
            >>> stem = sw.estimate(sw.demo.model(), sparsity=0.9, bits=4).layer("stem")
            >>> stem.name, stem.n, stem.kept
            ('stem.weight', 144, 125)
        """
        for layer in self.layers:
            if name in (layer.name, layer_label(layer.name)):
                return layer
        raise KeyError(name)

    def parts(self) -> dict[str, int]:
        """Return the bytes of the file by part: codes, mask, scales, kept (with layers under Keep) and header.

        Example:
            >>> import shrinkwidget as sw
            >>> estimate = sw.estimate(sw.demo.model(), bits=4)
            >>> sum(estimate.parts().values()) == estimate.nbytes
            True
        """
        return {
            "codes": sum(layer.codes for layer in self.layers),
            "mask": sum(layer.mask for layer in self.layers),
            "scales": sum(layer.scales for layer in self.layers),
            "uncompressed": sum(layer.as_is for layer in self.layers) + self.uncompressed_bytes,
            "header": self.header,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dict: totals, and per layer one list for each figure.

        Example:
            >>> import shrinkwidget as sw
            >>> estimate = sw.estimate(sw.demo.model(), bits=4)
            >>> sorted(estimate.to_dict())
            ['exact', 'header', 'layers', 'nbytes_entropy_coded', 'original_nbytes', 'recipe', 'uncompressed_bytes']
        """
        return {
            "recipe": self.recipe.to_json(),
            "exact": self.exact,
            "uncompressed_bytes": self.uncompressed_bytes,
            "header": self.header,
            "original_nbytes": self.original_nbytes,
            "nbytes_entropy_coded": self.nbytes_entropy_coded,
            "layers": {field: [getattr(layer, field) for layer in self.layers] for field in _FIELDS},
        } | (
            {} if self.macs is None else {"macs": self.macs, "widths": [now for _, now in (self.widths or {}).values()]}
        )

    def __repr__(self) -> str:
        sign = "" if self.exact else "≈ "
        about = (
            f"{sign}{self.nbytes:,} bytes, {compared(self.ratio)} {self.original_nbytes:,}; "
            f"{self.sparsity:.1%} sparse; SQNR {self.sqnr:.1f} dB"
        )
        return f"Estimate({'; '.join([about, *self.warnings])})"


def nothing_left(layers: Iterable[str]) -> tuple[str, ...]:
    """Return a sentence that names the layers of which no weight survives, or nothing for none."""
    names = [repr(layer_label(name)) for name in layers]
    if not names:
        return ()
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (f"no weight survives in {', '.join(names[:3])}{more}",)


def decibels(signal: float, noise: float) -> float:
    """Return 10·log₁₀(signal / noise), infinite without noise."""
    return 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else math.inf


def compared(ratio: float) -> str:
    """Return a compression ratio in words: "14.9× smaller than"; a tiny model's file may be "1.4× larger than"."""
    return f"{ratio:.1f}× smaller than" if ratio >= 1 else f"{1 / ratio:.1f}× larger than"


def assembled(
    about: ModelOverview, recipe: Recipe, plans: Sequence[Plan], layers: Iterable[LayerEstimate], **more: Any
) -> Estimate:
    """Return the estimate of these layers together with what the rest of the file takes."""
    layers = tuple(layers)
    uncompressed = uncompressed_bytes(about, recipe)
    # a layer under Keep stands in the file as it is, among what is not compressed, and has no count of what it keeps
    lengths = {
        "counts": sum(count_width(layer.n) for layer, plan in zip(layers, plans, strict=True) if not plan.keep),
        "codes": sum(layer.codes for layer in layers),
        "mask": sum(layer.mask for layer in layers),
        "scales": sum(layer.scales for layer in layers),
        "rest": uncompressed + sum(layer.as_is for layer in layers),
    }
    # the header writes all lengths as decimals: how long it is depends on them
    header = header_bytes(recipe.to_json(), about.structure, lengths)
    return Estimate(recipe, layers, uncompressed, header, about.original_nbytes, assumed=about.warnings, **more)


def uncompressed_bytes(about: ModelOverview, recipe: Recipe) -> int:
    """Return the bytes of the tensors that no recipe compresses."""
    # floats take at most the bits that the recipe gives them, everything else its own width
    widest = recipe.uncompressed_bits // 8
    return sum(
        t.nbytes // t.itemsize * (min(t.itemsize, widest) if t.floating else t.itemsize) for t in about.uncompressed
    )


def layer_estimate(
    name: str, n: int, kept: int, size: LayerBytes, threshold: float = 0.0, signal: float = 0.0, noise: float = 0.0
) -> LayerEstimate:
    """Return a layer's figures with the bytes that follow from its kept count."""
    return LayerEstimate(name, n, kept, threshold, signal, noise, size.codes, size.mask, size.scales, size.as_is)
