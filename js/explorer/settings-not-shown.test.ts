// The simple view counts what has an effect and no control there.
import { expect, it } from "vitest";
import { DEFAULTS, withFields } from "../core/recipe";
import { settingsNotShown } from "./recipe-controls";

it("counts options, layers of their own, and batch norm, but neither sparsity nor bits", () => {
  expect(settingsNotShown(withFields(DEFAULTS, { sparsity: 0.9, bits: 4 }), false)).toBe(0);
  const recipe = withFields(DEFAULTS, { scope: "layer", layers: [["stem", "keep"]] });
  expect(settingsNotShown(recipe, false)).toBe(2);
  expect(settingsNotShown(recipe, true)).toBe(3);
});
