// Which recipes the page cannot estimate: those of kinds that only the kernel knows. They are counted exactly or not at all.
import { importanceOf } from "./importances";
import { PLAIN, tagOf } from "./method-settings";
import { isEstimable } from "./quantizers";
import { removesChannels } from "./recipe";
import type { Plan, Recipe, Sketch } from "./types";

/** What is said of a recipe that removes channels where it is not known which go together. */
export const CHANNELS = "channels";

/** The scope of which a sketch cannot tell what survives. */
export const IN_CHANNELS = "channel";

/** The tag of what a layer is asked for that has no estimate; "" if all of it has. */
export function withoutEstimate(sketch: Sketch, recipe: Recipe, plan: Plan): string {
  if (plan.keep) return "";
  if (!importanceOf(recipe.importance)) return tagOf(recipe.importance);
  const { structure, scope, sparsity, bits, quantizer } = plan;
  if (structure !== "unstructured" && !sketch.patterns.includes(structure)) return structure;
  if (structure === "unstructured" && scope === IN_CHANNELS && sparsity > 0) return IN_CHANNELS;
  return bits <= 8 && !isEstimable(quantizer) ? tagOf(quantizer) : "";
}

/** The same of a whole model: the tag of the first kind that has no estimate, or "". */
export function exactOnly(sketch: Sketch, recipe: Recipe, plans: readonly Plan[]): string {
  if (removesChannels(recipe)) {
    if (!sketch.channels?.families.length) return CHANNELS;
    // channels that are ranked together are so by magnitude: those are the scores that a sketch has
    const importance = tagOf(recipe.importance);
    if (recipe.channel_scope === "global" && importance !== PLAIN.importance) return importance;
  }
  let last: Plan | undefined; // layers without an override share one plan
  for (const plan of plans) {
    const tag = plan === last ? "" : withoutEstimate(sketch, recipe, plan);
    if (tag) return tag;
    last = plan;
  }
  return "";
}
