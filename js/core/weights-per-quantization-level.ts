// What a relative table says of one run of groups: who survives, to which levels they round, and with which sign.

import { weightsBelow } from "./cumulative-histogram";
import { ATOM, BINS, binOf, HIGH, LOW, RANGES } from "./log-histogram-bins";
import type { PruningOutcome } from "./pruning-estimate";
import type { LayerSketch, RelativeTable } from "./types";

const runBins = new Float64Array(BINS);

/** The surviving weights per relative bin of the groups with this range (an array that the next call overwrites). */
export function runCounts(layer: LayerSketch, table: RelativeTable, fate: PruningOutcome, range: number): Float64Array {
  if (fate.curve) return curveCounts(layer, table, fate.curve, range);
  runBins.set(table.binCount);
  const threshold = fate.cut?.threshold ?? 0;
  if (threshold > 0) {
    const start = threshold / range;
    const bin = binOf(start);
    runBins.fill(0, 0, bin);
    runBins[bin] *= bin < ATOM ? (HIGH[bin] - start) / (HIGH[bin] - LOW[bin]) : Number(start < 1);
  } else if (fate.cut && range === 0) {
    runBins.fill(0);
  } else if (fate.cut) {
    runBins[0] = Math.max(0, runBins[0] - (layer.n - fate.kept) / layer.share); // only zeros are pruned
  }
  return runBins;
}

function curveCounts(layer: LayerSketch, table: RelativeTable, curve: Float32Array, range: number): Float64Array {
  for (let bin = 0; bin < BINS; bin++) {
    const relative = (range * ((LOW[bin] + HIGH[bin]) / 2)) / layer.absmax || 0;
    runBins[bin] = table.binCount[bin] * curve[binOf(Math.fround(relative))];
  }
  return runBins;
}

/** The mean relative magnitude of counts per bin; 0 of none. */
export function meanBelow(counts: Float64Array): number {
  let [all, sum] = [0, 0];
  for (let bin = 0; bin < BINS; bin++) {
    all += counts[bin];
    sum += (counts[bin] * (LOW[bin] + HIGH[bin])) / 2;
  }
  return all > 0 ? sum / all : 0;
}

/** The first and the last level that the weights of each bin round to. */
export function levelsOfBins(step: number, levels: number): { first: Int32Array; last: Int32Array } {
  const level = (u: number) => Math.min(levels, Math.round(u / step));
  return { first: Int32Array.from(LOW, level), last: Int32Array.from(HIGH, level) };
}

/** Round counts per bin to levels 0, 1, … of a grid, a bin that spans several levels being shared among them. */
export function countLevels(
  counts: Float64Array,
  step: number,
  { first, last }: ReturnType<typeof levelsOfBins>,
  perLevel: Float64Array,
): void {
  perLevel.fill(0);
  for (let bin = 0; bin < BINS; bin++) {
    if (counts[bin] === 0) continue;
    if (first[bin] === last[bin]) {
      perLevel[first[bin]] += counts[bin];
      continue;
    }
    const perUnit = counts[bin] / (HIGH[bin] - LOW[bin]);
    for (let level = first[bin]; level <= last[bin]; level++) {
      const from = Math.max(LOW[bin], (level - 0.5) * step);
      const to = level === last[bin] ? HIGH[bin] : (level + 0.5) * step;
      perLevel[level] += perUnit * (to - from);
    }
  }
}

const shares = new WeakMap<LayerSketch["values"], Float64Array>();

/** Per bin of magnitude relative to the layer's largest, which share of the weights is positive. */
export function positiveShares(layer: LayerSketch): Float64Array {
  let share = shares.get(layer.values);
  if (!share) {
    share = countPositive(layer);
    shares.set(layer.values, share);
  }
  return share;
}

function countPositive(layer: LayerSketch): Float64Array {
  const { values } = layer;
  const share = new Float64Array(BINS);
  let last = 1 - values.countTo[values.negatives] / (values.countTo.at(-1) ?? 1);
  for (let bin = 0; bin < BINS; bin++) {
    const lo = LOW[bin] * layer.absmax;
    const hi = bin >= ATOM - 1 ? Number.POSITIVE_INFINITY : HIGH[bin] * layer.absmax;
    const plus = weightsBelow(values, hi) - weightsBelow(values, lo);
    const minus = weightsBelow(values, -lo) - weightsBelow(values, -hi);
    if (plus + minus > 0) last = plus / (plus + minus);
    share[bin] = last;
  }
  return share;
}

/** The root mean square of the groups' ranges. */
export function typicalRange(table: RelativeTable): number {
  let sum = 0;
  for (let run = 0; run < RANGES; run++) sum += table.rangeCount[run] * table.rangeValue[run] ** 2;
  return Math.sqrt(sum);
}
