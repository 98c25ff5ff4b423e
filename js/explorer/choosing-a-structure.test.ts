// What the controls make of a recipe.
import { describe, expect, it } from "vitest";
import { BUILT_IN, entryOf, fixedSparsity, type Kinds } from "../core/control-schema";
import { parseRecipe, recipeJson, withFields } from "../core/recipe";
import { withStructure } from "./method-controls";

const ROWS = { kind: "rows", label: "rows", title: "whole rows", sparsity: 0.25, controls: [] };
const KINDS: Kinds = { ...BUILT_IN, structure: [...BUILT_IN.structure, ROWS] };
const entry = (kind: string) => entryOf(KINDS, "structure", kind);
const START = parseRecipe('{"format":"shrinkwidget-recipe","version":2,"sparsity":0.6,"bits":4}');

describe("choosing a pattern", () => {
  it("brings the sparsity the pattern fixes", () => {
    expect(withStructure(START, entry("1:4")).sparsity).toBe(0.75);
    expect(withStructure(START, ROWS)).toEqual(withFields(START, { structure: "rows", sparsity: 0.25 }));
  });

  it("leaves the slider where it was when any weight may go again", () => {
    const back = withStructure(withStructure(START, entry("1:4")), entry("unstructured"));
    expect(back).toEqual(withFields(START, { sparsity: 0.75 }));
    expect(recipeJson(withStructure(START, entry("unstructured")))).toBe(recipeJson(START));
  });

  it("holds the slider where the structure fixes the sparsity, as its schema says or its name", () => {
    const fixed = ["rows", "2:4", "3:4", "unstructured", "unknown"].map((kind) => fixedSparsity(KINDS, kind));
    expect(fixed).toEqual([0.25, 0.5, 0.25, null, null]);
  });
});
