// Codebooks of 2^b values for what survives of a tensor: start by Panter and Dite (1951), then Lloyd's algorithm.

import { binOf } from "./log-histogram-bins";
import type { Cut } from "./pruning-estimate";
import { firstAtLeast, firstAtLeastAround, firstAtLeastNear } from "./search-round-and-sum";
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
  const key = curve ?? layer.values;
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

/** What lies in the cells of a codebook: the weights nearest to each value, their sum and sum of squares. */
export interface Cells {
  readonly count: Float64Array;
  readonly sum: Float64Array;
  readonly square: Float64Array;
}

/** What a cut leaves of a spread, without copying it: the parts before `left`, two remainders, the parts from `right` on. */
export class Survivors {
  readonly #spread: Spread;
  readonly #left: number;
  readonly #right: number;
  readonly #minus: Part = NOTHING;
  readonly #plus: Part = NOTHING;

  constructor(spread: Spread, cut: Cut | null) {
    const { lo, hi, count, reach, negatives } = spread;
    let [left, right] = [negatives, negatives];
    if (cut) {
      left = firstAtLeast(hi, -cut.lo, 0, negatives);
      right = firstAtLeast(lo, cut.lo, negatives);
      const alive = 1 - cut.fraction;
      if (left < negatives && hi[left] === -cut.lo) this.#minus = remainder(left, { hi: -cut.threshold });
      if (lo[right] === cut.lo) this.#plus = remainder(right++, { lo: cut.threshold });

      function remainder(i: number, end: Partial<Part>): Part {
        const part = { lo: lo[i], hi: hi[i], count: count[i] * alive, reach: reach[i] * alive };
        return part.lo === part.hi ? part : { ...part, ...end };
      }
    }
    this.#spread = spread;
    this.#left = left;
    this.#right = right;
  }

