// The shapes of everything the core passes around: recipes and plans, the sketch, estimates.

export type Scope = "global" | "layer" | "channel";
/** "unstructured", n:m, or what only the kernel knows. */
export type Structure = string;
/** An importance, a structure or a quantizer: its tag, or an object of the tag and the settings that are not at their defaults. */
export type Kind = string | { readonly kind: string; readonly [setting: string]: unknown };
/** How many weights share a scale: a tensor, an output channel, or groups of a number of neighbours. */
export type Granularity = "tensor" | "channel" | number;
/** What evenly spaced values span: the largest magnitude, the range of least squared error, a percentile, or what promises most. */
export type Clipping = "auto" | "absmax" | "mse" | number;

/** What may differ from layer to layer. */
export interface LayerFields {
  readonly sparsity: number;
  readonly bits: number;
  readonly structure: Structure;
  readonly granularity: Granularity;
  readonly quantizer: Kind;
}

/** What an override may say of a layer: its channels, too, of which only a whole recipe makes widths. */
export interface OverrideFields extends LayerFields {
  readonly channels: number;
  readonly multiple: number;
}

export type Override = "keep" | Partial<OverrideFields>;

/** Whether the same fraction of every width goes, or all channels are ranked together. */
export type ChannelScope = "width" | "global";

/** The statement of what to do to every tensor; the twin of Python's `Recipe`. Never changed in place. */
export interface Recipe extends LayerFields {
  readonly scope: Scope;
  readonly importance: Kind;
  readonly uncompressed_bits: 16 | 32;
  /** Fraction of the channels to remove, before anything else is done. */
  readonly channels: number;
  /** Widths are kept at multiples of so many outputs. */
  readonly multiple: number;
  readonly channel_scope: ChannelScope;
  /** Overrides by layer name or pattern; an array, because objects do not keep the order of keys such as "0". */
  readonly layers: readonly (readonly [string, Override])[];
}

/** What a recipe asks of one layer. `scope`: whether it is ranked with all others, by itself, or channel by channel. */
export interface Plan extends LayerFields {
  readonly keep: boolean;
  readonly scope: Scope;
}

/** Weights by signed value, ascending; bucket i covers [lo[i], hi[i]); the `…To` arrays are sums over buckets before i. */
export interface ValueTable {
  readonly lo: Float64Array;
  readonly hi: Float64Array;
  readonly count: Float64Array;
  readonly countTo: Float64Array;
  /** How many of the buckets are negative; they come first. */
  readonly negatives: number;
}

/** Weights by magnitude, ascending, both signs together; `…To[i]` sums over buckets before i (length + 1 entries). */
export interface MagnitudeTable {
  /** The bucket's number: the upper 16 bits of the float32 pattern of its magnitudes. */
  readonly bucket: Uint16Array;
  readonly lo: Float64Array;
  readonly hi: Float64Array;
  readonly count: Float64Array;
  readonly countTo: Float64Array;
  /** Sum of magnitudes. */
  readonly sumTo: Float64Array;
  /** Sum of squares. */
  readonly energyTo: Float64Array;
}

/** Weights by magnitude relative to the range of their group, for one granularity; see docs/estimate.md. */
export interface RelativeTable {
  readonly binCount: Float32Array;
  readonly binEnergy: Float32Array;
  readonly rangeValue: Float32Array;
  readonly rangeEnergy: Float32Array;
  readonly rangeCount: Float32Array;
  /** Shares of Σ range² by how far the groups reach on the other side of zero: 0, 1/8, … 1 of their range. */
  readonly ratios: Float32Array;
  readonly captured: number;
}

/** One compressible tensor as the sketch knows it. */
export interface LayerSketch {
  readonly index: number;
  /** Whether its weights are still to be looked at: until then it is an empty distribution. */
  readonly pending?: boolean;
  readonly name: string;
  /** The name without ".weight". */
  readonly label: string;
  readonly shape: readonly number[];
  /** Recipes see the tensor as a matrix of so many rows, one to an output channel. */
  readonly rows: number;
  /** Output channels; of a stack of matrices (experts) those of one. */
  readonly width: number;
  readonly n: number;
  /** How much of the weights that its tables count is left: 1, or less once channels are gone (docs/estimate.md). */
  readonly share: number;
  readonly dtype: string;
  readonly itemsize: number;
  readonly lossless: boolean;
  readonly half: "float16" | "bfloat16";
  /** Other names of the same, tied weights. */
  readonly aliases: readonly string[];
  readonly absmax: number;
  /** Σ w². */
  readonly energy: number;
  readonly values: ValueTable;
  readonly magnitudes: MagnitudeTable;
  /** One table for each of the sketch's `granularities`. */
  readonly relative: readonly RelativeTable[];
  /** For each of the sketch's `patterns`, the share of weights kept by relative bin of the whole tensor. */
  readonly survival: readonly Float32Array[];
  /** For each of the sketch's `patterns`, how many weights that are not zero it keeps. */
  readonly blocks: readonly number[];
  /** How many weights are zero already. */
  readonly zeros: number;
  /** How many of those are -0.0. */
  readonly negative_zeros: number;
}

