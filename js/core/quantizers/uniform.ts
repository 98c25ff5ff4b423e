// The uniform quantizer: evenly spaced values, a scale for each tensor, channel or group; of 1 bit a sign times a mean.

import { spreadOf } from "../lloyd-max-codebook";
import { ATOM, BINS, binOf, RANGES, RATIOS } from "../log-histogram-bins";
import { has16BitScales, isSymmetric, kindText } from "../method-settings";
import { type PruningOutcome, survivingAbove, survivingRatios, survivingShares, untouched } from "../pruning-estimate";
import { dot, firstAtLeast, sum } from "../search-round-and-sum";
import { tableFor, tableIndex } from "../sketch-decoder";
import { type Bars, survivorsBelow } from "../surviving-weights-and-bars";
import type { Granularity, LayerSketch, Plan, RelativeTable, Sketch } from "../types";
import {
  CLIPS,
  ErrorTables,
  extentOf,
  type GridErrors,
  gridErrors,
  gridOf,
  type LinearGrid,
  levelsOf,
  nearEnergy,
  openEnds,
  percentile,
  sidesOf,
  spanOf,
  triesEven,
} from "../uniform-grid-error";
import {
  countLevels,
  levelsOfBins,
  meanBelow,
  positiveShares,
  runCounts,
  typicalRange,
} from "../weights-per-quantization-level";
import type { QuantizerEstimate } from "./quantizer";

const EVERY = [1, 2, 3, 4, 5, 6, 7, 8] as const;
const CODED = { bits: EVERY.slice(1), idle: "1 bit is a sign: it has no range" };
/** Up to so many bits zero points share the words of their scales. */
const WORD_ZERO_BITS = 5;
const MOST_SETTLED = 256; // of 8 bytes a layer each

export const uniform: QuantizerEstimate = {
  entry: {
    kind: "uniform",
    label: "uniform",
    title: "evenly spaced values",
    python: "sw.methods.Uniform",
    bits: EVERY,
    scales: true,
    controls: [
      {
        ...{ name: "symmetric", label: "zero point", type: "choice", default: false, ...CODED },
        options: [
          { value: false, label: "asymmetric", title: "levels where the weights of the group are" },
          { value: true, label: "symmetric", title: "as many levels below zero as above" },
        ],
      },
      {
        ...{ name: "clipping", label: "clipping", type: "choice", default: "auto", ...CODED },
        options: [
          {
            ...{ value: "auto", label: "auto" },
            title: "the least squared error at 2 bits; above, what promises the smaller error",
          },
          { value: "absmax", label: "largest", title: "the largest magnitude of the group" },
          { value: "mse", label: "least error", title: "the end with the least squared error" },
        ],
        number: {
          ...{ label: "percentile", title: "a percentile of the magnitudes", default: 99.9 },
          ...{ min: 50.1, max: 100, step: 0.1, unit: "%" },
        },
      },
      {
        ...{ name: "scales", label: "scales", type: "choice", default: "float32" },
        ...{ bits: EVERY.slice(1), idle: "1 bit is a sign: its scale is a float32" },
        options: [
          { value: "float32", label: "float32", title: "16-bit fractions of the largest scale of the layer" },
          { value: "float16", label: "float16", title: "as GGUF keeps them" },
          { value: "bfloat16", label: "bfloat16", title: "as ExecuTorch keeps them in groups" },
        ],
      },
    ],
  },
  hasZero: (bits) => bits >= 2,

  sideBytes(plan, rows, columns) {
    const groups = groupCount(plan.granularity, rows, columns);
    const own = plan.bits >= 2 && has16BitScales(plan);
    const apart = groups === 1 || plan.bits > WORD_ZERO_BITS || own;
    const zeroBytes = !isSymmetric(plan) && plan.bits >= 2 && apart ? groups : 0;
    return (groups === 1 ? 4 : (own ? 0 : 4) + 2 * groups) + zeroBytes;
  },

  oneGrid: ({ granularity }) => granularity === "tensor",

  noise(sketch, layer, plan, fate, energy) {
    if (plan.bits === 1) return energy * (1 - oneBitCapture(sketch, layer, plan, fate, energy));
    return gridNoise(sketch).of(layer, plan, fate, energy);
  },

  levels(sketch, layer, plan, fate) {
    const table = tableFor(sketch, layer, plan.granularity);
    const range = typicalRange(table);
    if (plan.bits === 1) {
      const mean = range * meanBelow(runCounts(layer, table, fate, range));
      return Float64Array.of(-mean, mean);
    }
    const grid = gridNoise(sketch).grid(layer, plan, fate);
    const { below, above } = sidesOf(grid, plan, reachOf(layer, fate));
    return Float64Array.from({ length: below + above + 1 }, (_, i) => (i - below) * grid.step * range);
  },

  draw(bars, sketch, layer, plan, fate) {
    if (plan.bits === 1) drawSigns(bars, sketch, layer, plan, fate);
    else if (plan.granularity === "tensor") drawTensorGrid(bars, sketch, layer, plan, fate);
    else drawGroupedGrids(bars, sketch, layer, plan, fate);
  },
};

