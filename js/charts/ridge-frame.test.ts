// The ridge's frame: columns that fit, and ticks whose labels stand clear of each other, the same on both sides.
import { describe, expect, it } from "vitest";
import { weight } from "./format";
import { axisTicks, ridgeColumns } from "./ridge-frame";
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
