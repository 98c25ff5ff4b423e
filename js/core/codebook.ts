// Codebooks of 2^b values for what survives of a tensor: start by Panter and Dite (1951), then Lloyd's algorithm.
import { binOf } from "./bins";
import { firstAtLeast } from "./search";
import type { Cut } from "./survival";
import type { LayerSketch } from "./types";

const LLOYD = 4;

/** A stretch of values [lo, hi], uniformly filled by `count` weights; `reach` is the width it stands for. */
interface Part {
  readonly lo: number;
  readonly hi: number;
  readonly count: number;
  readonly reach: number;
}

/** A tensor's weights by signed value with running sums: all a codebook needs to know. */
class Spread {
  readonly lo: Float64Array;
  readonly hi: Float64Array;
  readonly count: Float64Array;
  readonly reach: Float64Array;
  readonly countTo: Float64Array;
  readonly sumTo: Float64Array;
  readonly squareTo: Float64Array;
  readonly massTo: Float64Array;
  /** How many of the parts are negative. */
  readonly negatives: number;

  /** All weights of a layer, or what an n:m pattern's survival curve leaves of them. */
  constructor(layer: LayerSketch, curve: Float32Array | null = null) {
    const { lo, hi, count } = layer.values;
    const length = count.length;
    this.lo = layer.lossless ? lo.map((x, i) => (hi[i] <= 0 && x < 0 ? hi[i] : x)) : lo;
    this.hi = layer.lossless ? this.lo : hi;
    this.count = curve ? count.map((n, i) => n * curve[binOf(relative(layer, lo[i], hi[i]))]) : count;
    this.reach = reach(this.lo, this.hi);
    this.negatives = layer.values.negatives;
    [this.countTo, this.sumTo] = [new Float64Array(length + 1), new Float64Array(length + 1)];
    [this.squareTo, this.massTo] = [new Float64Array(length + 1), new Float64Array(length + 1)];
    for (let i = 0; i < length; i++) {
      const part = { lo: this.lo[i], hi: this.hi[i], count: this.count[i], reach: this.reach[i] };
      this.countTo[i + 1] = this.countTo[i] + part.count;
      this.sumTo[i + 1] = this.sumTo[i] + sumOf(part);
      this.squareTo[i + 1] = this.squareTo[i] + squareOf(part);
      this.massTo[i + 1] = this.massTo[i] + massOf(part);
    }
  }
}

const spreads = new WeakMap<object, Spread>();

/** The spread of a layer, or of what an n:m pattern's curve leaves of it; made once. */
export function spreadOf(layer: LayerSketch, curve: Float32Array | null): Spread {
  const key = curve ?? layer;
  let spread = spreads.get(key);
  if (!spread) {
    spread = new Spread(layer, curve);
    spreads.set(key, spread);
  }
  return spread;
}

/** The middle of a bucket relative to the layer's largest magnitude, as the sketch's bins are looked up. */
function relative(layer: LayerSketch, lo: number, hi: number): number {
  return layer.absmax > 0 ? Math.fround(Math.abs(lo + hi) / 2 / layer.absmax) : 0;
}

function sumOf({ lo, hi, count }: Part): number {
  return (count * (lo + hi)) / 2;
}

function squareOf({ lo, hi, count }: Part): number {
  return (count * (lo * lo + lo * hi + hi * hi)) / 3;
}

/** count^(1/3)·reach^(2/3): integrated, the density of the best quantizer's levels. */
function massOf({ count, reach }: Part): number {
  return Math.cbrt(count) * Math.cbrt(reach) ** 2;
}

/** The width each part stands for, its own at least: in a sparse tail the gaps belong to the parts. */
function reach(lo: Float64Array, hi: Float64Array): Float64Array {
  const last = lo.length - 1;
  const middle = (i: number) => (lo[i] + hi[i]) / 2;
  return lo.map((low, i) => {
    const own = hi[i] - low;
    if (last === 0) return own;
    const [before, after] = [Math.max(i - 1, 0), Math.min(i + 1, last)];
    return Math.max((middle(after) - middle(before)) / (after - before), own);
  });
}

const NOTHING: Part = { lo: 0, hi: 0, count: 0, reach: 0 };

/**
 * What a cut leaves of a spread, without copying it: the parts before `left`, what is left of the two cut buckets, and
 * the parts from `right` on.
 */
export class Survivors {
  readonly #spread: Spread;
  readonly #left: number;
  readonly #right: number;
  readonly #minus: Part = NOTHING;
  readonly #plus: Part = NOTHING;
  /** Weights below the last value asked for, their sum and sum of squares. */
  count = 0;
  sum = 0;
  square = 0;

