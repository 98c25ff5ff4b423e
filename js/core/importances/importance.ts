// What an importance gives for the page to estimate what it prunes, and what they have in common.

import type { KindEntry } from "../control-schema";
import { zerosDropped } from "../packed-file-size";
import { butZeros, type Cut, type PruningOutcome } from "../pruning-estimate";
import type { LayerSketch, Plan, Structure } from "../types";

export interface ImportanceEstimate {
  /** What the page offers of it. */
  readonly entry: KindEntry;
  /** Whether layers are ranked together, so that one cut is shared. */
  readonly ranks: boolean;
  /** What becomes of a layer; `shared` is the cut of all ranked layers, `patterns` are those of the sketch's curves. */
  outcome(layer: LayerSketch, plan: Plan, shared: Cut | null, patterns: readonly Structure[]): PruningOutcome;
}

/** The outcome where a recipe prunes nothing: zeros that are there may count as pruned. */
export function nothingAsked(layer: LayerSketch, plan: Plan): PruningOutcome {
  return butZeros(layer, zerosDropped(layer, plan));
}
