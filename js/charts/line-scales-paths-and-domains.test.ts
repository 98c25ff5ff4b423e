// Lines keep to their axes, break where there is no value, and axes seldom change while a line grows.
import { describe, expect, it } from "vitest";
import {
  bandPath,
  linePath,
  lineScales,
  lossDomain,
  nearestIndex,
  rateDomain,
  scoreDomain,
} from "./line-scales-paths-and-domains";

const frame = { width: 300, height: 120, left: 40, right: 10, top: 10, bottom: 20 };

describe("the scales of a training", () => {
  it("map the corners of the domain to those of the frame", () => {
    const scales = lineScales(frame, [0, 30], [0, 2]);
    expect([scales.x(0), scales.x(30), scales.y(2), scales.y(0)]).toEqual([40, 290, 10, 100]);
  });

  it("tick whole epochs only", () => {
    expect(lineScales(frame, [0, 3], [0, 1]).xTicks).toEqual([0, 1, 2, 3]);
  });

  it("show rates in decades", () => {
    const domain = rateDomain([0.1, 0.01, null, 0.001]);
    expect(domain).toEqual([0.001, 0.1]);
    expect(lineScales(frame, [0, 3], domain, true).yTicks).toEqual([0.001, 0.01, 0.1]);
    expect(rateDomain([0.05])).toEqual([0.01, 0.1]);
    expect(rateDomain([])).toEqual([0.001, 1]);
  });

  it("keep the loss axis while the loss falls", () => {
    expect(lossDomain([2.3, 1.1], [0.4, null])).toEqual([0, 3]);
    expect(lossDomain([2.9, 1.1, 0.2])).toEqual([0, 3]);
    expect(lossDomain([])).toEqual([0, 1]);
  });
});

describe("a line", () => {
  const scales = lineScales(frame, [0, 10], [0, 1]);

  it("is interrupted where there is no value", () => {
    expect(linePath({ x: [1, 2, 3, 4], y: [0, 1, null, 0.5] }, scales).match(/[ML]/g)).toEqual(["M", "L", "M"]);
  });

  it("is interrupted where a logarithmic axis has no place for it", () => {
    const log = lineScales(frame, [0, 10], [0.01, 1], true);
    expect(linePath({ x: [1, 2, 3], y: [0, 0.1, 0.1] }, log)).toMatch(/^M[\d. ]+L[\d. ]+$/);
  });

  it("is stairs where values jump", () => {
    expect(linePath({ x: [0, 10], y: [1, 0] }, scales, true)).toBe("M40.0 10.0V100.0H290.0");
  });

  it("has a band around it where its interval is known", () => {
    expect(bandPath([1, 2, 3], [0.1, null, 0.3], [0.2, null, 0.4], scales)).toMatch(/^M.*L.*L.*L.*Z$/);
    expect(bandPath([1], [null], [0.2], scales)).toBe("");
    expect(bandPath([1], [0.1], [0.2], scales)).toMatch(/^M[\d.]+ [\d.]+V[\d.]+$/);
  });

  it("is read at the epoch nearest to the pointer", () => {
    expect(nearestIndex([1, 2, 3], 2.4)).toBe(1);
    expect(nearestIndex([], 2)).toBe(-1);
  });
});

describe("an axis of scores", () => {
  const score = (value: number, low: number | null = null, high: number | null = null) => ({ value, low, high });

  it.each([
    [0.99, 3600, 0.95],
    [0.99, 360, 0.95],
    [0.99, 180, 0.9], // five hundredths of 180 examples are nine
    [0.99, 20, 0.5],
    [0.99, 0, 0],
    [0.95, 3600, 0.9],
  ])("is never finer than a few examples: %f of %i begins at %f", (value, n, start) => {
    expect(scoreDomain([score(value)], n, true)).toEqual([start, 1]);
  });

  it("holds every interval whole", () => {
    expect(scoreDomain([score(0.99, 0.93, 1)], 3600, true)).toEqual([0.9, 1]);
    const [low, high] = scoreDomain([score(0.5, 0.2, 0.9), score(0.6)], 10, false);
    expect([low < 0.2, high > 0.9]).toEqual([true, true]);
  });

  it("is there before there is a score", () => {
    expect(scoreDomain([score(Number.NaN)], 10, true)).toEqual([0, 1]);
  });
});
