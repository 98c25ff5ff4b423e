// Which weights survive, as far as a sketch can tell: ranks, thresholds and survival functions (docs/estimate.md).

import { ATOM, BINS, binOf, HIGH, LOW, RANGES, RATIOS } from "./log-histogram-bins";
import { firstAtLeast, firstAtLeastAround, roundHalfEven } from "./search-round-and-sum";
import { meanSquare } from "./sketch-decoder";
import type { LayerSketch, RelativeTable } from "./types";

/** Counts of a layer without some channels are no whole numbers: sums in another order differ by less than this. */
const ABOUT = 1e-6;

/** Where a ranking by magnitude is cut: all below bucket [lo, hi) is pruned, and `fraction` of that bucket. */
export interface Cut {
  readonly bucket: number;
  readonly lo: number;
  readonly fraction: number;
  readonly threshold: number;
}

/** What becomes of one layer. At most one of `cut`, `curve` and a `density` below 1 decides who survives. */
export interface PruningOutcome {
  readonly kept: number;
  readonly prunedEnergy: number;
  readonly cut: Cut | null;
  /** Kept fraction per bin of the tensor's relative magnitude, for an n:m pattern. */
  readonly curve: Float32Array | null;
  /** Kept fraction whatever the magnitude. */
  readonly density: number;
}

/** Counts by bucket of magnitude, of one layer or of several together. */
export interface Ranking {
  readonly bucket: Uint16Array;
  readonly lo: Float64Array;
  readonly hi: Float64Array;
  readonly count: Float64Array;
  readonly countTo: Float64Array;
}

/** The layers' buckets as one ranking. */
export function mergedRanking(layers: readonly LayerSketch[]): Ranking {
  // A bucket is the upper half of a float32 without its sign, 15 bits: all there can be fit into one table.
  const totals = new Float64Array(0x8000);
  const lo = new Float64Array(0x8000);
  const hi = new Float64Array(0x8000);
  for (const { magnitudes: m, share } of layers) {
    for (let i = 0; i < m.bucket.length; i++) {
      const bucket = m.bucket[i];
      totals[bucket] += m.count[i] * share;
      lo[bucket] = m.lo[i];
      hi[bucket] = m.hi[i];
    }
  }
  const bucket = Uint16Array.from(totals.keys()).filter((b) => totals[b] > 0);
  const pick = (table: Float64Array) => Float64Array.from(bucket, (b) => table[b]);
  const count = pick(totals);
  const countTo = new Float64Array(count.length + 1);
  for (let i = 0; i < count.length; i++) countTo[i + 1] = countTo[i] + count[i];
  return { bucket, lo: pick(lo), hi: pick(hi), count, countTo };
}

/** The cut that prunes the k smallest magnitudes; null for none. */
export function cutAt(ranking: Ranking, k: number): Cut | null {
  if (k <= 0) return null;
  const i = Math.min(firstAtLeast(ranking.countTo, k - ABOUT) - 1, ranking.count.length - 1);
  const fraction = Math.min(1, (k - ranking.countTo[i]) / ranking.count[i]);
  const lo = ranking.lo[i];
  return { bucket: ranking.bucket[i], lo, fraction, threshold: lo + (ranking.hi[i] - lo) * fraction };
}

/** The cut of this layer that a threshold makes, as the kernel reports it. */
export function cutBelow(layer: LayerSketch, threshold: number): Cut | null {
  if (threshold <= 0) return null;
  const m = layer.magnitudes;
  const i = Math.max(0, firstAtLeast(m.hi, threshold));
  if (i >= m.lo.length) return { bucket: 0x8000, lo: threshold, fraction: 0, threshold };
  const lo = Math.min(m.lo[i], threshold);
  return { bucket: m.bucket[i], lo, fraction: m.hi[i] > lo ? (threshold - lo) / (m.hi[i] - lo) : 0, threshold };
}

/** The outcome where a recipe prunes nothing but so many of the zeros that are there. */
export function butZeros(layer: LayerSketch, zeros: number): PruningOutcome {
  if (!zeros) return untouched(layer);
  const fraction = Math.min(1, zeros / (layer.magnitudes.count[0] * layer.share)); // zeros are rounded where channels are gone
  const cut = { bucket: 0, lo: 0, fraction, threshold: 0 };
  return { kept: layer.n - zeros, prunedEnergy: 0, cut, curve: null, density: 1 };
}

export function untouched(layer: LayerSketch): PruningOutcome {
  return { kept: layer.n, prunedEnergy: 0, cut: null, curve: null, density: 1 };
}

/** The outcome of an n:m pattern, by its number in the sketch. */
export function blocks(layer: LayerSketch, pattern: number): PruningOutcome {
  const curve = layer.survival[pattern];
  const energy = layer.relative[0].binEnergy;
  let prunedEnergy = 0;
  for (let bin = 0; bin < BINS; bin++) prunedEnergy += (1 - curve[bin]) * energy[bin];
  prunedEnergy *= layer.energy;
  return { kept: layer.blocks[pattern], prunedEnergy, cut: null, curve, density: 1 };
}

