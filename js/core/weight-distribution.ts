// Distributions for pictures: weights per bin of an axis, as they were, as pruning leaves them, and as rounded.

import { codebook, Survivors, spreadOf } from "./codebook";
import { weightsBelow } from "./cumulative-histogram";
import { countLevels, levelsOfBins, meanBelow, positiveShares, runCounts, typicalRange } from "./group-histogram";
import { hasCodebook } from "./kinds";
import { type Cut, cutBelow, type PruningOutcome, untouched } from "./pruning-estimate";
import { noiseFor } from "./quantization-error";
import { binOf, RANGES } from "./relative-bins";
import { tableFor } from "./sketch-decoder";
import type { LayerSketch, Plan, Sketch } from "./types";
import { levelsOf } from "./uniform-quantization";

/** What an estimate (the preview or the kernel's exact one) says of one layer. */
export interface Outcome {
  readonly kept: number;
  readonly threshold: number;
  /** Pruned by chance, not by magnitude. */
  readonly random?: boolean;
}

/** Weights per bin between ascending `edges`, before anything is done; what lies outside the axis is left out. */
export function original(layer: LayerSketch, edges: Float64Array): Float64Array {
  return perBin(edges, (x) => weightsBelow(layer.values, x));
}

/** Weights per bin after pruning, before rounding; in all `kept` of them on an axis that reaches everywhere. */
export function survivors(
  sketch: Sketch,
  layer: LayerSketch,
  plan: Plan,
  outcome: Outcome,
  edges: Float64Array,
): Float64Array {
  const fate = outcomeFromThreshold(sketch, layer, plan, outcome);
  if (fate.density < 1) return scaled(original(layer, edges), fate.density);
  const below = survivorsBelow(layer, fate);
  const all = below(Number.POSITIVE_INFINITY);
  return scaled(perBin(edges, below), all > 0 ? fate.kept / all : 1);
}

/** Weights per bin after pruning and rounding: what the network computes with, without the zeros of pruned weights. */
export function effective(
  sketch: Sketch,
  layer: LayerSketch,
  plan: Plan,
  outcome: Outcome,
  edges: Float64Array,
): Float64Array {
  if (plan.keep || plan.bits >= 16) return survivors(sketch, layer, plan, outcome, edges);
  const fate = outcomeFromThreshold(sketch, layer, plan, outcome);
  const bars = new Bars(edges);
  if (hasCodebook(plan)) drawCodebook(bars, layer, plan, fate);
  else if (plan.bits === 1) drawSigns(bars, sketch, layer, plan, fate);
  else if (plan.granularity === "tensor") drawTensorGrid(bars, sketch, layer, plan, fate);
  else drawGroupedGrids(bars, sketch, layer, plan, fate);
  return scaled(bars.counts, bars.total > 0 ? fate.kept / bars.total : 1);
}

/**
 * The values weights may take, ascending: a codebook's, or the levels of the grid; with a scale per channel or group those
 * of a typical one. Empty for 16 and 32 bits.
 */
export function levels(sketch: Sketch, layer: LayerSketch, plan: Plan, outcome: Outcome): Float64Array {
  if (plan.keep || plan.bits >= 16) return new Float64Array();
  const fate = outcomeFromThreshold(sketch, layer, plan, outcome);
  if (hasCodebook(plan)) return codebookFor(layer, plan, fate).values;
  const table = tableFor(sketch, layer, plan.granularity);
  const range = typicalRange(table);
  if (plan.bits === 1) {
    const mean = range * meanBelow(runCounts(layer, table, fate, range));
    return Float64Array.of(-mean, mean);
  }
  const grid = noiseFor(sketch).grid(layer, plan, fate);
  const last = levelsOf(grid);
  return Float64Array.from({ length: 2 * last + 1 }, (_, i) => (i - last) * grid.step * range);
}

/** What becomes of a layer's weights, read back from its plan and its figures. */
function outcomeFromThreshold(
  sketch: Sketch,
  layer: LayerSketch,
  plan: Plan,
  { kept, threshold, random }: Outcome,
): PruningOutcome {
  if (plan.keep) return untouched(layer);
  const pattern = random ? -1 : sketch.patterns.indexOf(plan.structure);
  const curve = pattern < 0 ? null : layer.survival[pattern];
  const cut = curve || random ? null : (cutBelow(layer, threshold) ?? zerosCut(layer, kept));
  const density = curve || cut ? 1 : kept / layer.n;
  return { kept, prunedEnergy: 0, cut, curve, density };
}

