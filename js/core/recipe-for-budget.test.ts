// Python's frontiers: the same recipes, in the same bytes, from what the page is sent.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { Estimator } from "./estimate";
import { layerNames } from "./layer-overrides";
import { plansOf, recipeJson } from "./recipe";
import { type Frontier, recipeAt, stepsWithin } from "./recipe-for-budget";
import { exactOnly } from "./recipes-without-estimate";
import { decodeSketch } from "./sketch-decoder";

interface Case {
  budget: number;
  recipe: string | null;
  nbytes: number | null;
}

const VECTORS = join(import.meta.dirname, "../../tests/vectors");
const read = (name: string) => JSON.parse(readFileSync(join(VECTORS, name), "utf8"));
const sketch = decodeSketch(Uint8Array.from(Buffer.from(read("conv.json").sketch, "base64")));
const found: { frontier: Frontier; cases: Case[] }[] = read("frontiers/cases.json");
const estimator = new Estimator(sketch);

it.each(found.map((each, i) => [i, each] as const))(
  "finds the recipe for a budget in frontier %i",
  (_, { frontier, cases }) => {
    for (const { budget, recipe, nbytes } of cases) {
      const steps = stepsWithin(frontier, budget);
      if (recipe === null || steps === null) {
        expect([recipe, steps]).toEqual([null, null]);
        continue;
      }
      const best = recipeAt(frontier, steps);
      expect(recipeJson(best)).toBe(recipe);
      expect(nbytes).toBeLessThanOrEqual(budget);
      if (!exactOnly(sketch, best, plansOf(best, layerNames(sketch)))) {
        expect(estimator.estimate(best).nbytes).toBe(nbytes);
      }
    }
  },
);

it("knows the bytes of every step to the byte", () => {
  const { frontier } = found[0];
  for (const [steps, nbytes] of frontier.nbytes.entries()) {
    const first = Array.from({ length: steps }, (_, i) => i);
    expect(estimator.estimate(recipeAt(frontier, first)).nbytes).toBe(nbytes);
  }
});
