// Sparklines share one scale, fill their boxes from left to right, and mark where a layer stands.
import { describe, expect, it } from "vitest";
import { placeAmong, sparklinePoints, sparklineScale } from "./sensitivity-sparkline";

const box = { x: 100, y: 10, width: 64, height: 28 };

describe("the scale", () => {
  it("spans all layers and the dense score", () => {
    expect(sparklineScale([[0.9, 0.5], null, [0.8, 0.1]], 0.95, true)).toEqual({ dense: 0.95, low: 0.1, high: 0.95 });
  });

  it("is not so flat that noise looks like much, where values are shares", () => {
    expect(sparklineScale([[0.98, 0.97]], 0.98, true).low).toBeCloseTo(0.88);
    expect(sparklineScale([[3, 2]], 3, false)).toMatchObject({ low: 2, high: 3 });
  });

  it("has one before there is a number, and passes over what is none", () => {
    expect(sparklineScale([null], null, true)).toEqual({ dense: null, low: 0, high: 1 });
    expect(sparklineScale([[Number.NaN, 4]], 2, false)).toMatchObject({ low: 2, high: 4 });
  });
});

describe("the points", () => {
  it("go from the left to the right edge, the best at the top", () => {
    const points = sparklinePoints([1, 0.5, 0], { dense: 1, low: 0, high: 1 }, box);
    expect(points).toEqual([
      [104, 14],
      [132, 24],
      [160, 34],
    ]);
  });

  it("of equal scores lie on the dense line", () => {
    expect(sparklinePoints([1], { dense: 1, low: 1, high: 1 }, box)).toEqual([[104, 14]]);
  });
});

describe("where a layer stands", () => {
  it("is between two amounts, rising or falling", () => {
    expect(placeAmong([0.5, 0.7, 0.9], 0.8)).toBeCloseTo(1.5);
    expect(placeAmong([8, 6, 4], 5)).toBeCloseTo(1.5);
    expect(placeAmong([8, 6, 4], 4)).toBe(2);
  });

  it("is nowhere outside of all", () => {
    expect(placeAmong([0.5, 0.9], 0.3)).toBeNull();
    expect(placeAmong([8, 4], 32)).toBeNull();
    expect(placeAmong([], 1)).toBeNull();
  });
});