/** The outcome of the weights at or above a cut; zeros are always below it. */
export function below(layer: LayerSketch, cut: Cut, kept?: number): PruningOutcome {
  const m = layer.magnitudes;
  if (cut.lo === 0 && layer.zeros && cut.fraction * m.count[0] * layer.share <= layer.zeros) {
    return butZeros(layer, layer.zeros);
  }
  const last = m.bucket.length - 1;
  const i = firstAtLeastAround(m.bucket, cut.bucket, Math.max(0, last - (m.bucket[last] - cut.bucket))); // few are missing
  let count = m.countTo[i];
  let energy = m.energyTo[i];
  if (m.bucket[i] === cut.bucket) {
    const part = m.count[i] * cut.fraction;
    count += part;
    energy += part * meanSquare(m.lo[i], layer.lossless ? m.lo[i] : cut.threshold);
  }
  return {
    kept: kept ?? layer.n - roundHalfEven(Math.round(1e6 * count * layer.share) / 1e6),
    prunedEnergy: energy * layer.share,
    cut,
    curve: null,
    density: 1,
  };
}

const PER_WIDTH = HIGH.map((high, bin) => 1 / (high - LOW[bin]));

/**
 * What survives a threshold of `all` that a table holds per relative bin, `weight` being the shares of the runs of groups.
 * Written to `out`; the sums over the bins before each go to `before`. The weights of a run that lie above the threshold
 * survive, so it cuts one bin in two; the larger its range, the lower that bin is. Returns the lowest.
 */
export function survivingAbove(
  threshold: number,
  table: RelativeTable,
  weight: Float32Array,
  all: Float32Array,
  out: Float64Array,
  before: Float64Array,
): number {
  const ranges = table.rangeValue;
  let run = RANGES - 1;
  // Runs from the largest range down, bins upwards: from each bin to the next, more runs survive whole, so one pass over both
  // is enough (a merge, not a product of 64 runs and 162 bins).
  while (run >= 0 && !(ranges[run] > threshold)) run--; // runs that are not used come last, at 0
  const lowest = run < 0 ? ATOM : Math.min(binOf(threshold / ranges[run]), ATOM - 1);
  out.fill(0, 0, lowest);
  before.fill(0, 0, lowest);
  let whole = 0; // the share of the groups in which all of a bin survives
  let total = 0;
  for (let bin = lowest; bin < BINS; bin++) {
    let here = whole;
    for (; run >= 0 && threshold < ranges[run] * HIGH[bin]; run--) {
      here += weight[run] * (HIGH[bin] - threshold / ranges[run]) * PER_WIDTH[bin];
      whole += weight[run];
    }
    before[bin] = total;
    out[bin] = here * all[bin];
    total += out[bin];
  }
  before[BINS] = total;
  return lowest;
}

/** Per relative bin, the share of the groups in which its weights survive where no threshold decides; written to `out`. */
export function survivingShares(
  fate: PruningOutcome,
  layer: LayerSketch,
  table: RelativeTable,
  weight: Float32Array,
  out: Float64Array,
): Float64Array {
  if (fate.curve) return curveShares(fate.curve, layer, table, weight, out);
  let total = 0;
  for (let run = 0; run < RANGES; run++) if (table.rangeValue[run] > 0) total += weight[run];
  return out.fill(total); // a density scales all alike, and what is made of the shares is in proportion to their sum
}

/**
 * The shares of the survivors' Σ range² by how far their groups reach on the other side of zero: where that end is below
 * the threshold, it is pruned. Written to `out`, or the table's own.
 */
export function survivingRatios(fate: PruningOutcome, table: RelativeTable, out: Float64Array): ArrayLike<number> {
  const threshold = fate.cut?.threshold ?? 0;
  if (fate.curve || threshold === 0) return table.ratios;
  let run = RANGES - 1;
  while (run > 0 && table.rangeValue[run] === 0) run--;
  let alive = 0;
  for (let i = 1; i < RATIOS; i++) {
    // ranges ascend, and the larger the ratio the smaller a range will do
    for (; run >= 0 && table.rangeValue[run] * (i / (RATIOS - 1)) > threshold; run--) alive += table.rangeEnergy[run];
    out[i] = alive;
  }
  if (alive <= 0) return table.ratios;
  out[0] = 1;
  for (let i = 1; i < RATIOS; i++) {
    out[i] *= table.ratios[i] / alive;
    out[0] -= out[i];
  }
  return out;
}

function curveShares(
  curve: Float32Array,
  layer: LayerSketch,
  table: RelativeTable,
  weight: Float32Array,
  out: Float64Array,
): Float64Array {
  out.fill(0);
  for (let run = 0; run < RANGES; run++) {
    const range = table.rangeValue[run];
    if (!(range > 0)) continue;
    for (let bin = 0; bin < BINS; bin++) {
      out[bin] += weight[run] * curve[binOf(Math.fround((range * ((LOW[bin] + HIGH[bin]) / 2)) / layer.absmax))];
    }
  }
  return out;
}
