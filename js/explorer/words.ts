// A recipe in a few words, for labels and tips.

import { share } from "../charts/format";
import { parseRecipe } from "../core/recipe";

/** "80 %, 4 bits, channel", from a recipe's JSON. */
export function recipeWords(text: string): string {
  const recipe = parseRecipe(text);
  const words = [recipe.pattern === "unstructured" ? share(recipe.sparsity) : recipe.pattern];
  words.push(`${recipe.bits} ${recipe.bits === 1 ? "bit" : "bits"}`);
  if (recipe.bits <= 8) words.push(recipe.grid === "codebook" ? "codebook" : granularityWord(recipe.granularity));
  if (recipe.criterion === "random") words.push("random");
  if (recipe.scope === "layer" && recipe.pattern === "unstructured") words.push("each layer");
  if (recipe.layers.length > 0) words.push(`${recipe.layers.length} own`);
  return words.join(", ");
}

function granularityWord(granularity: string | number): string {
  return typeof granularity === "number" ? `groups of ${granularity}` : granularity;
}
