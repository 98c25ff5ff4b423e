// Bins suit the number of weights, spikes do not flatten the body, bars meet their outline.
import { describe, expect, it } from "vitest";
import { binCount, binEdges, bodyHeight, cellEdges, combFactor } from "./distribution-geometry";

describe("bins", () => {
  it("are few for few weights and never narrower than three pixels", () => {
    expect(binCount(432, 0.1, 0.4, 600)).toBeLessThan(30);
    expect(binCount(10_000_000, 0.1, 0.4, 600)).toBeLessThanOrEqual(200);
  });

  it.each([100, 432, 2304, 36_864, 2_359_296])(
    "are odd in number for %i weights, so that zero is in the middle",
    (n) => {
      const bins = binCount(n, 0.1, 0.5, 420);
      const edges = binEdges(0.5, bins);
      expect(bins % 2).toBe(1);
      expect(edges[(bins - 1) / 2] + edges[(bins + 1) / 2]).toBeCloseTo(0, 12);
    },
  );

  it("stand a layer of zeros", () => {
    expect(binCount(100, 0, 1, 400)).toBeGreaterThanOrEqual(9);
  });
});

describe("the height of a plot", () => {
  it("is that of its body, not of a spike", () => {
    expect(bodyHeight([1, 4, 6, 90, 6, 4, 1])).toBeLessThan(12);
  });

  it("is that of a smooth peak", () => {
    const bell = Array.from({ length: 41 }, (_, i) => 100 * Math.exp(-(((i - 20) / 8) ** 2)));
    expect(bodyHeight(bell)).toBeCloseTo(106, 5);
  });

  it("is never zero", () => {
    expect(bodyHeight([0, 0, 0])).toBe(1);
  });
});

it("bars that gather three bins each are lowered to a third", () => {
  expect(combFactor([0, 30, 0, 0, 30, 0], [10, 10, 10, 10, 10, 10])).toBeCloseTo(1 / 3);
  expect(combFactor([10, 10, 10], [10, 10, 10])).toBe(1);
});

it("cells lie half-way between levels", () => {
  expect([...cellEdges(Float64Array.of(-1, 0, 2))]).toEqual([-1.5, -0.5, 1, 3]);
});
