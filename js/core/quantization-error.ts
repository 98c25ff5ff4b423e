// What pruning and rounding cost one layer, in squared error, with a memory for what recurs while a slider moves.

import { dot, firstAtLeast, sum } from "./array-search";
import { codebook, codebookNoise, Survivors, spreadOf } from "./codebook";
import { hasCodebook, isSymmetric, kindText } from "./kinds";
import { type PruningOutcome, survivingAbove, survivingRatios, survivingShares, untouched } from "./pruning-estimate";
import { ATOM, BINS, RATIOS } from "./relative-bins";
import { tableFor, tableIndex } from "./sketch-decoder";
import type { LayerSketch, Plan, RelativeTable, Sketch } from "./types";
import {
  CLIPS,
  ErrorTables,
  errorIntegral,
  extentOf,
  type GridErrors,
  gridErrors,
  gridOf,
  type LinearGrid,
  nearEnergy,
  openEnds,
  percentile,
  spanOf,
  triesEven,
} from "./uniform-quantization";

const MOST_SETTLED = 256; // of 8 bytes a layer each

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
  /** The sums of energies over the bins before each, and the lowest bin that has any. */
  readonly #before = new Float64Array(BINS + 1);
  #lowest = 0;
  readonly #near = new Float64Array(BINS);
  readonly #counts = new Float64Array(BINS);
  readonly #error = [new Float64Array(BINS), new Float64Array(BINS)] as const;
  readonly #ratios = new Float64Array(RATIOS);
  readonly #settled: Settled;

  constructor(sketch: Sketch) {
    this.#sketch = sketch;
    this.#settled = new Settled(sketch.layers.length);
  }

  /** Σ (w − effective w)² of a layer. */
  of(layer: LayerSketch, plan: Plan, fate: PruningOutcome): number {
    const survivors = layer.energy - fate.prunedEnergy;
    // zero, or a mean, is among the values of every grid
    return fate.prunedEnergy + Math.min(this.#rounding(layer, plan, fate, survivors), Math.max(survivors, 0));
  }

  #rounding(layer: LayerSketch, plan: Plan, fate: PruningOutcome, survivors: number): number {
    if (plan.keep || survivors <= 0 || plan.bits === 32) return 0;
    if (plan.bits === 16) return layer.itemsize === 2 ? 0 : this.#half(layer, fate);
    if (hasCodebook(plan)) return this.#codebook(layer, plan, fate);
    if (plan.bits === 1) return survivors * (1 - this.#oneBitCapture(layer, plan, fate, survivors));
    return this.#grid(layer, plan, fate, survivors);
  }

  #codebook(layer: LayerSketch, plan: Plan, fate: PruningOutcome): number {
    const survivors = new Survivors(spreadOf(layer, fate.curve), fate.cut);
    const values = 2 ** plan.bits;
    if (fate.kept <= values || (layer.lossless && survivors.parts() <= values)) return 0; // each weight has its own
    return fate.density * codebookNoise(codebook(survivors, plan.bits));
  }

  /** Rounding to 16 bits. */
  #half(layer: LayerSketch, fate: PruningOutcome): number {
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

  #grid(layer: LayerSketch, plan: Plan, fate: PruningOutcome, survivors: number): number {
    // a cut moves with the sparsity; what else becomes of a layer recurs, and so does the error then
    if (fate.cut) return survivors * this.#gridError(layer, plan, fate);
    const known = this.#settled.of(plan, fate);
    if (Number.isNaN(known[layer.index])) known[layer.index] = this.#gridError(layer, plan, fate);
    return survivors * known[layer.index];
  }

  /** The mean relative error of rounding a layer's survivors to a linear grid. */
  #gridError(layer: LayerSketch, plan: Plan, fate: PruningOutcome): number {
    const table = tableFor(this.#sketch, layer, plan.granularity);
    const energy = this.#surviving(layer, plan, fate, table, "Energy", this.#energy);
    const total = this.#before[BINS]; // 0 of weights whose squares float64 cannot hold
    if (total <= 0) return 0;
    const ratios = survivingRatios(fate, table, this.#ratios);
    let noise = this.#range(layer, plan, fate, table, energy, ratios).error;
    if (triesEven(plan, ratios)) noise = Math.min(noise, this.#dot(this.#errors.even(plan.bits), energy, 0));
    return noise / total;
  }

  /** Σ ρ·energy over the bins, ρ being the relative errors of a grid; `openEnds`: the share of the groups with such an end. */
  #dot(errors: GridErrors, energy: Float64Array, openEnds: number): number {
    const { error, lost, more, unequal, openEnd } = errors;
    const noise = this.#before[lost] + dot(error, energy, Math.max(lost, this.#lowest));
    const clipped = more ? dot(more, this.#near, Math.max(unequal, this.#lowest)) : 0;
    return noise + clipped + energy[ATOM] * openEnds * openEnd;
  }

  /** The range a plan's grid spans, in units of a group's range, and Σ ρ·energy then; `energy`: the survivors' per bin. */
  #range(
    layer: LayerSketch,
    plan: Plan,
    fate: PruningOutcome,
    table: RelativeTable,
    energy: Float64Array,
    ratios: ArrayLike<number>,
  ): { grid: LinearGrid; error: number } {
    const span = spanOf(plan);
    const ends = isSymmetric(plan) ? 0 : openEnds(plan, ratios);
    const clip = typeof span === "number" ? this.#percentile(layer, plan, fate, table, energy, span) : 1;
    if (!isSymmetric(plan) && span !== "absmax") nearEnergy(plan, ratios, energy, this.#lowest, this.#near);
    if (span === "mse") return this.#leastError(plan, ratios, energy, ends);
    const extent = isSymmetric(plan) ? 0 : extentOf(plan, ratios, clip);
    const grid = gridOf(plan, extent, clip);
    // those of percentiles never recur
    const errors = typeof span === "number" ? gridErrors(grid, this.#error) : this.#errors.ofPlan(plan, extent)(16);
    return { grid, error: this.#dot(errors, energy, ends) };
  }

  /** The range with the least error, found as `compression/quantize.py` finds that of a group. */
  #leastError(
    plan: Plan,
    ratios: ArrayLike<number>,
    energy: Float64Array,
    ends: number,
  ): { grid: LinearGrid; error: number } {
    const extent = isSymmetric(plan) ? 0 : extentOf(plan, ratios, 1);
    const errorsAt = this.#errors.ofPlan(plan, extent);
    let [best, error, middle] = [0, Number.POSITIVE_INFINITY, 0];
    for (const round of CLIPS) {
      for (const offset of round) {
        const clip = Math.min(16, middle + offset);
        if (clip === best) continue;
        const found = this.#dot(errorsAt(clip), energy, ends);
        if (found < error) [best, error] = [clip, found];
      }
      middle = best;
    }
    return { grid: gridOf(plan, (best / 16) * extent, best / 16), error };
  }

  #percentile(
    layer: LayerSketch,
    plan: Plan,
    fate: PruningOutcome,
    table: RelativeTable,
    energy: Float64Array,
    percent: number,
  ): number {
    this.#surviving(layer, plan, fate, table, "Count", this.#counts);
    const clip = percentile(this.#before.subarray(1), percent / 100);
    this.#sumUp(energy);
    this.#lowest = 0;
    return clip;
  }

  /** Energy or count per bin of the survivors (of all weights, if the ranges say that none of them survives). */
  #surviving(
    layer: LayerSketch,
    plan: Plan,
    fate: PruningOutcome,
    table: RelativeTable,
    what: "Energy" | "Count",
    out: Float64Array,
  ): Float64Array {
    const all = table[`bin${what}`];
    const threshold = fate.cut?.threshold ?? 0;
    this.#lowest = 0;
    if (threshold > 0) {
      this.#lowest = survivingAbove(threshold, table, table[`range${what}`], all, out, this.#before);
    } else {
      const shares = this.#shares(layer, plan, fate, table, what, out);
      for (let bin = 0; bin < BINS; bin++) out[bin] = shares[bin] * all[bin];
      if (what === "Count" && fate.cut) {
        out[0] = Math.max(0, out[0] - (layer.n - fate.kept)); // only weights that were zero before are pruned
      }
      this.#sumUp(out);
    }
    if (this.#before[BINS] <= 0) {
      out.set(all);
      this.#lowest = 0;
      this.#sumUp(out);
    }
    return out;
  }

  /** The sums over the bins before each, in `#before`; returns that over all. */
  #sumUp(values: Float64Array): number {
    const before = this.#before;
    let total = 0;
    for (let bin = 0; bin < BINS; bin++) {
      before[bin] = total;
      total += values[bin];
    }
    before[BINS] = total;
    return total;
  }

  #shares(
    layer: LayerSketch,
    plan: Plan,
    fate: PruningOutcome,
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

  /** The grid of a plan, in units of a group's range. */
  grid(layer: LayerSketch, plan: Plan, fate: PruningOutcome): LinearGrid {
    const table = tableFor(this.#sketch, layer, plan.granularity);
    const energy = this.#surviving(layer, plan, fate, table, "Energy", this.#energy);
    const ratios = survivingRatios(fate, table, this.#ratios);
    return this.#range(layer, plan, fate, table, energy, ratios).grid;
  }

  /** The share of the survivors' energy that sign × mean magnitude captures. */
  #oneBitCapture(layer: LayerSketch, plan: Plan, fate: PruningOutcome, survivors: number): number {
    const everyone = this.#meanCapture(layer, untouched(layer), layer.energy);
    const captured = this.#meanCapture(layer, fate, survivors);
    if (plan.granularity === "tensor" || everyone >= 1) return captured;
    const grouped = tableFor(this.#sketch, layer, plan.granularity).captured;
    const finer = clamp((grouped - everyone) / (1 - everyone));
    return captured + (1 - captured) * finer;
  }

  /** (Σ m)² / (count · Σ m²) of the survivors. */
  #meanCapture(layer: LayerSketch, fate: PruningOutcome, energy: number): number {
    if (energy <= 0) return 1;
    const { count, sum: total } = this.#survivingMagnitudes(layer, fate);
    return count > 0 ? clamp(total ** 2 / (count * energy)) : 1;
  }

  #survivingMagnitudes(layer: LayerSketch, fate: PruningOutcome): { count: number; sum: number } {
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

/** A number for every layer by what a plan asks of it, where the sparsity has no say; NaN until it is known. */
class Settled {
  readonly #known = new Map<string, Float64Array>();
  #last: { plan: Plan; byCurve: boolean; numbers: Float64Array } | null = null;

  constructor(readonly layers: number) {}

  of(plan: Plan, fate: PruningOutcome): Float64Array {
    const byCurve = fate.curve !== null;
    if (this.#last?.plan === plan && this.#last.byCurve === byCurve) return this.#last.numbers;
    const { bits, granularity, quantizer, structure } = plan;
    const key = [bits, granularity, kindText(quantizer), byCurve ? structure : ""].join(" ");
    let numbers = this.#known.get(key);
    if (!numbers) {
      if (this.#known.size >= MOST_SETTLED) this.#known.clear();
      numbers = new Float64Array(this.layers).fill(Number.NaN);
      this.#known.set(key, numbers);
    }
    this.#last = { plan, byCurve, numbers };
    return numbers;
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
