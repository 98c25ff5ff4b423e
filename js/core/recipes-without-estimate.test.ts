// Recipes of kinds that only the kernel knows are told from those the page estimates.
import { describe, expect, it } from "vitest";
import { BUILT_IN } from "./control-schema";
import { Estimator } from "./estimate";
import { DEFAULTS, parseRecipe, plansOf, recipeJson, withFields, withLayer } from "./recipe";
import { exactOnly } from "./recipes-without-estimate";
import { gaussian, sketchOf } from "./test-sketches";
import type { Recipe } from "./types";

const sketch = sketchOf(["a", "b"].map((name) => ({ name, shape: [4, 16], values: gaussian(64) })));
const recipe = (changes: Partial<Recipe>) => withFields(DEFAULTS, changes);
const unknown = (r: Recipe) => exactOnly(sketch, r, plansOf(r, ["a", "b"]));

describe("exact only", () => {
  it.each<[string, Partial<Recipe>]>([
    ["nf4", { bits: 4, quantizer: "nf4" }],
    ["mine", { importance: { kind: "mine", power: 2 }, sparsity: 0.5 }],
    ["3:7", { structure: "3:7" }],
    ["channel", { scope: "channel", sparsity: 0.5 }],
  ])("%s", (tag, changes) => {
    const asked = recipe(changes);
    expect(unknown(asked)).toBe(tag);
    expect(() => new Estimator(sketch).estimate(asked)).toThrow(`"${tag}" has no estimate`);
    expect(recipeJson(parseRecipe(recipeJson(asked)))).toBe(recipeJson(asked));
  });

  it.each<Partial<Recipe>>([
    { bits: 16, quantizer: "nf4" },
    { scope: "channel" },
    { scope: "channel", structure: "2:4" },
    { bits: 4, importance: { kind: "random", seed: 3 }, sparsity: 0.5 },
    { bits: 4, quantizer: { kind: "uniform", clipping: 99.9 } },
  ])("not %o", (changes) => expect(unknown(recipe(changes))).toBe(""));

  it("none of the kinds that have a module here", () => {
    for (const { kind: importance } of BUILT_IN.importance) {
      for (const { kind: structure, sparsity } of BUILT_IN.structure) {
        for (const { kind: quantizer, bits = [] } of BUILT_IN.quantizer) {
          const asked = recipe({ importance, structure, quantizer, bits: bits[3], sparsity: sparsity ?? 0.5 });
          expect(unknown(asked)).toBe("");
          expect(new Estimator(sketch).estimate(asked).sqnr).toBeGreaterThan(0);
        }
      }
    }
  });

  it("decided by the layers: what is left uncompressed needs no estimate, and one layer of its own is enough", () => {
    const nf4 = recipe({ bits: 4, quantizer: "nf4" });
    expect(unknown(withLayer(nf4, "a", "keep"))).toBe("nf4");
    expect(unknown(withLayer(withLayer(nf4, "a", "keep"), "b", { bits: 16 }))).toBe("");
    expect(unknown(withLayer(recipe({ bits: 4 }), "b", { quantizer: "nf4" }))).toBe("nf4");
  });
});
