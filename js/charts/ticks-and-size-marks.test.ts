// Ticks are round and few, and size marks lie inside the bar.
import { describe, expect, it } from "vitest";
import { linearTicks, logTicks, memoryFor, mirroredTicks, sizeMarks, storeFor } from "./ticks-and-size-marks";

describe("ticks of a weight axis", () => {
  it("mirror each other about zero", () => {
    expect(mirroredTicks(0.45, 2)).toEqual([-0.4, -0.2, 0, 0.2, 0.4]);
  });

  it.each([0.013, 0.05, 0.31, 0.999, 1, 7.7, 1234])("never exceed the number asked for on a span of %f", (span) => {
    const ticks = mirroredTicks(span, 3);
    expect(ticks.length).toBeLessThanOrEqual(7);
    expect(ticks.length).toBeGreaterThanOrEqual(3);
    expect(Math.max(...ticks)).toBeLessThanOrEqual(span);
    expect(ticks[(ticks.length - 1) / 2]).toBe(0);
  });

  it("are zero alone where there is no span", () => {
    expect(mirroredTicks(0, 3)).toEqual([0]);
  });
});

it("linear ticks are round and inside", () => {
  expect(linearTicks(0, 1, 4)).toEqual([0, 0.25, 0.5, 0.75, 1]);
  expect(linearTicks(0.9, 1, 4)).toEqual([0.9, 0.925, 0.95, 0.975, 1]);
  expect(linearTicks(3, 3, 4)).toEqual([3]);
});

describe("logarithmic ticks", () => {
  it("are 1, 2, 5 where there is room", () => {
    expect(logTicks(20e3, 1e6, 6)).toEqual([20e3, 50e3, 100e3, 200e3, 500e3, 1e6]);
  });

  it("thin out to whole decades, then to every second", () => {
    expect(logTicks(1, 1e4, 5)).toEqual([1, 10, 100, 1000, 1e4]);
    expect(logTicks(1, 1e8, 5)).toHaveLength(5);
  });
});

describe("size marks", () => {
  it("are the largest two that lie well inside the dense bar", () => {
    expect(sizeMarks(1_080_000).map((mark) => mark.bytes)).toEqual([256e3, 1e6]);
    expect(sizeMarks(102e6).map((mark) => mark.bytes)).toEqual([10e6]);
  });

  it("may be none", () => {
    expect(sizeMarks(900)).toEqual([]);
  });

  it("say of a file which store holds it, and of a running model which memory", () => {
    expect(storeFor(72_812)?.label).toBe("256 kB flash");
    expect(storeFor(256_000)?.label).toBe("256 kB flash");
    expect(memoryFor(816_000)?.label).toBe("1 MB RAM");
    expect([storeFor(1e12), memoryFor(1e12)]).toEqual([null, null]);
  });
});
