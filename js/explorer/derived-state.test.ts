// What the explorer says of figures: nothing that is not known.
import { expect, it } from "vitest";
import { Estimator } from "../core/estimate";
import { DEFAULTS, withFields } from "../core/recipe";
import { gaussian, sketchOf } from "../core/test-sketches";
import { macsOf } from "./derived-state";

const SKETCH = sketchOf([1, 2].map((i) => ({ name: `${i}.weight`, shape: [8, 16], values: gaussian(128, i, i) })));

it("knows no multiply-accumulates where none were counted, and the remaining ones where they were", () => {
  const figures = new Estimator(SKETCH).estimate(withFields(DEFAULTS, { sparsity: 0.5 }));
  for (const widths of [null, [], [8, 8]]) expect(macsOf(SKETCH, { ...figures, widths }, [])).toBeNull();
  expect(macsOf(SKETCH, figures, [1000, 1000])).toEqual({ dense: 2000, now: 1000, exact: figures.sized });
});
