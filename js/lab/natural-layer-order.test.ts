// The weights of a checkpoint in its tab.
import { expect, it } from "vitest";
import { naturalOrder } from "./weights-view";

const layers = (dtype: string, ...names: string[]) => names.map((name) => ({ name, dtype }));

it("counts layers as people do where the names of each type are in alphabetical order, and keeps any other", () => {
  const sorted = layers("F32", "layer.0.weight", "layer.1.weight", "layer.10.weight", "layer.2.weight");
  expect(naturalOrder(sorted)).toEqual([0, 1, 3, 2]);
  expect(naturalOrder([...sorted, ...layers("F16", "embed", "layer.3.weight")])).toEqual([4, 0, 1, 3, 5, 2]);
  expect(naturalOrder(layers("F32", "norm", "layer.10.weight", "layer.2.weight"))).toEqual([0, 1, 2]);
  expect(naturalOrder([])).toEqual([]);
});
