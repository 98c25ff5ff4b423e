// The ridge's frame: columns that fit, and ticks whose labels stand clear of each other, the same on both sides.
import { describe, expect, it } from "vitest";
import { weight } from "./format";
import { axisTicks, ROW, ridgeColumns, ridgeHeight, rowHeight } from "./ridge-frame";
import type { Colours } from "./theme";

const frame = (width: number, span: number) => ({
  columns: ridgeColumns(width, 100),
  colours: {} as Colours,
  span,
  axisNote: "",
  threshold: 0,
});

describe("ticks of the shared axis", () => {
  const cases = [400, 500, 650, 672, 700, 900].flatMap((width) =>
    [0.0213, 0.197, 0.21, 1.3, 40].map((s) => [width, s]),
  );

  it.each(cases)("have room for every label in a ridge of %d pixels, to ±%f", (width, span) => {
    const scene = frame(width, span);
    const ticks = axisTicks(scene);
    const step = ((ticks[1] - ticks[0]) / span) * (scene.columns.plot.width / 2);
    expect(ticks).toEqual(ticks.map((tick) => 0 - tick).reverse());
    expect(step).toBeGreaterThan(5.5 * Math.max(...ticks.map((tick) => weight(tick).length)));
  });
});

describe("the height of a row", () => {
  it("is the same for many rows, which scroll", () => {
    expect(rowHeight(558, 300)).toBe(ROW);
  });

  it("shares the room among few, and leaves some of it to very few", () => {
    expect(ridgeHeight(14, rowHeight(640, 14))).toBeGreaterThan(640 - 14);
    expect(ridgeHeight(14, rowHeight(640, 14))).toBeLessThanOrEqual(640);
    expect(ridgeHeight(3, rowHeight(640, 3))).toBeLessThan(640);
  });
});
