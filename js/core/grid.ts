// What rounding to a linear grid costs: relative errors of bins, clipping ranges, one bit (docs/estimate.md).
import { ATOM, BINS, HIGH, LOW, RATIOS } from "./bins";
import { clippingOf, isSymmetric } from "./kinds";
import { firstAtLeast } from "./search";
import type { Clipping, Plan } from "./types";

/** Ranges tried first for the least squared error, in units of a group's absmax. */
const CLIPS = [1, 0.75, 0.5, 0.25];
/** How far on either side of the best range so far the next two are tried. */
const CLIP_STEPS = [1 / 8, 1 / 16];

/** Bits up to which every level counts when the end of an asymmetric grid is estimated; above, ends are where they are. */
const FEW_BITS = 3;
/** From this share on of groups on one side of zero, or equally far to both, a layer may be quantized already. */
const EVEN = 0.999;
/** Extents are rounded to 1/256 of the range, so that the layers of a model share their tables of errors. */
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
  return 1 - 0.5 ** (plan.bits - 1);
}

/** The typical grid of a plan that spans `clip`; `ratios` are those of `RelativeTable`, of the survivors. */
export function gridOf(plan: Plan, ratios: ArrayLike<number>, clip: number): LinearGrid {
  if (isSymmetric(plan)) return { step: clip / (2 ** (plan.bits - 1) - 1), far: clip, near: clip };
  const steps = 2 ** plan.bits - 1;
  const span = spanOf(plan);
  const limit = span === "auto" ? fullRangeNear(plan) : clip;
  const scale = span === "mse" ? clip : 1;
  let squares = 0;
  for (let i = 0; i < RATIOS; i++) squares += ratios[i] * (clip + Math.min(limit, (scale * i) / (RATIOS - 1))) ** 2;
  const extent = Math.sqrt(squares);
  const step = Math.floor(extent * GRAIN + 0.5) / GRAIN / steps;
  if (span === "auto" && plan.bits <= FEW_BITS + 2) return { step, far: 2, near: limit };
  if (span === "auto" || span === "absmax") return { step, far: 2, near: 2 };
  if (plan.bits > FEW_BITS) return { step, far: clip, near: plan.granularity === "tensor" ? extent - clip : clip };
  const levels = Math.min(Math.floor(clip / step + 0.5), steps);
  return { step, far: levels * step, near: (steps - levels) * step };
}

/** The range with the least error, found as `shrink/quantize.py` finds that of a group. */
export function leastErrorClip(error: (clip: number) => number): number {
  let best = 1;
  let least = Number.POSITIVE_INFINITY;
  const attempt = (clip: number) => {
    const found = error(clip);
    if (found < least) [best, least] = [clip, found];
  };
  CLIPS.forEach(attempt);
  for (const width of CLIP_STEPS) [Math.min(1, best + width), best - width].forEach(attempt);
  return best;
}

/** How many levels a picture of the grid has on either side of zero. */
export function levelsOf({ step, far }: LinearGrid): number {
  return Math.floor(Math.min(far, 1) / step + 0.5);
}

/** Whether a grid with as many levels on either side is tried: it is exact where the weights are on one already. */
export function triesEven(plan: Plan, ratios: ArrayLike<number>): boolean {
  return (
    clippingOf(plan) === "auto" && !isSymmetric(plan) && (plan.bits === 2 || ratios[0] + ratios[RATIOS - 1] > EVEN)
  );
}

/** Of every bin, by its middle: the first node of `ratios` that is not below it, and the part of that node that is above. */
const NODE = LOW.map((low, bin) => Math.ceil(((low + HIGH[bin]) / 2) * (RATIOS - 1) - 0.5));
const PART = LOW.map((low, bin) => NODE[bin] - ((low + HIGH[bin]) / 2) * (RATIOS - 1) + 0.5);

/**
 * The energy per bin on the near side of zero, of the groups that clip there: half of those as far out as the group reaches
 * on that side. Written to `out`, for the bins from `first` on.
 */
export function nearEnergy(
  plan: Plan,
  ratios: ArrayLike<number>,
  energy: Float64Array,
  first: number,
  out: Float64Array,
): Float64Array {
  const nodes = RATIOS - 1;
  const least = spanOf(plan) === "auto" ? fullRangeNear(plan) : -1;
  let node = nodes;
  let beyond = 0; // of the ratios at nodes above `node`
  for (let bin = ATOM; bin >= first; bin--) {
    for (; node > NODE[bin]; node--) if (node / nodes > least) beyond += ratios[node];
    const here = node / nodes > least ? ratios[node] * PART[bin] : 0;
    out[bin] = (energy[bin] * (beyond + here)) / 2;
  }
  return out;
}

/**
 * The mean relative error of the groups' outermost weights where a table of errors has none of it. On a grid that is spread
 * from one end of a group to the other they lie anywhere between two levels; of a group on one side of zero, and in the
 * full range of an integer, they are levels.
 */
export function outermostError(plan: Plan, ratios: ArrayLike<number>, { step, far }: LinearGrid): number {
  if (isSymmetric(plan) || far <= 1) return 0;
  const most = spanOf(plan) === "auto" ? fullRangeNear(plan) : 2;
  let spread = 0;
  for (let i = 1; i < RATIOS && i / (RATIOS - 1) < most; i++) spread += ratios[i];
  return (spread * step ** 2) / 12;
}

/** Per bin, the mean squared rounding error over the mean square, on a grid that ends at `end`. */
export function relativeError(step: number, end: number, out = new Float64Array(BINS)): Float64Array {
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
  const inside = Math.min(x, end);
  const k = Math.round(inside / step);
  const rest = inside - k * step;
  const beyond = x > end ? (x - end) ** 3 / 3 : 0;
  return (k * step * step * step) / 12 + (rest * rest * rest) / 3 + beyond;
}

/** The range below which a share of the weights lies, `counts` being the survivors per bin, linear inside a bin. */
export function percentile(counts: Float64Array, share: number): number {
  const upTo = new Float64Array(BINS);
  let sum = 0;
  for (let bin = 0; bin < BINS; bin++) {
    sum += counts[bin];
    upTo[bin] = sum;
  }
  const wanted = share * sum;
  const bin = firstAtLeast(upTo, wanted);
  if (bin >= ATOM) return 1;
  const before = bin ? upTo[bin - 1] : 0;
  return LOW[bin] + ((HIGH[bin] - LOW[bin]) * (wanted - before)) / counts[bin];
}

const MAX_TABLES = 20_000; // of 1.3 kB each

/** The relative errors of the grids that recur while sliders move; all go when there are too many. */
export class ErrorTables {
  readonly #known = new Map<number, Map<number, Float64Array>>();
  #made = 0;

  /** The table of a step and an end, made when first asked for. */
  at(step: number, end: number): Float64Array {
    let ends = this.#known.get(step);
    if (!ends) {
      ends = new Map();
      this.#known.set(step, ends);
    }
    let table = ends.get(end);
    if (!table) {
      if (++this.#made > MAX_TABLES) {
        this.#known.clear();
        this.#made = 0;
        return this.at(step, end);
      }
      table = relativeError(step, end);
      ends.set(end, table);
    }
    return table;
  }
}
