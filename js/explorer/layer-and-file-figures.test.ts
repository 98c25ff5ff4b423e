// What the explorer says of figures: nothing that is not known.
import { expect, it } from "vitest";
import { Estimator } from "../core/estimate";
import { DEFAULTS, plansOf, withFields } from "../core/recipe";
import { gaussian, sketchOf } from "../core/test-sketches";
import type { State } from "./explorer-state";
import { macsOf, rowFigures, unmeasuredWords } from "./layer-and-file-figures";

const SKETCH = sketchOf([1, 2].map((i) => ({ name: `${i}.weight`, shape: [8, 16], values: gaussian(128, i, i) })));

it("knows no multiply-accumulates where none were counted, and the remaining ones where they were", () => {
  const figures = new Estimator(SKETCH).estimate(withFields(DEFAULTS, { sparsity: 0.5 }));
  for (const widths of [null, [], [8, 8]]) expect(macsOf(SKETCH, { ...figures, widths }, [])).toBeNull();
  expect(macsOf(SKETCH, figures, [1000, 1000])).toEqual({ dense: 2000, now: 1000, exact: figures.sized });
});

it.each([
  [true, false, "unknown without data"],
  [true, true, "not measured yet"],
  [false, true, "not measured"],
])("says why activations are not known: kernel %s, data %s", (kernel, has_data, words) => {
  expect(unmeasuredWords({ kernel, metric: { value: { has_data } } } as State)).toBe(words);
});

it("tells the bits that are counted: a tensor of half precision has no 32", () => {
  const layers = SKETCH.layers.map((layer, i) => Object.create(layer, { itemsize: { value: i ? 4 : 2 } }));
  const figures = new Estimator({ ...SKETCH, layers }).estimate(DEFAULTS);
  const [plan] = plansOf(DEFAULTS, ["1.weight"]);
  expect([0, 1].map((i) => rowFigures(figures, plan, i).bits)).toEqual(["16", "32"]);
  expect(rowFigures(figures, { ...plan, bits: 4 }, 0).bits).toBe("4");
});
