// Counts at single values, for the pictures of quantized weights, and what survives below a value.

import { weightsBelow } from "./cumulative-histogram";
import { spreadOf } from "./lloyd-max-codebook";
import type { PruningOutcome } from "./pruning-estimate";
import type { LayerSketch } from "./types";

/** How many survivors of a cut or a curve lie below x. */
export function survivorsBelow(layer: LayerSketch, fate: PruningOutcome): (x: number) => number {
  if (fate.curve) {
    const { count, countTo } = spreadOf(layer, fate.curve);
    return (x) => weightsBelow({ ...layer.values, count, countTo }, x);
  }
  if (!fate.cut) return (x) => weightsBelow(layer.values, x);
  const t = fate.cut.threshold;
  if (t === 0) {
    const zeros = fate.cut.fraction * layer.magnitudes.count[0];
    return (x) => weightsBelow(layer.values, x) - (x > 0 ? zeros : 0);
  }
  const negative = weightsBelow(layer.values, -t);
  const positiveFrom = weightsBelow(layer.values, t);
  return (x) => {
    if (x <= -t) return weightsBelow(layer.values, x);
    return x <= t ? negative : negative + weightsBelow(layer.values, x) - positiveFrom;
  };
}

/** Counts at single values, gathered into the bins of an axis; also counted in all, on the axis or off it. */
export class Bars {
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
    // A guess that is right for equal bins; the two loops mend what rounding, or bins of other widths, make of it.
    let bin = Math.min(last, Math.floor((value - edges[0]) * this.#perUnit));
    while (bin > 0 && value < edges[bin]) bin--;
    while (bin < last && value >= edges[bin + 1]) bin++;
    counts[bin] += count;
  }
}
