// The best recipe for every budget, as the kernel planned it: a start, and steps that each give one layer more bytes
// (docs/plan.md says what is in it).

import { parseRecipe, withFields } from "./recipe";
import type { LayerFields, Override, Recipe } from "./types";

export interface Frontier {
  /** The recipe without the planned layers, as JSON. */
  readonly base: string;
  /** The names of the planned layers, as keys of overrides have them. */
  readonly layers: readonly string[];
  readonly choices: readonly Partial<LayerFields>[];
  /** By layer, its place in `choices` in the smallest file. */
  readonly start: readonly number[];
  readonly step_layer: readonly number[];
  readonly step_choice: readonly number[];
  /** By how much each step makes the file larger, but for what the header says of lengths. */
  readonly step_nbytes: readonly number[];
  /** Of the file at the start and after every step. */
  readonly nbytes: readonly number[];
}

/** Bytes that steps taken out of turn leave to the file's header (`HEADER_ROOM` of `planning/bit_allocation.py`). */
const HEADER_ROOM = 64;

const bases = new WeakMap<Frontier, Recipe>();

/**
 * The steps whose file is as large as it may be; null if even the smallest file is too large. They are the first ones,
 * as long as they fit, and then whichever of the others still does; a layer whose step does not gets nothing more.
 */
export function stepsWithin(frontier: Frontier, budget: number): number[] | null {
  const first = frontier.nbytes.findLastIndex((nbytes) => nbytes <= budget);
  if (first < 0) return null;
  const taken = Array.from({ length: first }, (_, i) => i);
  const passed = new Set<number>();
  let room = budget - frontier.nbytes[first] - HEADER_ROOM;
  for (let i = first; i < frontier.step_layer.length; i++) {
    const layer = frontier.step_layer[i];
    if (passed.has(layer)) continue;
    if (frontier.step_nbytes[i] <= room) {
      taken.push(i);
      room -= frontier.step_nbytes[i];
    } else passed.add(layer);
  }
  return taken;
}

/** The recipe after some steps, in the order of the list. */
export function recipeAt(frontier: Frontier, steps: readonly number[]): Recipe {
  let base = bases.get(frontier);
  if (!base) {
    base = parseRecipe(frontier.base);
    bases.set(frontier, base);
  }
  const chosen = [...frontier.start];
  for (const i of steps) chosen[frontier.step_layer[i]] = frontier.step_choice[i];
  const own = frontier.layers.map((name, i): [string, Override] => [name, frontier.choices[chosen[i]]]);
  return withFields(base, { layers: [...base.layers, ...own.filter(([, said]) => Object.keys(said).length > 0)] });
}