/** How far the survivors of a layer reach below and above zero, in units of its largest weight. */
function reachOf({ values, absmax }: LayerSketch, { cut }: PruningOutcome): { below: number; above: number } {
  const { lo, hi, negatives } = values;
  const reach = (end: number) => (cut && end < cut.threshold ? 0 : Math.min(1, end / absmax));
  const last = hi.length - 1;
  return absmax > 0
    ? { below: negatives > 0 ? reach(-lo[0]) : 0, above: last >= negatives ? reach(hi[last]) : 0 }
    : { below: 0, above: 0 };
}

/** How many scales a matrix has: one, one to a row, or ⌈columns/g⌉ to a row. */
function groupCount(granularity: Granularity, rows: number, columns: number): number {
  if (granularity === "tensor") return 1;
  if (granularity === "channel") return rows;
  return rows * Math.ceil(columns / granularity);
}

const known = new WeakMap<Sketch["granularities"], GridNoise>();

/**
 * The one `GridNoise` of a sketch, so that estimates and pictures share what it remembers. A sketch without some channels
 * has the same: it shares its granularities, and relative errors do not depend on how many weights there are.
 */
function gridNoise(sketch: Sketch): GridNoise {
  let noise = known.get(sketch.granularities);
  if (!noise) {
    noise = new GridNoise(sketch);
    known.set(sketch.granularities, noise);
  }
  return noise;
}

