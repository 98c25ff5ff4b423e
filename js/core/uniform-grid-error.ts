// What rounding to a linear grid costs: relative errors of bins, clipping ranges, one bit (docs/estimate.md).

import { ATOM, BINS, binOf, HIGH, LOW, RATIOS } from "./log-histogram-bins";
import { clippingOf, isSymmetric } from "./method-settings";
import { firstAtLeast } from "./search-round-and-sum";
import type { Clipping, Plan } from "./types";

/** Ranges tried for the least squared error, in sixteenths of a group's absmax: round by round, on from the best one so far. */
export const CLIPS = [
  [16, 12, 8, 4],
  [2, -2],
  [1, -1],
];

/** Bits up to which every level counts when the end of an asymmetric grid is estimated; above, ends are where they are. */
const FEW_BITS = 3;
/** From this share on of groups on one side of zero, or equally far to both, a layer may be quantized already. */
const EVEN = 0.999;
/** Extents are rounded to 1/256 of the range, except for percentiles, so that the layers of a model share their tables of errors. */
const GRAIN = 256;

/** A linear grid in units of a group's range: its step, and where it ends on the side of the outermost weight, and on the other. */
export interface LinearGrid {
  readonly step: number;
  readonly far: number;
  readonly near: number;
}

/** What clipping "auto" spans: the least squared error at 2 bits, else "auto", which is decided for every group. */
export function spanOf(plan: Plan): Clipping {
  const clipping = clippingOf(plan);
  return clipping === "auto" && plan.bits === 2 ? "mse" : clipping;
}

/** Where the full range of a signed integer ends on the near side, its far end being 1. */
export function fullRangeNear(plan: Plan): number {
  return 1 - 2 / (1 << plan.bits); // of whole bits, and faster than a power
}

/**
 * How far the typical asymmetric grid of a plan reaches from end to end, its far side spanning `clip`; `ratios` are those of
 * `RelativeTable`, of the survivors.
 */
export function extentOf(plan: Plan, ratios: ArrayLike<number>, clip: number): number {
  const span = spanOf(plan);
  if (span === "mse" && clip !== 1) return clip * extentOf(plan, ratios, 1);
  const limit = span === "auto" ? fullRangeNear(plan) : clip;
  let squares = 0;
  for (let i = 0; i < RATIOS; i++) {
    const reach = clip + Math.min(limit, i / (RATIOS - 1));
    squares += ratios[i] * reach * reach;
  }
  const extent = Math.sqrt(squares);
  return typeof span === "number" ? extent : Math.floor(extent * GRAIN + 0.5) / GRAIN;
}

/** The typical grid of a plan that spans `clip` and has this extent. */
export function gridOf(plan: Plan, extent: number, clip: number): LinearGrid {
  if (isSymmetric(plan)) return evenGrid(plan.bits, clip);
  const steps = (1 << plan.bits) - 1;
  const span = spanOf(plan);
  const step = extent / steps;
  if (span === "auto" && plan.bits <= FEW_BITS + 2) return { step, far: 2, near: fullRangeNear(plan) };
  if (span === "auto" || span === "absmax") return { step, far: 2, near: 2 };
  if (plan.bits > FEW_BITS) return { step, far: clip, near: plan.granularity === "tensor" ? extent - clip : clip };
  const levels = Math.min(Math.floor(clip / step + 0.5), steps);
  return { step, far: levels * step, near: (steps - levels) * step };
}

function evenGrid(bits: number, clip: number): LinearGrid {
  return { step: clip / ((1 << (bits - 1)) - 1), far: clip, near: clip };
}

/** How many levels a picture of the grid has on either side of zero. */
export function levelsOf({ step, far }: LinearGrid): number {
  return Math.floor(Math.min(far, 1) / step + 0.5);
}

/**
 * How many levels a grid has on either side of zero, in a layer whose weights reach so far: an asymmetric one has levels
 * where the weights are, and at few bits as many as its range leaves over.
 */
