// What pruning and rounding cost one layer, in squared error, with a memory for what recurs while a slider moves.
import { BINS } from "./bins";
import { codebook, codebookNoise, Survivors, spreadOf } from "./codebook";
import { CLIPS, ErrorTables, gridOf, percentile, relativeError } from "./grid";
import { firstAtLeast, sum } from "./search";
import { tableFor, tableIndex } from "./sketch";
import { type Fate, survivingShares, untouched } from "./survival";
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
  readonly #counts = new Float64Array(BINS);
  readonly #error = new Float64Array(BINS);

  constructor(sketch: Sketch) {
    this.#sketch = sketch;
  }

  /** Σ (w − effective w)² of a layer. */
  of(layer: LayerSketch, plan: Plan, fate: Fate): number {
    return fate.prunedEnergy + this.#rounding(layer, plan, fate, layer.energy - fate.prunedEnergy);
  }

  #rounding(layer: LayerSketch, plan: Plan, fate: Fate, survivors: number): number {
    if (plan.keep || survivors <= 0 || plan.bits === 32) return 0;
    if (plan.bits === 16) return layer.itemsize === 2 ? 0 : this.#half(layer, fate);
    if (plan.grid === "codebook") return this.#codebook(layer, plan, fate);
    if (plan.bits === 1) return survivors * (1 - this.#oneBitCapture(layer, plan, fate, survivors));
    return this.#grid(layer, plan, fate, survivors);
  }

  #codebook(layer: LayerSketch, plan: Plan, fate: Fate): number {
    const survivors = new Survivors(spreadOf(layer, fate.curve), fate.cut);
    return fate.density * codebookNoise(codebook(survivors, plan.bits));
  }

  /** Rounding to 16 bits: ulp²/12 for each survivor. */
  #half(layer: LayerSketch, fate: Fate): number {
    if (fate.curve) {
      const { count, lo, hi } = spreadOf(layer, fate.curve);
      return count.reduce((total, n, i) => total + n * halfError(layer, Math.min(Math.abs(lo[i]), Math.abs(hi[i]))), 0);
    }
    const errors = halfErrorsTo(layer);
    const { bucket, lo, count } = layer.magnitudes;
    const i = fate.cut ? firstAtLeast(bucket, fate.cut.bucket) : 0;
    const inside =
      fate.cut && bucket[i] === fate.cut.bucket ? fate.cut.fraction * count[i] * halfError(layer, lo[i]) : 0;
    return fate.density * (errors[errors.length - 1] - errors[i] - inside);
  }

  #grid(layer: LayerSketch, plan: Plan, fate: Fate, survivors: number): number {
    const table = tableFor(this.#sketch, layer, plan.granularity);
    const energy = this.#surviving(layer, plan, fate, table, "Energy", this.#energy);
    const error = this.#errorOf(layer, plan, fate, table, energy);
    const total = sum(energy); // 0 of weights whose squares float32, in which tables are sent, cannot hold
    return total > 0 ? (dot(error, energy) * survivors) / total : 0;
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
    const key = `${layer.index} ${g} ${plan.pattern} ${what}`;
    let shares = this.#curveShares.get(key);
    if (!shares) {
      shares = survivingShares(fate, layer, table, weight, new Float64Array(BINS));
      this.#curveShares.set(key, shares);
    }
    return shares;
  }

  #errorOf(layer: LayerSketch, plan: Plan, fate: Fate, table: RelativeTable, energy: Float64Array): Float64Array {
    if (plan.range === "absmax") return this.#errors.at(plan, table, 0);
    if (plan.range === "mse") return this.#errors.at(plan, table, this.#bestClip(plan, table, energy));
    return relativeError(gridOf(plan, table.stretch, this.#clip(layer, plan, fate, table)), this.#error);
  }

  #clip(layer: LayerSketch, plan: Plan, fate: Fate, table: RelativeTable): number {
    const counts = this.#surviving(layer, plan, fate, table, "Count", this.#counts);
    return percentile(counts, Number(plan.range) / 100);
  }

  #bestClip(plan: Plan, table: RelativeTable, energy: Float64Array): number {
    let best = 0;
    let least = Number.POSITIVE_INFINITY;
    for (let clip = 0; clip < CLIPS.length; clip++) {
      const cost = dot(this.#errors.at(plan, table, clip), energy);
      if (cost < least) [best, least] = [clip, cost];
    }
    return best;
  }

  /** The range a plan's grid spans, in units of a group's absmax. */
  range(layer: LayerSketch, plan: Plan, fate: Fate): number {
    if (plan.range === "absmax") return 1;
    const table = tableFor(this.#sketch, layer, plan.granularity);
    if (plan.range !== "mse") return this.#clip(layer, plan, fate, table);
    return CLIPS[this.#bestClip(plan, table, this.#surviving(layer, plan, fate, table, "Energy", this.#energy))];
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
    return clamp(total ** 2 / (count * energy));
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

/** ulp²/12 of a magnitude in a layer's 16-bit form; zero costs nothing. */
function halfError(layer: LayerSketch, magnitude: number): number {
  if (magnitude === 0) return 0;
  const [digits, least] = layer.half === "bfloat16" ? [7, -126] : [10, -14];
  // the magnitude is a bucket's edge, whose leading bit log2 finds exactly enough once nudged off it
  const exponent = Math.floor(Math.log2(magnitude * (1 + 2 ** -30)));
  return 2 ** (2 * (Math.max(exponent, least) - digits)) / 12;
}

const halfErrors = new WeakMap<LayerSketch, Float64Array>();

/** Running sums of `halfError` over a layer's magnitude buckets; made once. */
function halfErrorsTo(layer: LayerSketch): Float64Array {
  let sums = halfErrors.get(layer);
  if (!sums) {
    const { lo, count } = layer.magnitudes;
    sums = new Float64Array(lo.length + 1);
    for (let i = 0; i < lo.length; i++) sums[i + 1] = sums[i] + count[i] * halfError(layer, lo[i]);
    halfErrors.set(layer, sums);
  }
  return sums;
}

function clamp(x: number): number {
  return Math.min(1, Math.max(0, x));
}

function dot(a: Float64Array, b: Float64Array): number {
  let total = 0;
  for (let bin = 0; bin < BINS; bin++) total += a[bin] * b[bin];
  return total;
}
