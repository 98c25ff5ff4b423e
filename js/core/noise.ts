// What pruning and rounding cost one layer, in squared error, with a memory for what recurs while a slider moves.

import { ATOM, BINS, HIGH, RATIOS } from "./bins";
import { codebook, codebookNoise, Survivors, spreadOf } from "./codebook";
import {
  ErrorTables,
  errorIntegral,
  gridOf,
  type LinearGrid,
  leastErrorClip,
  nearEnergy,
  outermostError,
  percentile,
  relativeError,
  spanOf,
  triesEven,
} from "./grid";
import { clippingOf, hasCodebook } from "./kinds";
import { dot, firstAtLeast, sum } from "./search";
import { tableFor, tableIndex } from "./sketch";
import { type Fate, survivingRatios, survivingShares, untouched } from "./survival";
import type { LayerSketch, Plan, RelativeTable, Sketch } from "./types";

const known = new WeakMap<Sketch, Noise>();

/** The one `Noise` of a sketch, so that estimates and pictures share what it remembers. */
export function noiseFor(sketch: Sketch): Noise {
  let noise = known.get(sketch);
  if (!noise) {
    noise = new Noise(sketch);
    known.set(sketch, noise);
  }
  return noise;
}

class Noise {
  readonly #sketch: Sketch;
  readonly #errors = new ErrorTables();
  readonly #curveShares = new Map<string, Float64Array>();
  readonly #energy = new Float64Array(BINS);
  readonly #near = new Float64Array(BINS);
  readonly #counts = new Float64Array(BINS);
  readonly #error = [new Float64Array(BINS), new Float64Array(BINS)] as const;
  readonly #ratios = new Float64Array(RATIOS);

  constructor(sketch: Sketch) {
    this.#sketch = sketch;
  }

  /** Σ (w − effective w)² of a layer. */
  of(layer: LayerSketch, plan: Plan, fate: Fate): number {
    const survivors = layer.energy - fate.prunedEnergy;
    // zero, or a mean, is among the values of every grid
    return fate.prunedEnergy + Math.min(this.#rounding(layer, plan, fate, survivors), Math.max(survivors, 0));
  }

  #rounding(layer: LayerSketch, plan: Plan, fate: Fate, survivors: number): number {
    if (plan.keep || survivors <= 0 || plan.bits === 32) return 0;
    if (plan.bits === 16) return layer.itemsize === 2 ? 0 : this.#half(layer, fate);
    if (hasCodebook(plan)) return this.#codebook(layer, plan, fate);
    if (plan.bits === 1) return survivors * (1 - this.#oneBitCapture(layer, plan, fate, survivors));
    return this.#grid(layer, plan, fate, survivors);
  }

  #codebook(layer: LayerSketch, plan: Plan, fate: Fate): number {
    const survivors = new Survivors(spreadOf(layer, fate.curve), fate.cut);
    const values = 2 ** plan.bits;
    if (fate.kept <= values || (layer.lossless && survivors.parts() <= values)) return 0; // each weight has its own
    return fate.density * codebookNoise(codebook(survivors, plan.bits));
  }

