// What a recipe leaves of a network's channels, and all that follows from their number: shapes, bytes, multiply-accumulates.
// The twin of shrinkwidget/analysis/channel_families_and_counts.py (docs/estimate.md, "Channels").

import { deflatedLength } from "./deflated-length";
import { decided, layerNames } from "./layer-overrides";
import { removesChannels } from "./recipe";
import { roundHalfEven, sum } from "./search-round-and-sum";
import type { ChannelFamily, Channels, LayerSketch, Recipe, Sketch, UncompressedTensor } from "./types";

/** A sketch without the channels that a recipe removes, and what can be counted of it. */
export interface Narrowed {
  /** The very sketch where nothing goes. */
  readonly sketch: Sketch;
  /** How many channels of each family are left; null where the sketch knows of no families. */
  readonly widths: readonly number[] | null;
  readonly macs: number | null;
  /** Whether the length of its structure is exact. */
  readonly sized: boolean;
}

/** What a recipe says of one family: the fraction that goes (null: none of it may), and the multiple it is kept at. */
interface FamilyPlan {
  readonly fraction: number | null;
  readonly own: boolean;
  readonly multiple: number;
}

/** Removes channels from one sketch; keeps what recurs from one move of a slider to the next. */
export class ChannelPruning {
  readonly #channels: Channels;
  readonly #names: readonly string[];
  /** By family, the layers that make it and the layers it touches, as places in the sketch. */
  readonly #makers: readonly (readonly number[])[];
  readonly #touched: readonly (readonly number[])[];
  /** Place of each layer, and of each tensor that is not compressed, among the tensors of the file. */
  readonly #layerTensors: readonly number[];
  readonly #otherTensors: readonly number[];
  readonly #structure: StructureText;
  /** Whether this zlib is that of the kernel: of the dense structure both make the same length. */
  readonly #sameZlib: boolean;
  #ranked = "";
  #ranking: Int32Array = new Int32Array();
  #last: Narrowed | null = null;

  constructor(readonly sketch: Sketch) {
    this.#channels = sketch.channels ?? { tensors: [], families: [], fixed: [], macs: [], products: [] };
    const { tensors, families } = this.#channels;
    const places = new Map(tensors.map(([name], i) => [name, i]));
    const layerOf = new Map(sketch.layers.map((layer, i) => [places.get(layer.name) ?? -1, i]));
    const byLabel = new Map(sketch.layers.map((layer, i) => [layer.label, i]));
    const known = (found: readonly (number | undefined)[]) => [...new Set(found.filter((i) => i !== undefined))];
    this.#names = layerNames(sketch);
    this.#makers = families.map(({ layers }) => known(layers.map((label) => byLabel.get(label))));
    this.#touched = families.map(({ slices }) => known(slices.map(([tensor]) => layerOf.get(tensor))));
    this.#layerTensors = sketch.layers.map((layer) => places.get(layer.name) ?? -1);
    this.#otherTensors = sketch.uncompressed.map((tensor) => places.get(tensor.name) ?? -1);
    this.#structure = new StructureText(tensors);
    this.#sameZlib =
      tensors.length > 0 && this.#structure.length(tensors.map(([, shape]) => shape)) === sketch.structure;
  }

