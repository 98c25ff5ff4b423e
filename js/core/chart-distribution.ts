// Distributions for pictures: weights per bin of an axis, as they were, as pruning leaves them, and as rounded.

import { weightsBelow } from "./cumulative-histogram";
import { type Cut, cutBelow, type PruningOutcome, untouched } from "./pruning-estimate";
import { quantizerOf } from "./quantizers";
import { Bars, survivorsBelow } from "./surviving-weights-and-bars";
import type { LayerSketch, Plan, Sketch } from "./types";

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

/** Weights per bin after channels and weights are pruned, before rounding; in all `kept` of them on an axis that reaches everywhere. */
export function survivors(
  sketch: Sketch,
  layer: LayerSketch,
  plan: Plan,
  outcome: Outcome,
  edges: Float64Array,
): Float64Array {
  const fate = outcomeFromThreshold(sketch, layer, plan, outcome);
  if (fate.density < 1) return scaled(original(layer, edges), fate.density * layer.share);
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
  quantizerOf(plan).draw(bars, sketch, layer, plan, fate);
  return scaled(bars.counts, bars.total > 0 ? fate.kept / bars.total : 1);
}

/**
 * The values weights may take, ascending: a codebook's, or the levels of the grid; with a scale per channel or group those
 * of a typical one. Empty for 16 and 32 bits.
 */
export function levels(sketch: Sketch, layer: LayerSketch, plan: Plan, outcome: Outcome): Float64Array {
  if (plan.keep || plan.bits >= 16) return new Float64Array();
  const fate = outcomeFromThreshold(sketch, layer, plan, outcome);
  return quantizerOf(plan).levels(sketch, layer, plan, fate);
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
  // The kernel's exact figures bring a threshold and a count, and no cut: it is found again from these, so that exact
  // and estimated figures are drawn by the same code.
  const cut = curve || random ? null : (cutBelow(layer, threshold) ?? zerosCut(layer, kept));
  const density = curve || cut ? 1 : kept / layer.n;
  return { kept, prunedEnergy: 0, cut, curve, density };
}

/** Pruning that took weights that were zero before, and no others; null where there are not as many. */
function zerosCut(layer: LayerSketch, kept: number): Cut | null {
  const { bucket, count } = layer.magnitudes;
  const least = bucket[0] === 0 ? count[0] * layer.share : 0;
  const gone = layer.n - kept;
  if (gone <= 0 || gone > Math.ceil(least)) return null;
  return { bucket: 0, lo: 0, fraction: Math.min(1, gone / least), threshold: 0 };
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