export function sidesOf(
  grid: LinearGrid,
  plan: Plan,
  reach: { below: number; above: number },
): { below: number; above: number } {
  const far = levelsOf(grid);
  if (isSymmetric(plan)) return { below: far, above: far };
  const nearest = Math.min(reach.below, reach.above);
  const span = spanOf(plan);
  const counted = plan.bits <= FEW_BITS && span !== "auto" && span !== "absmax";
  const near = Math.min(far, Math.floor((counted ? grid.near : Math.min(grid.near, nearest)) / grid.step + 0.5));
  return reach.below > reach.above ? { below: far, above: near } : { below: near, above: far };
}

/** Whether a grid with as many levels on either side is tried: it is exact where the weights are on one already. */
export function triesEven(plan: Plan, ratios: ArrayLike<number>): boolean {
  return (
    clippingOf(plan) === "auto" && !isSymmetric(plan) && (plan.bits === 2 || ratios[0] + ratios[RATIOS - 1] > EVEN)
  );
}

/** Half of the smallest range that is tried: weights below half a step of that are lost on either side. */
const SMALLEST = 1 / 32;

/** Of every bin, by its middle: the first node of `ratios` that is not below it, and the part of that node that is above. */
const NODE = LOW.map((low, bin) => Math.ceil(((low + HIGH[bin]) / 2) * (RATIOS - 1) - 0.5));
const PART = LOW.map((low, bin) => NODE[bin] - ((low + HIGH[bin]) / 2) * (RATIOS - 1) + 0.5);
/** Of every node, the first bin that is its own. */
const FIRST = Array.from({ length: RATIOS }, (_, node) => firstAtLeast(NODE, node));

/**
 * The energy per bin on the near side of zero, of the groups that clip there: half of those as far out as the group reaches
 * on that side. Written to `out`, for the bins that a grid can clip, from `lowest` on.
 */
export function nearEnergy(
  plan: Plan,
  ratios: ArrayLike<number>,
  energy: Float64Array,
  lowest: number,
  out: Float64Array,
): void {
  const span = spanOf(plan);
  const least = span === "auto" ? fullRangeNear(plan) : -1;
  const lost = span === "mse" && plan.bits <= FEW_BITS ? SMALLEST / (1 << plan.bits) : 0;
  const first = Math.max(lowest, firstAbove(span === "auto" ? least : lost));
  let end = BINS;
  let beyond = 0; // half of the ratios at nodes above
  for (let node = RATIOS - 1; node >= 0 && end > first; node--) {
    const here = node / (RATIOS - 1) > least ? ratios[node] / 2 : 0;
    const from = Math.max(FIRST[node], first);
    for (let bin = from; bin < end; bin++) out[bin] = energy[bin] * (beyond + here * PART[bin]);
    beyond += here;
    end = from;
  }
}

/** The share of the groups that may end between two levels: neither those on one side of zero nor in the full range of an integer. */
export function openEnds(plan: Plan, ratios: ArrayLike<number>): number {
  const most = spanOf(plan) === "auto" ? fullRangeNear(plan) : 2;
  let share = 0;
  for (let i = 1; i < RATIOS && i / (RATIOS - 1) < most; i++) share += ratios[i];
  return share;
}

/** Per bin, the mean squared rounding error over the mean square, on a grid that ends at `end`. */
function relativeError(step: number, end: number, out: Float64Array): Float64Array {
  let before = errorIntegral(HIGH[0], step, end);
  out[0] = 1;
  for (let bin = 1; bin < ATOM; bin++) {
    const after = errorIntegral(HIGH[bin], step, end);
    out[bin] = (3 * (after - before)) / CUBES[bin];
    before = after;
  }
  const outermost = Math.min(1, end);
  out[ATOM] = end > 1 ? 0 : (1 - outermost + Math.abs(outermost - Math.round(outermost / step) * step)) ** 2;
  return out;
}

const CUBES = HIGH.map((high, bin) => high ** 3 - LOW[bin] ** 3);

/** ∫₀ˣ (y − q(y))² dy, q rounding to the grid. */
export function errorIntegral(x: number, step: number, end: number): number {
  // Every whole step adds ∫ e² over (−step/2, step/2), which is step³/12; the rest of the last step adds rest³/3, and
  // what lies beyond the grid's end is wrong by its distance to it.
  const inside = Math.min(x, end);
  const k = Math.round(inside / step);
  const rest = inside - k * step;
  const beyond = x > end ? (x - end) ** 3 / 3 : 0;
  return (k * step * step * step) / 12 + (rest * rest * rest) / 3 + beyond;
}