/** A tensor that no recipe compresses, and why. */
export interface UncompressedTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly dtype: string;
  readonly nbytes: number;
  readonly itemsize: number;
  readonly floating: boolean;
  readonly role: string;
  readonly why: string;
}

/** The channels of one width: each may go without the others, and takes all its slices with it. */
export interface ChannelFamily {
  /** The first layer that makes them. */
  readonly name: string;
  readonly layers: readonly string[];
  /** How many there are. */
  readonly channels: number;
  /** How many outputs of its layers one of them is. */
  readonly step: number;
  /** Along which dimension of which tensor (its place in `tensors`) each takes how many indices. */
  readonly slices: readonly (readonly [tensor: number, dim: number, per: number])[];
  /** How much each matters. */
  readonly scores: Float32Array;
}

/** A width that has to stay, and why. */
export interface FixedWidth {
  readonly layers: readonly string[];
  readonly channels: number;
  readonly reason: string;
}

/** Which channels of a model can be removed, and all that follows from how many are left; see docs/estimate.md. */
export interface Channels {
  /** Every tensor of a file of the dense model: `[name, shape, dtype, flags, layout?, alias…]`. */
  readonly tensors: readonly (readonly [name: string, shape: readonly number[], ...rest: unknown[]])[];
  readonly families: readonly ChannelFamily[];
  readonly fixed: readonly FixedWidth[];
  /** Multiply-accumulates by tensor, or by the name of what no file holds. */
  readonly macs: readonly (readonly [tensor: number | string, count: number])[];
  /** Those of two activations, with their widths: a size, and of which families how much of it one channel is. */
  readonly products: readonly (readonly [
    module: string,
    count: number,
    widths: readonly (readonly [size: number, parts: readonly (readonly [family: number, per: number])[]])[],
  ])[];
}

/** All the browser ever knows of a model. */
export interface Sketch {
  readonly title: string;
  readonly parameters: number;
  /** Bytes of the model as a plain .safetensors file. */
  readonly original_nbytes: number;
  /** Length in characters of the structure text of the packed file. */
  readonly structure: number;
  readonly layers: readonly LayerSketch[];
  readonly uncompressed: readonly UncompressedTensor[];
  /** What was taken for granted, in a sentence each. */
  readonly warnings: readonly string[];
  readonly granularities: readonly Granularity[];
  readonly patterns: readonly Structure[];
  /** Null if it was made without an example. */
  readonly channels: Channels | null;
}

/** Per-layer columns of an estimate, in the sketch's layer order; plain arrays in the kernel's message. */
export interface LayerFigures {
  /** Weights that survive. */
  readonly kept: ArrayLike<number>;
  /** Magnitude below which weights are pruned; 0 where nothing is, or where no threshold decides. */
  readonly threshold: ArrayLike<number>;
  /** Σ w² before. */
  readonly signal: ArrayLike<number>;
  /** Σ (w − effective w)². */
  readonly noise: ArrayLike<number>;
  /** Bytes of codes, mask and scales; `as_is`: bytes of a layer under "keep". */
  readonly codes: ArrayLike<number>;
  readonly mask: ArrayLike<number>;
  readonly scales: ArrayLike<number>;
  readonly as_is: ArrayLike<number>;
}

/** What a recipe makes of a model: the form the kernel's exact message and the preview share. */
export interface Figures {
  /** The canonical JSON of the recipe these figures belong to. */
  readonly recipe: string;
  readonly exact: boolean;
  /** Bytes of the tensors that are never compressed. */
  readonly uncompressed_bytes: number;
  readonly header: number;
  /** Bytes of the uncompressed model. */
  readonly original_nbytes: number;
  /** Bytes of the entropy-coded file, where known. */
  readonly nbytes_entropy_coded: number | null;
  readonly layers: LayerFigures;
  /** How many channels of each family are left, where the sketch knows of families; always exact. */
  readonly widths?: readonly number[] | null;
  /** Multiply-accumulates of one forward pass, pruned weights among them; known, and exact, where `widths` are. */
  readonly macs?: number | null;
  /** What is left takes this while it runs; known once the kernel has run it without the channels that went. */
  readonly memory?: Memory | null;
}

/** What a model takes while it runs on one example, in bytes; null where that is not known. */
export interface Memory {
  readonly weights: number | null;
  /** The most bytes of inputs and results alive at one moment. */
  readonly activations: number | null;
}

/** What follows from figures: sums over the layers. */
export interface Totals {
  /** Bytes of the file. */
  readonly nbytes: number;
  /** Dense bytes over bytes now. */
  readonly ratio: number;
  /** Signal over noise of all compressible weights, in dB; Infinity without noise. */
  readonly sqnr: number;
  /** Share of the compressible weights that is pruned. */
  readonly sparsity: number;
  readonly kept: number;
  readonly codes: number;
  readonly mask: number;
  readonly scales: number;
  /** Bytes of layers under "keep". */
  readonly as_is: number;
}

export interface Estimate extends Figures, Totals {
  /** The sketch without the channels that went: the sizes that figures of layers are about. */
  readonly left: Sketch;
  /** Whether its bytes and kept weights are exact: they follow from counts alone, or the kernel has counted them. */
  readonly sized: boolean;
}
