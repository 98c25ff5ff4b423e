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
  /** Of the file at the start and after every step. */
  readonly nbytes: readonly number[];
}

const bases = new WeakMap<Frontier, Recipe>();

/** After how many steps the file is as large as it may be; −1 if even the smallest is too large. */
export function stepsWithin(frontier: Frontier, budget: number): number {
  return frontier.nbytes.findLastIndex((nbytes) => nbytes <= budget);
}

/** The recipe after so many steps. */
export function recipeAt(frontier: Frontier, steps: number): Recipe {
  let base = bases.get(frontier);
  if (!base) {
    base = parseRecipe(frontier.base);
    bases.set(frontier, base);
  }
  const chosen = [...frontier.start];
  for (let i = 0; i < steps; i++) chosen[frontier.step_layer[i]] = frontier.step_choice[i];
  const own = frontier.layers.map((name, i): [string, Override] => [name, frontier.choices[chosen[i]]]);
  return withFields(base, { layers: [...base.layers, ...own.filter(([, said]) => Object.keys(said).length > 0)] });
}
