// The scatter's axes cover the trials, and its front holds those no other beats.
import { describe, expect, it } from "vitest";
import { byteDomain, paretoFront, scatterScales, valueDomain } from "./scatter-scales-and-pareto-front";

const TRIALS = [
  { nbytes: 70_000, value: 0.84 },
  { nbytes: 50_000, value: 0.52 },
  { nbytes: 90_000, value: 0.6 },
  { nbytes: 300_000, value: 0.91 },
];

it("the axis of bytes covers every trial and the dense model", () => {
  const [low, high] = byteDomain(TRIALS, 1_080_000);
  expect(low).toBeLessThan(50_000);
  expect(high).toBeGreaterThan(1_080_000);
});

it("the axis of bytes stays put while trials come that are no smaller than a thirtieth", () => {
  expect(byteDomain([], 1_080_000)).toEqual(byteDomain(TRIALS, 1_080_000));
});

describe("the axis of values", () => {
  it("starts at a round share below all of them", () => {
    expect(valueDomain(TRIALS, 0.917, true)).toEqual([0.25, 1]);
    expect(valueDomain([{ nbytes: 1, value: 0.985 }], 0.99, true)).toEqual([0.95, 1]);
    expect(valueDomain([{ nbytes: 1, value: 0.1 }], 0.99, true)).toEqual([0, 1]);
  });

  it("spans what was measured where values are no shares", () => {
    const [low, high] = valueDomain([{ nbytes: 1, value: 12 }], 8, false);
    expect(low).toBeLessThan(8);
    expect(high).toBeGreaterThan(12);
  });
});

describe("the front", () => {
  it("leaves out what is larger and no better", () => {
    expect(paretoFront(TRIALS, true).map((trial) => trial.nbytes)).toEqual([50_000, 70_000, 300_000]);
  });

  it("turns round where lower is better", () => {
    expect(paretoFront(TRIALS, false).map((trial) => trial.nbytes)).toEqual([50_000]);
  });
});

it("bytes are placed by their logarithm, values from the bottom up", () => {
  const frame = { width: 400, height: 200, left: 40, right: 10, top: 10, bottom: 20 };
  const scales = scatterScales(frame, [1e3, 1e5], [0, 1]);
  expect(scales.x(1e4)).toBeCloseTo((40 + 390) / 2);
  expect(scales.y(1)).toBe(10);
  expect(scales.y(0)).toBe(180);
});
