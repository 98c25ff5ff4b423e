// What a quantizer gives for the page to estimate what its values cost, and to draw them.

import type { KindEntry } from "../control-schema";
import type { PruningOutcome } from "../pruning-estimate";
import type { Bars } from "../surviving-weights-and-bars";
import type { LayerSketch, Plan, Sketch } from "../types";

/** Of layers of 1 to 8 bits; 16 and 32 need no quantizer. */
export interface QuantizerEstimate {
  /** What the page offers of it. */
  readonly entry: KindEntry;
  /** Whether codes of so many bits can say zero, so that no mask is needed beside codes for all weights. */
  hasZero(bits: number): boolean;
  /** Bytes of what turns codes into values: scales, zero points, a codebook. */
  sideBytes(plan: Plan, rows: number, columns: number): number;
  /** Whether one set of values holds for the whole tensor. */
  oneGrid(plan: Plan): boolean;
  /** The squared error of rounding the survivors, whose squares sum to `energy`. */
  noise(sketch: Sketch, layer: LayerSketch, plan: Plan, fate: PruningOutcome, energy: number): number;
  /** The values weights may take, ascending; with a scale per group those of a typical one. */
  levels(sketch: Sketch, layer: LayerSketch, plan: Plan, fate: PruningOutcome): Float64Array;
  /** Add the values that survivors are rounded to, and how many to each. */
  draw(bars: Bars, sketch: Sketch, layer: LayerSketch, plan: Plan, fate: PruningOutcome): void;
}