/** Pruning that took weights that were zero before, and no others; null where there are not as many. */
function zerosCut(layer: LayerSketch, kept: number): Cut | null {
  const { bucket, count } = layer.magnitudes;
  const fraction = (layer.n - kept) / (bucket[0] === 0 ? count[0] : 0);
  return kept < layer.n && fraction <= 1 ? { bucket: 0, lo: 0, fraction, threshold: 0 } : null;
}

function perBin(edges: Float64Array, below: (x: number) => number): Float64Array {
  const counts = new Float64Array(edges.length - 1);
  let before = below(edges[0]);
  for (let i = 0; i < counts.length; i++) {
    const upTo = below(edges[i + 1]);
    counts[i] = upTo - before;
    before = upTo;
  }
  return counts;
}

function scaled(counts: Float64Array, factor: number): Float64Array {
  if (factor !== 1) for (let i = 0; i < counts.length; i++) counts[i] *= factor;
  return counts;
}

/** How many survivors of a cut or a curve lie below x. */
function survivorsBelow(layer: LayerSketch, fate: PruningOutcome): (x: number) => number {
  if (fate.curve) {
    const { count, countTo } = spreadOf(layer, fate.curve);
    return (x) => weightsBelow({ ...layer.values, count, countTo }, x);
  }
  if (!fate.cut) return (x) => weightsBelow(layer.values, x);
  const t = fate.cut.threshold;
  if (t === 0) return (x) => weightsBelow(layer.values, x) - (x > 0 ? layer.n - fate.kept : 0);
  const negative = weightsBelow(layer.values, -t);
  const positiveFrom = weightsBelow(layer.values, t);
  return (x) => {
    if (x <= -t) return weightsBelow(layer.values, x);
    return x <= t ? negative : negative + weightsBelow(layer.values, x) - positiveFrom;
  };
}

/** Counts at single values, gathered into the bins of an axis; also counted in all, on the axis or off it. */
class Bars {
  readonly counts: Float64Array;
  total = 0;
  readonly #perUnit: number;

  constructor(private readonly edges: Float64Array) {
    this.counts = new Float64Array(edges.length - 1);
    this.#perUnit = this.counts.length / (edges[this.counts.length] - edges[0]);
  }

  /** Add `count` weights at `value`; quickest where the bins are equally wide. */
  add(value: number, count: number): void {
    this.total += count;
    const { edges, counts } = this;
    const last = counts.length - 1;
    if (!(value >= edges[0] && value <= edges[last + 1])) return;
    let bin = Math.min(last, Math.floor((value - edges[0]) * this.#perUnit));
    while (bin > 0 && value < edges[bin]) bin--;
    while (bin < last && value >= edges[bin + 1]) bin++;
    counts[bin] += count;
  }
}

function drawCodebook(bars: Bars, layer: LayerSketch, plan: Plan, fate: PruningOutcome): void {
  const { values, cells } = codebookFor(layer, plan, fate);
  values.forEach((value, i) => {
    bars.add(value, cells.count[i]);
  });
}

function codebookFor(layer: LayerSketch, plan: Plan, fate: PruningOutcome) {
  return codebook(new Survivors(spreadOf(layer, fate.curve), fate.cut), plan.bits);
}

function drawTensorGrid(bars: Bars, sketch: Sketch, layer: LayerSketch, plan: Plan, fate: PruningOutcome): void {
  const grid = noiseFor(sketch).grid(layer, plan, fate);
  const [step, levels] = [grid.step, levelsOf(grid)];
  const below = survivorsBelow(layer, fate);
  const unit = step * layer.absmax;
  let before = 0;
  for (let level = -levels; level <= levels; level++) {
    const upTo = below(level === levels ? Number.POSITIVE_INFINITY : (level + 0.5) * unit);
    bars.add(level * unit, upTo - before);
    before = upTo;
  }
}

/** The levels of each run of groups, weighted by how many groups it stands for. */
function drawGroupedGrids(bars: Bars, sketch: Sketch, layer: LayerSketch, plan: Plan, fate: PruningOutcome): void {
  const table = tableFor(sketch, layer, plan.granularity);
  const grid = noiseFor(sketch).grid(layer, plan, fate);
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
  const negative = countTo[negatives] / layer.n;
  for (let run = 0; run < RANGES; run++) {
    const counts = runCounts(layer, table, fate, table.rangeValue[run]);
    const mean = table.rangeValue[run] * meanBelow(counts);
    const all = table.rangeCount[run] * counts.reduce((sum, count) => sum + count, 0);
    bars.add(-mean, all * negative);
    bars.add(mean, all * (1 - negative));
  }
}
