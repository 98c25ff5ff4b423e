// What rounding to a linear grid costs: relative errors of bins, clipping ranges, one bit (docs/estimate.md).
import { ATOM, BINS, HIGH, LOW } from "./bins";
import { firstAtLeast } from "./search";
import type { Plan, RelativeTable } from "./types";

/** Ranges tried for the least squared error, in units of a group's absmax. */
export const CLIPS = Float64Array.from({ length: 17 }, (_, i) => (100 - 5 * i) / 100);

/** A linear grid in units of a group's absmax: `levels` steps of `step` to each side. */
export interface LinearGrid {
  readonly step: number;
  readonly levels: number;
}

/** The grid of a plan that spans `clip`. */
export function gridOf(plan: Plan, stretch: number, clip: number): LinearGrid {
  if (plan.symmetric) {
    const levels = 2 ** (plan.bits - 1) - 1;
    return { step: clip / levels, levels };
  }
  const step = (clip * stretch) / (2 ** plan.bits - 1);
  return { step, levels: Math.floor(clip / step + 0.5) };
}

/** Per bin, the mean squared rounding error over the mean square. */
export function relativeError({ step, levels }: LinearGrid, out = new Float64Array(BINS)): Float64Array {
  const end = levels * step;
  let before = errorIntegral(HIGH[0], step, end);
  out[0] = 1;
  for (let bin = 1; bin < ATOM; bin++) {
    const after = errorIntegral(HIGH[bin], step, end);
    out[bin] = (3 * (after - before)) / CUBES[bin];
    before = after;
  }
  out[ATOM] = (1 - Math.min(levels, Math.round(1 / step)) * step) ** 2;
  return out;
}

const CUBES = HIGH.map((high, bin) => high ** 3 - LOW[bin] ** 3);

/** ∫₀ˣ (y − q(y))² dy, q rounding to the grid. */
function errorIntegral(x: number, step: number, end: number): number {
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

/**
 * The relative errors of the grids that recur while sliders move. Symmetric grids are the same for all layers, so that
 * there are few; asymmetric ones differ by layer, and all go when there are too many.
 */
export class ErrorTables {
  readonly #known = new Map<string, Float64Array[]>();
  #made = 0;

  /** The table of a plan's grid that spans `CLIPS[clip]`, made when first asked for. */
  at(plan: Plan, table: RelativeTable, clip: number): Float64Array {
    const tables = this.#tables(plan.symmetric ? String(plan.bits) : `${plan.bits} ${table.stretch}`);
    if (!tables[clip]) {
      tables[clip] = relativeError(gridOf(plan, table.stretch, CLIPS[clip]));
      this.#made++;
    }
    return tables[clip];
  }

  #tables(key: string): Float64Array[] {
    let tables = this.#known.get(key);
    if (!tables) {
      if (this.#made > MAX_TABLES) {
        this.#known.clear();
        this.#made = 0;
      }
      tables = [];
      this.#known.set(key, tables);
    }
    return tables;
  }
}