  constructor(spread: Spread, cut: Cut | null) {
    this.#spread = spread;
    this.#left = this.#right = spread.negatives;
    if (!cut) return;
    const { lo, hi, count, reach, negatives } = spread;
    this.#left = firstAtLeast(hi, -cut.lo, 0, negatives);
    this.#right = firstAtLeast(lo, cut.lo, negatives);
    if (this.#left < negatives && hi[this.#left] === -cut.lo) this.#minus = cutPart(this.#left);
    if (lo[this.#right] === cut.lo) this.#plus = cutPart(this.#right++);

    function cutPart(i: number): Part {
      const left = 1 - cut!.fraction;
      const part = { lo: lo[i], hi: hi[i], count: count[i] * left, reach: reach[i] * left };
      if (part.lo === part.hi) return part;
      return i < negatives ? { ...part, hi: -cut!.threshold } : { ...part, lo: cut!.threshold };
    }
  }

  get mass(): number {
    const { massTo } = this.#spread;
    return massTo[this.#left] + massOf(this.#minus) + massOf(this.#plus) + massTo.at(-1)! - massTo[this.#right];
  }

  /** The value below which a given mass of `massOf` lies. */
  quantile(mass: number): number {
    const { massTo } = this.#spread;
    if (mass <= massTo[this.#left]) return this.#within(firstAtLeast(massTo, mass, 1, this.#left + 1) - 1, mass);
    let rest = mass - massTo[this.#left];
    for (const part of [this.#minus, this.#plus]) {
      const own = massOf(part);
      if (own > 0 && rest <= own) return within(part, rest, own);
      rest -= own;
    }
    rest += massTo[this.#right];
    const last = massTo.length - 1;
    if (this.#right >= last) return this.#end();
    return this.#within(Math.min(firstAtLeast(massTo, rest, this.#right + 1), last) - 1, rest);
  }

  #within(at: number, mass: number): number {
    const { massTo, lo, hi, count, reach } = this.#spread;
    const i = Math.max(0, at);
    const part = { lo: lo[i], hi: hi[i], count: count[i], reach: reach[i] };
    return within(part, mass - massTo[i], massTo[i + 1] - massTo[i]);
  }

  /** The value at the end of all parts, where rounding errors of the mass lead beyond them. */
  #end(): number {
    const last = [this.#plus, this.#minus].find((part) => part.count > 0);
    return last ? within(last, 1, 1) : this.#within(this.#left - 1, this.#spread.massTo[this.#left]);
  }

  /** Set `count`, `sum` and `square` to those of the weights below x. */
  below(x: number): void {
    const { lo, hi, count, countTo, sumTo, squareTo } = this.#spread;
    let i = firstAtLeast(hi, x, 0, this.#left);
    this.count = countTo[i];
    this.sum = sumTo[i];
    this.square = squareTo[i];
    if (i < this.#left) {
      this.#add(lo[i], hi[i], count[i], x);
      return;
    }
    this.#add(this.#minus.lo, this.#minus.hi, this.#minus.count, x);
    this.#add(this.#plus.lo, this.#plus.hi, this.#plus.count, x);
    i = firstAtLeast(hi, x, this.#right);
    this.count += countTo[i] - countTo[this.#right];
    this.sum += sumTo[i] - sumTo[this.#right];
    this.square += squareTo[i] - squareTo[this.#right];
    if (i < lo.length) this.#add(lo[i], hi[i], count[i], x);
  }

  /** Add the share of a part that lies below x. */
  #add(lo: number, hi: number, count: number, x: number): void {
    if (x <= lo || count === 0) return;
    const at = Math.min(x, hi);
    const part = hi > lo ? (count * (at - lo)) / (hi - lo) : count;
    this.count += part;
    this.sum += (part * (lo + at)) / 2;
    this.square += (part * (lo * lo + lo * at + at * at)) / 3;
  }
}

/** The value at a share mass/of of a part's reach about its middle. */
function within({ lo, hi, reach }: Part, mass: number, of: number): number {
  const inside = of > 0 ? Math.min(1, Math.max(0, mass / of)) : 0;
  return (lo + hi) / 2 + (inside - 0.5) * reach;
}

/** The 2^bits ascending values of the survivors' codebook. */
export function codebook(survivors: Survivors, bits: number): Float64Array {
  const levels = 2 ** bits;
  const mass = survivors.mass;
  // parts that reach over each other can be out of order
  const values = Float64Array.from({ length: levels }, (_, i) =>
    survivors.quantile(((i + 0.5) / levels) * mass),
  ).sort();
  for (let round = 0; round < LLOYD; round++) {
    const means = values.slice();
    eachCell(survivors, values, (i, count, sum) => {
      if (count > 0) means[i] = sum / count;
    });
    values.set(means);
  }
  return values;
}

/** Σ (x − nearest value)² over the survivors. */
export function codebookNoise(survivors: Survivors, values: Float64Array): number {
  let noise = 0;
  eachCell(survivors, values, (i, count, sum, square) => {
    noise += square - 2 * values[i] * sum + values[i] * values[i] * count;
  });
  return Math.max(0, noise);
}

/** Visit the weights nearest to each value: their count, sum and sum of squares. */
export function eachCell(
  survivors: Survivors,
  values: Float64Array,
  visit: (i: number, count: number, sum: number, square: number) => void,
): void {
  let count = 0;
  let sum = 0;
  let square = 0;
  for (let i = 0; i < values.length; i++) {
    survivors.below(i + 1 < values.length ? (values[i] + values[i + 1]) / 2 : Number.POSITIVE_INFINITY);
    visit(i, survivors.count - count, survivors.sum - sum, survivors.square - square);
    ({ count, sum, square } = survivors);
  }
}