/** What linear grids cost the layers of a sketch, with a memory for what recurs while a slider moves. */
class GridNoise {
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
    this.#settled = new Settled(sketch.layers.length * sketch.granularities.length);
  }

  /** The squared error of rounding a layer's survivors to a linear grid. */
  of(layer: LayerSketch, plan: Plan, fate: PruningOutcome, survivors: number): number {
    // a cut moves with the sparsity; what else becomes of a layer recurs, and so does the error then
    if (fate.cut) return survivors * this.#gridError(layer, plan, fate);
    const known = this.#settled.of(plan, fate);
    // which table a layer has depends on how long its rows are, and they get shorter when channels go
    const place = tableIndex(this.#sketch, layer, plan.granularity) * this.#sketch.layers.length + layer.index;
    if (Number.isNaN(known[place])) known[place] = this.#gridError(layer, plan, fate);
    return survivors * known[place];
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

  /** The range with the least error, found as `compression/quantizers/uniform.py` finds that of a group. */
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
        out[0] = Math.max(0, out[0] - (layer.n - fate.kept) / layer.share); // only weights that were zero before are pruned
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
}

/** A number for every layer and table by what a plan asks of it, where the sparsity has no say; NaN until it is known. */
class Settled {
  readonly #known = new Map<string, Float64Array>();
  #last: { plan: Plan; byCurve: boolean; numbers: Float64Array } | null = null;

  constructor(readonly places: number) {}

  of(plan: Plan, fate: PruningOutcome): Float64Array {
    const byCurve = fate.curve !== null;
    if (this.#last?.plan === plan && this.#last.byCurve === byCurve) return this.#last.numbers;
    const { bits, granularity, quantizer, structure } = plan;
    const key = [bits, granularity, kindText(quantizer), byCurve ? structure : ""].join(" ");
    let numbers = this.#known.get(key);
    if (!numbers) {
      if (this.#known.size >= MOST_SETTLED) this.#known.clear();
      numbers = new Float64Array(this.places).fill(Number.NaN);
      this.#known.set(key, numbers);
    }
    this.#last = { plan, byCurve, numbers };
    return numbers;
  }
}

/** The share of the survivors' energy that sign × mean magnitude captures. */
function oneBitCapture(
  sketch: Sketch,
  layer: LayerSketch,
  plan: Plan,
  fate: PruningOutcome,
  survivors: number,
): number {
  const everyone = meanCapture(layer, untouched(layer), layer.energy);
  const captured = meanCapture(layer, fate, survivors);
  if (plan.granularity === "tensor" || everyone >= 1) return captured;
  const grouped = tableFor(sketch, layer, plan.granularity).captured;
  const finer = clamp((grouped - everyone) / (1 - everyone));
  return captured + (1 - captured) * finer;
}

/** (Σ m)² / (count · Σ m²) of the survivors. */
function meanCapture(layer: LayerSketch, fate: PruningOutcome, energy: number): number {
  if (energy <= 0) return 1;
  const { count, sum: total } = survivingMagnitudes(layer, fate);
  return count > 0 ? clamp((layer.share * total ** 2) / (count * energy)) : 1;
}

function survivingMagnitudes(layer: LayerSketch, fate: PruningOutcome): { count: number; sum: number } {
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

function drawTensorGrid(bars: Bars, sketch: Sketch, layer: LayerSketch, plan: Plan, fate: PruningOutcome): void {
  const grid = gridNoise(sketch).grid(layer, plan, fate);
  const sides = sidesOf(grid, plan, reachOf(layer, fate));
  const below = survivorsBelow(layer, fate);
  const unit = grid.step * layer.absmax;
  let before = 0;
  for (let level = -sides.below; level <= sides.above; level++) {
    const upTo = below(level === sides.above ? Number.POSITIVE_INFINITY : (level + 0.5) * unit);
    bars.add(level * unit, upTo - before);
    before = upTo;
  }
}

/** The levels of each run of groups, weighted by how many groups it stands for. */
function drawGroupedGrids(bars: Bars, sketch: Sketch, layer: LayerSketch, plan: Plan, fate: PruningOutcome): void {
  const table = tableFor(sketch, layer, plan.granularity);
  const grid = gridNoise(sketch).grid(layer, plan, fate);
  const [step, levels] = [grid.step, levelsOf(grid)];
  const positive = positiveShares(layer);
  const ends = levelsOfBins(step, levels);
  const perLevel = new Float64Array(levels + 1);
  for (let run = 0; run < RANGES; run++) {
    const groups = table.rangeCount[run];
    if (!(groups > 0)) continue;
    countLevels(runCounts(layer, table, fate, table.rangeValue[run]), step, ends, perLevel);
    const unit = step * table.rangeValue[run];
    bars.add(0, groups * perLevel[0]);
    for (let level = 1; level <= levels; level++) {
      if (perLevel[level] === 0) continue;
      const magnitude = level * unit;
      const share = positive[binOf(Math.fround(magnitude / layer.absmax))];
      bars.add(-magnitude, groups * perLevel[level] * (1 - share));
      bars.add(magnitude, groups * perLevel[level] * share);
    }
  }
}

/** One bit: the mean magnitude of each run of groups, once with either sign. */
function drawSigns(bars: Bars, sketch: Sketch, layer: LayerSketch, plan: Plan, fate: PruningOutcome): void {
  const table = tableFor(sketch, layer, plan.granularity);
  const { countTo, negatives } = layer.values;
  const negative = countTo[negatives] / (countTo.at(-1) ?? 1);
  for (let run = 0; run < RANGES; run++) {
    const counts = runCounts(layer, table, fate, table.rangeValue[run]);
    const mean = table.rangeValue[run] * meanBelow(counts);
    const all = table.rangeCount[run] * counts.reduce((sum, count) => sum + count, 0);
    bars.add(-mean, all * negative);
    bars.add(mean, all * (1 - negative));
  }
}

function clamp(x: number): number {
  return Math.min(1, Math.max(0, x));
}
