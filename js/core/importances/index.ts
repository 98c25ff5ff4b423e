// The importances the page can estimate, a module each; what any other prunes is counted by the kernel.
import { tagOf } from "../method-settings";
import { type Cut, type PruningOutcome, untouched } from "../pruning-estimate";
import type { Kind, LayerSketch, Plan, Structure } from "../types";
import { batchnormScale } from "./batchnorm-scale";
import type { ImportanceEstimate } from "./importance";
import { magnitude } from "./magnitude";
import { random } from "./random";

export const IMPORTANCES: readonly ImportanceEstimate[] = [magnitude, random, batchnormScale];

const byTag = new Map(IMPORTANCES.map((importance) => [importance.entry.kind, importance]));

/** The estimate of an importance; undefined where only the kernel knows it. */
export function importanceOf(kind: Kind): ImportanceEstimate | undefined {
  return byTag.get(tagOf(kind));
}

/** What becomes of a layer under its plan; `shared` is the cut of all ranked layers together. */
export function pruningOutcome(
  importance: ImportanceEstimate | undefined,
  layer: LayerSketch,
  plan: Plan,
  shared: Cut | null,
  patterns: readonly Structure[],
): PruningOutcome {
  return plan.keep || !importance ? untouched(layer) : importance.outcome(layer, plan, shared, patterns);
}
