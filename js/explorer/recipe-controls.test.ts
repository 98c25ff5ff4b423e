// What the controls make of a recipe.
import { describe, expect, it } from "vitest";
import { parseRecipe, recipeJson, withFields } from "../core/recipe";
import { withStructure } from "./method-controls";

const START = parseRecipe('{"format":"shrinkwidget-recipe","version":2,"sparsity":0.6,"bits":4}');

describe("choosing a pattern", () => {
  it("brings the sparsity the pattern fixes", () => {
    expect(withStructure(START, "1:4").sparsity).toBe(0.75);
  });

  it("leaves the slider where it was when any weight may go again", () => {
    expect(withStructure(withStructure(START, "1:4"), "unstructured")).toEqual(withFields(START, { sparsity: 0.75 }));
    expect(recipeJson(withStructure(START, "unstructured"))).toBe(recipeJson(START));
  });
});