/** The range below which a share of the weights lies, `upTo` being how many survivors lie in a bin and below, linear inside it. */
export function percentile(upTo: Float64Array, share: number): number {
  const wanted = share * upTo[ATOM];
  const bin = firstAtLeast(upTo, wanted);
  if (bin >= ATOM) return 1;
  const before = bin ? upTo[bin - 1] : 0;
  return LOW[bin] + ((HIGH[bin] - LOW[bin]) * (wanted - before)) / (upTo[bin] - before);
}

/** The relative errors of the bins on a grid that may end elsewhere on either side of zero. */
export interface GridErrors {
  /** On the far side. */
  readonly error: Float64Array;
  /** Bins before this one lie in the grid's step about zero: their weights are lost whole, and the error is 1. */
  readonly lost: number;
  /** By how much more the near side is wrong; null where both ends are the same. */
  readonly more: Float64Array | null;
  /** Bins before this one are as wrong on the near side as on the far one. */
  readonly unequal: number;
  /** Of a group's outermost weight that lies anywhere between two levels, beside `error`. */
  readonly openEnd: number;
}

/** The relative errors of a grid; in these tables, if they are given. */
export function gridErrors(
  { step, far, near }: LinearGrid,
  tables?: readonly [Float64Array, Float64Array],
): GridErrors {
  const error = relativeError(step, far, tables?.[0] ?? new Float64Array(BINS));
  const lost = lostBelow(step, far);
  const openEnd = far > 1 ? step ** 2 / 12 : 0;
  if (near === far) return { error, lost, more: null, unequal: BINS, openEnd };
  const more = relativeError(step, near, tables?.[1] ?? new Float64Array(BINS));
  for (let bin = 0; bin < BINS; bin++) more[bin] -= error[bin];
  const unequal = Math.max(firstAbove(Math.min(far, near)), Math.min(lost, lostBelow(step, near)));
  return { error, lost, more, unequal, openEnd };
}

function lostBelow(step: number, end: number): number {
  return end === 0 ? BINS : firstAbove(Math.min(step / 2, end));
}

/** The first bin that ends above x. */
function firstAbove(x: number): number {
  return x < 1 ? binOf(x) : BINS;
}

const MAX_TABLES = 10_000; // of up to 2.6 kB each

/** The relative errors of the grids that recur while sliders move; all go when there are too many. */
export class ErrorTables {
  readonly #known = new Map<number, GridErrors[]>();
  #made = 0;

  /** Those of the grids of a plan that span 1/16, 2/16, … of the range, and as much of `extent`, that of the range. */
  ofPlan(plan: Plan, extent: number): (sixteenths: number) => GridErrors {
    const span = spanOf(plan);
    const whole = plan.granularity === "tensor";
    const kind = isSymmetric(plan) ? 0 : span === "auto" ? 1 : span === "absmax" ? 2 : whole ? 3 : 4;
    // One number as the key: extents are whole multiples of 1/GRAIN, bits below 16, kinds below 5, so no two share one.
    const tables = this.#under((extent * GRAIN * 16 + plan.bits) * 5 + kind);
    return (sixteenths) => {
      tables[sixteenths] ??= this.#make(gridOf(plan, (sixteenths / 16) * extent, sixteenths / 16));
      return tables[sixteenths];
    };
  }

  /** Those of a grid with as many levels on either side of zero. */
  even(bits: number): GridErrors {
    const tables = this.#under(-bits);
    tables[0] ??= this.#make(evenGrid(bits, 1));
    return tables[0];
  }

  #under(key: number): GridErrors[] {
    let tables = this.#known.get(key);
    if (!tables) {
      // A plain reset instead of an LRU: what a drag needs is made again within it.
      if (this.#made > MAX_TABLES) {
        this.#known.clear();
        this.#made = 0;
      }
      tables = [];
      this.#known.set(key, tables);
    }
    return tables;
  }

  #make(grid: LinearGrid): GridErrors {
    this.#made++;
    return gridErrors(grid);
  }
}