  /** How many channels of each family a recipe keeps; see docs/estimate.md. */
  widths(recipe: Recipe): number[] {
    const { families } = this.#channels;
    const full = families.map(({ channels }) => channels);
    if (!removesChannels(recipe)) return full;
    const plans = families.map((_, f) => this.#planOf(recipe, f));
    const removed = plans.map(({ fraction }, f) => (fraction === null ? 0 : roundHalfEven(fraction * full[f])));
    if (recipe.channel_scope === "global") {
      const ranked = plans.flatMap(({ fraction, own }, f) => (fraction === null || own ? [] : [f]));
      for (const f of ranked) removed[f] = 0;
      const order = this.#rankingOf(ranked);
      for (const f of order.subarray(0, roundHalfEven(recipe.channels * order.length))) removed[f]++;
    }
    return families.map(({ channels, step }, f) => {
      const { fraction, multiple } = plans[f];
      const stay = Math.max(1, channels - removed[f]);
      return fraction ? nearestMultiple(stay, channels, multiple / greatestDivisor(multiple, step)) : stay;
    });
  }

  /** Layers that share a width have to agree: what keeps the most of it is done. */
  #planOf(recipe: Recipe, f: number): FamilyPlan {
    const { own } = decided(recipe.layers, this.#names);
    if (this.#touched[f].some((layer) => own[layer] === "keep")) return { fraction: null, own: false, multiple: 1 };
    const [fractions, multiples]: [number[], number[]] = [[], []];
    for (const layer of this.#makers[f]) {
      const override = own[layer];
      if (override === null || override === "keep") continue;
      if (override.channels !== undefined) fractions.push(override.channels);
      if (override.multiple !== undefined) multiples.push(override.multiple);
    }
    return {
      fraction: fractions.length > 0 ? Math.min(...fractions) : recipe.channels,
      own: fractions.length > 0,
      multiple: multiples.length > 0 ? Math.max(...multiples) : recipe.multiple,
    };
  }

  /** The families of all their channels, the channel that matters least first; of equal ones the first family's first. */
  #rankingOf(ranked: readonly number[]): Int32Array {
    const key = ranked.join(" ");
    if (key !== this.#ranked) {
      const { families } = this.#channels;
      const of = Int32Array.from(ranked.flatMap((f) => Array<number>(families[f].channels).fill(f)));
      const scores = ranked.flatMap((f) => [...families[f].scores]);
      const order = Int32Array.from(of.keys()).sort((a, b) => scores[a] - scores[b] || a - b);
      this.#ranking = order.map((i) => of[i]);
      this.#ranked = key;
    }
    return this.#ranking;
  }

  /** How many parameters are gone: all that has another shape, but for what follows the data, such as running means. */
  #parametersGone(shapes: readonly Shape[]): number {
    const { layers, uncompressed } = this.sketch;
    const gone = (tensor: Shape, place: number) => (place < 0 ? 0 : size(tensor) - size(shapes[place]));
    const others = uncompressed.map(({ shape, role }, i) =>
      role === "buffer" ? 0 : gone(shape, this.#otherTensors[i]),
    );
    return sum(layers.map(({ shape }, i) => gone(shape, this.#layerTensors[i]))) + sum(others);
  }

  /** The sketch when so many channels of each family are left; the same object as long as it is the same number. */
  narrowed(left: readonly number[]): Narrowed {
    const { sketch } = this;
    if (sketch.channels === null) return { sketch, widths: null, macs: null, sized: true };
    if (this.#last?.widths?.every((n, f) => n === left[f])) return this.#last;
    const { families } = this.#channels;
    const shapes = shapesAfter(this.#channels, left);
    const macs = macsAfter(this.#channels, left, shapes);
    const dense = families.every(({ channels }, f) => channels === left[f]);
    const narrow = dense
      ? sketch
      : {
          ...sketch,
          parameters: sketch.parameters - this.#parametersGone(shapes),
          structure: this.#sameZlib ? this.#structure.length(shapes) : sketch.structure,
          layers: sketch.layers.map((layer, i) => {
            const place = this.#layerTensors[i];
            return place < 0 ? layer : narrowedLayer(layer, this.#channels.tensors[place], shapes[place], sketch);
          }),
          uncompressed: sketch.uncompressed.map((tensor, i) => {
            const place = this.#otherTensors[i];
            return place < 0 ? tensor : narrowedTensor(tensor, shapes[place]);
          }),
        };
    this.#last = { sketch: narrow, widths: left, macs, sized: dense || this.#sameZlib };
    return this.#last;
  }
}

/** The nearest multiple that there is, half up; all channels where they are fewer than one multiple. */
function nearestMultiple(left: number, channels: number, multiple: number): number {
  const nearest = multiple * Math.floor((2 * left + multiple) / (2 * multiple));
  return Math.min(Math.max(multiple, nearest), channels);
}

function greatestDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestDivisor(b, a % b);
}

type Shape = readonly number[];

/** The shapes of all tensors when so many channels of each family are left. */
export function shapesAfter({ tensors, families }: Channels, left: readonly number[]): Shape[] {
  const shapes = tensors.map(([, shape]) => [...shape]);
  families.forEach(({ channels, slices }, f) => {
    for (const [tensor, dim, per] of slices) shapes[tensor][dim] -= per * (channels - left[f]);
  });
  return shapes;
}

/** The multiply-accumulates of one forward pass when so many channels of each family are left. */
export function macsAfter(channels: Channels, left: readonly number[], shapes: readonly Shape[]): number {
  const { tensors, families, macs, products } = channels;
  let total = 0;
  for (const [of, count] of macs) {
    // every weight meets as many positions as before
    total += typeof of === "string" ? count : scaled(count, size(shapes[of]), size(tensors[of][1]));
  }
  for (const [, count, widths] of products) {
    let [now, dense] = [BigInt(count), 1n]; // products of four sizes go beyond what a float holds exactly
    for (const [whole, parts] of widths) {
      now *= BigInt(whole - parts.reduce((gone, [f, per]) => gone + per * (families[f].channels - left[f]), 0));
      dense *= BigInt(whole);
    }
    total += Number(now / dense);
  }
  return total;
}

/** The multiply-accumulates of one forward pass of the dense model. */
export function denseMacs({ macs, products }: Channels): number {
  return sum(macs.map(([, count]) => count)) + sum(products.map(([, count]) => count));
}

/** Those of the dense model by layer of the sketch. */
export function layerMacs({ macs, tensors }: Channels, sketch: Sketch): number[] {
  const byName = new Map(macs.map(([of, count]) => [typeof of === "string" ? of : tensors[of][0], count]));
  return sketch.layers.map(({ name }) => byName.get(name) ?? 0);
}

/** count · now / dense, rounded down, exactly. */
function scaled(count: number, now: number, dense: number): number {
  if (now === dense || dense === 0) return count;
  if (count % dense === 0) return (count / dense) * now;
  return Number((BigInt(count) * BigInt(now)) / BigInt(dense));
}

function size(shape: Shape): number {
  return shape.reduce((product, n) => product * n, 1);
}

/** What is left of a layer is taken to be distributed as the whole; its size is exact. */
function narrowedLayer(
  layer: LayerSketch,
  [, dense, , , layout]: Channels["tensors"][number],
  shape: Shape,
  { patterns }: Sketch,
): LayerSketch {
  if (shape.every((n, dim) => n === dense[dim])) return layer;
  return new NarrowedLayer(layer, shape, rowsOf(shape, layout), patterns);
}

/**
 * A layer without some of its channels. A class, as a drag makes one of every layer for each of its frames: literals that
 * spread others and have getters take ten times as long.
 */
class NarrowedLayer implements LayerSketch {
  readonly index: number;
  readonly name: string;
  readonly label: string;
  readonly dtype: string;
  readonly itemsize: number;
  readonly lossless: boolean;
  readonly half: LayerSketch["half"];
  readonly aliases: readonly string[];
  readonly absmax: number;
  readonly relative: LayerSketch["relative"];
  readonly survival: LayerSketch["survival"];
  readonly n: number;
  readonly share: number;
  readonly width: number;
  readonly zeros: number;
  readonly negative_zeros: number;
  readonly blocks: readonly number[];
  readonly #dense: LayerSketch;

  constructor(
    dense: LayerSketch,
    readonly shape: Shape,
    readonly rows: number,
    patterns: Sketch["patterns"],
  ) {
    this.#dense = dense;
    this.index = dense.index;
    this.name = dense.name;
    this.label = dense.label;
    this.dtype = dense.dtype;
    this.itemsize = dense.itemsize;
    this.lossless = dense.lossless;
    this.half = dense.half;
    this.aliases = dense.aliases;
    this.absmax = dense.absmax;
    this.relative = dense.relative;
    this.survival = dense.survival;
    const n = size(shape);
    const share = n / dense.n;
    this.n = n;
    this.share = share;
    this.width = roundHalfEven((dense.width * rows) / dense.rows);
    this.zeros = roundHalfEven(dense.zeros * share);
    this.negative_zeros = roundHalfEven(dense.negative_zeros * share);
    this.blocks = patterns.map((pattern, p) =>
      dense.zeros > 0 ? roundHalfEven(dense.blocks[p] * share) : blockCount(rows, n / rows, pattern),
    );
  }

  get energy() {
    return this.#dense.energy * this.share;
  }

  // Tables are decoded when they are first asked for.
  get values() {
    return this.#dense.values;
  }

  get magnitudes() {
    return this.#dense.magnitudes;
  }
}

/** How many rows a tensor of this shape has; `layout` is `[groups, axis…]`, output channels first if there is none. */
function rowsOf(shape: Shape, layout: unknown): number {
  const told = Array.isArray(layout) && typeof layout[0] === "number";
  const [groups, ...axes] = told ? (layout as number[]) : [1, 0];
  const split = groups === 1 ? shape : [groups, shape[0] / groups, ...shape.slice(1)];
  return size(axes.map((axis) => split[axis]));
}

/** How many weights an n:m pattern keeps of a matrix: n of every m along a row, min(n, rest) of a shorter block. */
export function blockCount(rows: number, columns: number, pattern: string): number {
  const [n, m] = pattern.split(":").map(Number);
  return rows * (Math.floor(columns / m) * n + Math.min(n, columns % m));
}

function narrowedTensor(tensor: UncompressedTensor, shape: Shape): UncompressedTensor {
  return { ...tensor, shape, nbytes: size(shape) * tensor.itemsize };
}

/** The text that describes the tensors of a file, of which only the length of what zlib makes of it counts. */
class StructureText {
  readonly #around: readonly string[];

  constructor(tensors: Channels["tensors"]) {
    const between = tensors.map(([name, , ...rest]) => [`[${ascii(name)},[`, `],${ascii(rest).slice(1, -1)}]`]);
    const pieces = between.flat();
    this.#around = ["[", ...pieces.map((piece, i) => (i > 0 && i % 2 === 0 ? `,${piece}` : piece)), "]"];
  }

  /** Its length in the header of a file whose tensors have these shapes: base64 of what zlib makes of it. */
  length(shapes: readonly Shape[]): number {
    const around = this.#around;
    let text = around[0];
    shapes.forEach((shape, i) => {
      text += around[2 * i + 1] + shape.join(",") + around[2 * i + 2];
    });
    return 4 * Math.ceil(deflatedLength(encoder.encode(text + around[around.length - 1])) / 3);
  }
}

const encoder = new TextEncoder();

/** JSON as Python writes it: no letters but those of ASCII. */
function ascii(value: unknown): string {
  return JSON.stringify(value).replace(
    /[\u007f-\uffff]/g,
    (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** The families that a layer makes, with their places; of most layers there is one. */
export function familiesOf(channels: Channels | null, label: string): { family: ChannelFamily; place: number }[] {
  const all = channels?.families.map((family, place) => ({ family, place })) ?? [];
  return all.filter(({ family }) => family.layers.includes(label));
}
