// Pictures count weights: all of them before, the kept ones after, at the values the grid allows.
import { describe, expect, it } from "vitest";
import { effective, levels, original, survivors } from "./chart-distribution";
import { Estimator } from "./estimate";
import { DEFAULTS, planOf, withFields } from "./recipe";
import { gaussian, sketchOf, uniform } from "./test-sketches";
import type { Recipe } from "./types";

const values = gaussian(4096, 0.1, 5);
const sketch = sketchOf([{ name: "fc.weight", shape: [64, 64], values }]);
const [layer] = sketch.layers;
const estimator = new Estimator(sketch);
const edges = Float64Array.from({ length: 102 }, (_, i) => -0.505 + 0.01 * i);

function picture(changes: Partial<Recipe>) {
  const recipe = withFields(DEFAULTS, changes);
  const { kept, threshold } = estimator.estimate(recipe).layers;
  const outcome = { kept: kept[0], threshold: threshold[0] };
  return { plan: planOf(recipe, layer.name), outcome };
}

function total(counts: ArrayLike<number>): number {
  return Array.from(counts).reduce((sum, n) => sum + n, 0);
}

it("the original counts every weight, in the bin it lies in", () => {
  const counts = original(layer, edges);
  expect(total(counts)).toBeCloseTo(4096, 6);
  const bin = 60; // 0.095 … 0.105
  const exact = values.filter((w) => w >= edges[bin] && w < edges[bin + 1]).length;
  expect(Math.abs(counts[bin] - exact)).toBeLessThan(10);
});

it("survivors leave a gap below the threshold and are the original beyond it", () => {
  const { plan, outcome } = picture({ sparsity: 0.6 });
  const counts = survivors(sketch, layer, plan, outcome, edges);
  const before = original(layer, edges);
  expect(total(counts)).toBeCloseTo(outcome.kept, 6);
  counts.forEach((count, bin) => {
    if (Math.max(Math.abs(edges[bin]), Math.abs(edges[bin + 1])) < outcome.threshold) expect(count).toBeCloseTo(0, 9);
    else if (Math.min(Math.abs(edges[bin]), Math.abs(edges[bin + 1])) > outcome.threshold) {
      expect(count).toBeCloseTo(before[bin], 6);
    }
  });
});

describe.each([
  ["one scale", { granularity: "tensor", bits: 3 }],
  ["scales per channel", { granularity: "channel", bits: 4 }],
  ["scales per group", { granularity: 32, bits: 2 }],
  ["one bit", { bits: 1 }],
  ["a codebook", { quantizer: "kmeans", bits: 3 }],
  ["a pattern", { structure: "2:4", bits: 4 }],
  ["chance", { importance: "random", sparsity: 0.4, bits: 4 }],
  ["clipping", { quantizer: uniform({ clipping: 99 }), bits: 3, sparsity: 0.2 }],
] as [string, Partial<Recipe>][])("rounded: %s", (_name, changes) => {
  const pruned = "sparsity" in changes || "structure" in changes ? changes : { ...changes, sparsity: 0.5 };

  it("counts every kept weight once", () => {
    const { plan, outcome } = picture(pruned);
    expect(total(effective(sketch, layer, plan, outcome, edges))).toBeCloseTo(outcome.kept, 6);
  });

  it("keeps the balance of signs and the energy", () => {
    const { plan, outcome } = picture(pruned);
    const counts = effective(sketch, layer, plan, outcome, edges);
    const middle = (bin: number) => (edges[bin] + edges[bin + 1]) / 2;
    const energy = Array.from(counts).reduce((sum, n, bin) => sum + n * middle(bin) ** 2, 0);
    const { noise, signal } = estimator.estimate(withFields(DEFAULTS, pruned)).layers;
    expect(energy).toBeGreaterThan(0.5 * (signal[0] - noise[0]));
    expect(energy).toBeLessThan(1.5 * signal[0]);
    const positive = total(counts.slice(51)) / (total(counts) - counts[50]);
    expect(positive).toBeGreaterThan(0.4);
    expect(positive).toBeLessThan(0.6);
  });
});

it("with one scale, weights stand on the grid's levels only", () => {
  const { plan, outcome } = picture({ granularity: "tensor", bits: 3, quantizer: uniform({ symmetric: true }) });
  const allowed = levels(sketch, layer, plan, outcome);
  expect(allowed.length).toBe(7);
  effective(sketch, layer, plan, outcome, edges).forEach((count, bin) => {
    const onGrid = allowed.some((level) => level >= edges[bin] && level <= edges[bin + 1]);
    if (!onGrid) expect(count).toBe(0);
  });
});

it("a codebook has 2^b ascending levels, 16 bits have none", () => {
  const { plan, outcome } = picture({ quantizer: "kmeans", bits: 4 });
  const values = levels(sketch, layer, plan, outcome);
  expect(values.length).toBe(16);
  expect([...values].sort((a, b) => a - b)).toEqual([...values]);
  expect(levels(sketch, layer, { ...plan, bits: 16 }, outcome).length).toBe(0);
});