  /** How many parts are left. */
  parts(): number {
    const { count } = this.#spread;
    let parts = Number(this.#minus.count > 0) + Number(this.#plus.count > 0);
    for (let i = 0; i < count.length; i++) if (count[i] > 0 && (i < this.#left || i >= this.#right)) parts++;
    return parts;
  }

  /** Where each of `levels` equal shares of the mass has its middle, ascending; `near[i]` is set to the part it is in. */
  companded(levels: number, near: Int32Array): Float64Array {
    const { massTo } = this.#spread;
    const last = massTo.length - 1;
    const left = massTo[this.#left];
    const minus = massOf(this.#minus);
    const plus = massOf(this.#plus);
    const all = left + minus + plus + massTo[last] - massTo[this.#right];
    const values = new Float64Array(levels);
    if (!(all > 0)) return values;
    let at = 0;
    // Levels ascend, and so do their places in the running sums: each search begins where the last one ended.
    for (let k = 0; k < levels; k++) {
      let mass = ((k + 0.5) / levels) * all;
      if (mass > left && mass <= left + minus) values[k] = within(this.#minus, (mass - left) / minus);
      else if (mass > left + minus && mass <= left + minus + plus) {
        values[k] = within(this.#plus, (mass - left - minus) / plus);
      } else {
        if (mass > left) mass += massTo[this.#right] - left - minus - plus;
        at = Math.min(firstAtLeastNear(massTo, mass, mass > left ? Math.max(at, this.#right + 1) : at), last);
        values[k] = this.#inside(Math.max(0, at - 1), mass);
      }
      near[k] = Math.max(0, at - 1);
    }
    return values.sort(); // parts that reach over each other can be out of order
  }

  #inside(i: number, mass: number): number {
    const { massTo, lo, hi, count, reach } = this.#spread;
    const own = massTo[i + 1] - massTo[i];
    const share = own > 0 ? Math.min(1, (mass - massTo[i]) / own) : 0;
    return within({ lo: lo[i], hi: hi[i], count: count[i], reach: reach[i] }, share);
  }

  /** Sort the weights into the cells of ascending values; `near[i]` guesses, and then says, where cell i ends. */
  fill(cells: Cells, values: Float64Array, near: Int32Array): void {
    const { lo, hi, count, countTo, sumTo, squareTo } = this.#spread;
    const [left, right] = [this.#left, this.#right];
    const pruned = { count: countTo[right], sum: sumTo[right], square: squareTo[right] };
    const alive = this.#gap(Number.POSITIVE_INFINITY);
    let [countBefore, sumBefore, squareBefore] = [0, 0, 0];
    for (let k = 0; k < values.length; k++) {
      const x = k + 1 < values.length ? (values[k] + values[k + 1]) / 2 : Number.POSITIVE_INFINITY;
      const i = firstAtLeastAround(hi, x, near[k]);
      near[k] = i;
      const inGap = i >= left && i < right;
      // from `right` on, differences come first: a cell without weights then has none, to the last bit
      // Sums below x without what is pruned: up to `left` the running sums, in the gap what the cut left of its two
      // buckets, and beyond it the running sums minus all that was in the gap.
      const from = i < right ? NO_MOMENTS : pruned;
      const gap = i < left ? NO_MOMENTS : inGap ? this.#gap(x) : alive;
      let n = inGap ? gap.count : countTo[i] - from.count + gap.count;
      let s = inGap ? gap.sum : sumTo[i] - from.sum + gap.sum;
      let q = inGap ? gap.square : squareTo[i] - from.square + gap.square;
      if (!inGap && i < hi.length && x > lo[i]) {
        const low = lo[i];
        const part = hi[i] > low ? (count[i] * (x - low)) / (hi[i] - low) : count[i];
        n += part;
        s += (part * (low + x)) / 2;
        q += (part * (low * low + low * x + x * x)) / 3;
      }
      cells.count[k] = n - countBefore;
      cells.sum[k] = s - sumBefore;
      cells.square[k] = q - squareBefore;
      countBefore = n;
      sumBefore = s;
      squareBefore = q;
    }
  }

  /** What lies below x before `right`, x being in the gap. */
  #gap(x: number): Moments {
    const { countTo, sumTo, squareTo } = this.#spread;
    const [left, minus, plus] = [this.#left, below(this.#minus, x), below(this.#plus, x)];
    return {
      count: countTo[left] + minus.count + plus.count,
      sum: sumTo[left] + minus.sum + plus.sum,
      square: squareTo[left] + minus.square + plus.square,
    };
  }
}

/** How many weights, their sum and sum of squares. */
interface Moments {
  readonly count: number;
  readonly sum: number;
  readonly square: number;
}

const NO_MOMENTS: Moments = { count: 0, sum: 0, square: 0 };

/** The moments of what of a part lies below x. */
function below({ lo, hi, count, reach }: Part, x: number): Moments {
  if (x <= lo || count === 0) return NO_MOMENTS;
  const end = Math.min(x, hi);
  const part = { lo, hi: end, count: hi > lo ? (count * (end - lo)) / (hi - lo) : count, reach };
  return { count: part.count, sum: sumOf(part), square: squareOf(part) };
}

/** The value at a share of a part's reach about its middle. */
function within({ lo, hi, reach }: Part, share: number): number {
  return (lo + hi) / 2 + (share - 0.5) * reach;
}

/** A codebook of 2^bits ascending values for the survivors, and what lies in its cells. */
export function codebook(survivors: Survivors, bits: number): { values: Float64Array; cells: Cells } {
  const levels = 2 ** bits;
  const near = new Int32Array(levels);
  const values = survivors.companded(levels, near);
  const [count, sum, square] = [new Float64Array(levels), new Float64Array(levels), new Float64Array(levels)];
  const cells = { count, sum, square };
  // A fixed number of rounds, as docs/estimate.md has it: the start is good, and later rounds change little.
  for (let round = 0; round < LLOYD; round++) {
    survivors.fill(cells, values, near);
    for (let i = 0; i < levels; i++) if (count[i] > 0) values[i] = sum[i] / count[i];
  }
  survivors.fill(cells, values, near);
  return { values, cells };
}

/** Σ (x − nearest value)² over the survivors of a codebook. */
export function codebookNoise({ values, cells }: ReturnType<typeof codebook>): number {
  let noise = 0;
  for (let i = 0; i < values.length; i++) {
    noise += cells.square[i] - 2 * values[i] * cells.sum[i] + values[i] * values[i] * cells.count[i];
  }
  return Math.max(0, noise);
}