  /** Rounding to 16 bits. */
  #half(layer: LayerSketch, fate: Fate): number {
    if (fate.curve) {
      const { count, lo, hi } = spreadOf(layer, fate.curve);
      const ends = (i: number) => [Math.abs(lo[i]), Math.abs(hi[i])].sort((a, b) => a - b);
      return count.reduce((total, n, i) => total + n * halfError(layer, ends(i)[0], ends(i)[1]), 0);
    }
    const errors = halfErrorsTo(layer);
    const { bucket, lo, hi, count } = layer.magnitudes;
    const i = fate.cut ? firstAtLeast(bucket, fate.cut.bucket) : 0;
    const inside =
      fate.cut && bucket[i] === fate.cut.bucket ? fate.cut.fraction * count[i] * halfError(layer, lo[i], hi[i]) : 0;
    return fate.density * (errors[errors.length - 1] - errors[i] - inside);
  }

  #grid(layer: LayerSketch, plan: Plan, fate: Fate, survivors: number): number {
    const table = tableFor(this.#sketch, layer, plan.granularity);
    const energy = this.#surviving(layer, plan, fate, table, "Energy", this.#energy);
    const ratios = survivingRatios(fate, table, this.#ratios);
    const total = sum(energy); // 0 of weights whose squares float64 cannot hold
    if (total <= 0) return 0;
    const clip = this.#clip(layer, plan, fate, table, energy, ratios);
    let noise = this.#errorsOf(plan, ratios, clip, energy);
    if (triesEven(plan, ratios)) {
      noise = Math.min(noise, dot(this.#errors.at(1 / (2 ** (plan.bits - 1) - 1), 1), energy));
    }
    return (noise * survivors) / total;
  }

  /** Σ ρ·energy over the bins, ρ being the relative error of rounding. */
  #errorsOf(plan: Plan, ratios: ArrayLike<number>, clip: number, energy: Float64Array): number {
    const grid = gridOf(plan, ratios, clip);
    const { step, far, near } = grid;
    const error = this.#errorTable(plan, step, far, 0);
    const noise = dot(error, energy) + energy[ATOM] * outermostError(plan, ratios, grid);
    if (near === far) return noise;
    const other = this.#errorTable(plan, step, near, 1);
    const first = firstAtLeast(HIGH, Math.min(near, far)); // the two agree below
    const clipped = nearEnergy(plan, ratios, energy, first, this.#near);
    let more = 0;
    for (let bin = first; bin < BINS; bin++) more += (other[bin] - error[bin]) * clipped[bin];
    return noise + more;
  }

  /** The relative errors of a grid; those of percentiles never recur. */
  #errorTable(plan: Plan, step: number, end: number, which: 0 | 1): Float64Array {
    return typeof clippingOf(plan) === "number"
      ? relativeError(step, end, this.#error[which])
      : this.#errors.at(step, end);
  }

  /** Energy or count per bin of the survivors (of all weights, if the ranges say that none of them survives). */
  #surviving(
    layer: LayerSketch,
    plan: Plan,
    fate: Fate,
    table: RelativeTable,
    what: "Energy" | "Count",
    out: Float64Array,
  ): Float64Array {
    const all = table[`bin${what}`];
    const shares = this.#shares(layer, plan, fate, table, what, out);
    for (let bin = 0; bin < BINS; bin++) out[bin] = shares[bin] * all[bin];
    if (what === "Count" && fate.cut?.threshold === 0) {
      out[0] = Math.max(0, out[0] - (layer.n - fate.kept)); // only weights that were zero before are pruned
    }
    if (sum(out) <= 0) out.set(all);
    return out;
  }

  #shares(
    layer: LayerSketch,
    plan: Plan,
    fate: Fate,
    table: RelativeTable,
    what: "Energy" | "Count",
    out: Float64Array,
  ): Float64Array {
    const weight = table[`range${what}`];
    if (!fate.curve) return survivingShares(fate, layer, table, weight, out);
    const g = tableIndex(this.#sketch, layer, plan.granularity);
    const key = `${layer.index} ${g} ${plan.structure} ${what}`;
    let shares = this.#curveShares.get(key);
    if (!shares) {
      shares = survivingShares(fate, layer, table, weight, new Float64Array(BINS));
      this.#curveShares.set(key, shares);
    }
    return shares;
  }

  /** The range a plan's grid spans, in units of a group's range; `energy`: the survivors' per bin. */
  #clip(
    layer: LayerSketch,
    plan: Plan,
    fate: Fate,
    table: RelativeTable,
    energy: Float64Array,
    ratios: ArrayLike<number>,
  ): number {
    const span = spanOf(plan);
    if (span === "auto" || span === "absmax") return 1;
    if (span === "mse") return leastErrorClip((clip) => this.#errorsOf(plan, ratios, clip, energy));
    return percentile(this.#surviving(layer, plan, fate, table, "Count", this.#counts), span / 100);
  }

  /** The grid of a plan, in units of a group's range. */
  grid(layer: LayerSketch, plan: Plan, fate: Fate): LinearGrid {
    const table = tableFor(this.#sketch, layer, plan.granularity);
    const energy = this.#surviving(layer, plan, fate, table, "Energy", this.#energy);
    const ratios = survivingRatios(fate, table, this.#ratios);
    return gridOf(plan, ratios, this.#clip(layer, plan, fate, table, energy, ratios));
  }

  /** The share of the survivors' energy that sign × mean magnitude captures. */
  #oneBitCapture(layer: LayerSketch, plan: Plan, fate: Fate, survivors: number): number {
    const everyone = this.#meanCapture(layer, untouched(layer), layer.energy);
    const captured = this.#meanCapture(layer, fate, survivors);
    if (plan.granularity === "tensor" || everyone >= 1) return captured;
    const grouped = tableFor(this.#sketch, layer, plan.granularity).captured;
    const finer = clamp((grouped - everyone) / (1 - everyone));
    return captured + (1 - captured) * finer;
  }

  /** (Σ m)² / (count · Σ m²) of the survivors. */
  #meanCapture(layer: LayerSketch, fate: Fate, energy: number): number {
    if (energy <= 0) return 1;
    const { count, sum: total } = this.#survivingMagnitudes(layer, fate);
    return count > 0 ? clamp(total ** 2 / (count * energy)) : 1;
  }

  #survivingMagnitudes(layer: LayerSketch, fate: Fate): { count: number; sum: number } {
    if (fate.curve) {
      const { count, lo, hi } = spreadOf(layer, fate.curve);
      return { count: sum(count), sum: count.reduce((total, n, i) => total + (n * Math.abs(lo[i] + hi[i])) / 2, 0) };
    }
    const m = layer.magnitudes;
    const last = m.count.length;
    const cut = fate.cut;
    const i = cut ? firstAtLeast(m.bucket, cut.bucket) : 0;
    let count = m.countTo[last] - m.countTo[i];
    let total = m.sumTo[last] - m.sumTo[i];
    if (cut && m.bucket[i] === cut.bucket) {
      const whole = m.sumTo[i + 1] - m.sumTo[i];
      const part = m.count[i] * (1 - cut.fraction);
      count += part - m.count[i];
      total += part * (layer.lossless ? m.lo[i] : (cut.threshold + m.hi[i]) / 2) - whole;
    }
    return { count: count * fate.density, sum: total * fate.density };
  }
}

/**
 * The mean squared error of rounding a layer's magnitudes, uniform in a bucket, to its 16-bit form: ulp²/12 where the bucket
 * holds many of its numbers. Below float16's normal numbers its steps are wider than buckets.
 */
function halfError(layer: LayerSketch, lo: number, hi: number): number {
  if (hi === 0) return 0;
  const [digits, least] = layer.half === "bfloat16" ? [7, -126] : [10, -14];
  // the magnitude is a bucket's edge, whose leading bit log2 finds exactly enough once nudged off it
  const exponent = Math.max(lo > 0 ? Math.floor(Math.log2(lo * (1 + 2 ** -30))) : least, least);
  const ulp = 2 ** (exponent - digits);
  if (hi - lo > ulp) return ulp ** 2 / 12;
  const end = Number.POSITIVE_INFINITY;
  return (errorIntegral(hi, ulp, end) - errorIntegral(lo, ulp, end)) / (hi - lo);
}

const halfErrors = new WeakMap<LayerSketch, Float64Array>();

/** Running sums of `halfError` over a layer's magnitude buckets; made once. */
function halfErrorsTo(layer: LayerSketch): Float64Array {
  let sums = halfErrors.get(layer);
  if (!sums) {
    const { lo, hi, count } = layer.magnitudes;
    sums = new Float64Array(lo.length + 1);
    for (let i = 0; i < lo.length; i++) sums[i + 1] = sums[i] + count[i] * halfError(layer, lo[i], hi[i]);
    halfErrors.set(layer, sums);
  }
  return sums;
}

function clamp(x: number): number {
  return Math.min(1, Math.max(0, x));
}
