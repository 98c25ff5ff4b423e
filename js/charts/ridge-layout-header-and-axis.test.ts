// The ridge's frame: columns that fit, and ticks whose labels stand clear of each other, the same on both sides.
import { describe, expect, it } from "vitest";
import { weight } from "./number-format";
import { axisTicks, ROW, ridgeColumns, ridgeHeight, rowHeight, SPARK } from "./ridge-layout-header-and-axis";
import type { Colors } from "./theme";

const frame = (width: number, span: number) => ({
  columns: ridgeColumns(width, 100),
  colors: {} as Colors,
  span,
  axisNote: "",
  threshold: 0,
  exact: true,
  sized: true,
});

describe("ticks of the shared axis", () => {
  const cases = [400, 500, 650, 672, 700, 900].flatMap((width) =>
    [0.0213, 0.197, 0.21, 1.3, 40].map((s) => [width, s]),
  );

  it.each(cases)("have room for every label in a ridge of %d pixels, to ±%f", (width, span) => {
    const scene = frame(width, span);
    const ticks = axisTicks(scene);
    expect(ticks.length).toBeGreaterThan(width > 400 ? 1 : 0);
    const step = ticks.length > 1 ? ((ticks[1] - ticks[0]) / span) * (scene.columns.plot.width / 2) : Infinity;
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

describe("the columns", () => {
  const numbers = { weights: 70, pruned: 42, bits: 30, nbytes: 50 };
  const at = (width: number) => ridgeColumns(width, 150, ROW, numbers);

  it.each([260, 320, 384, 460, 535, 690, 900])("of a ridge of %d pixels never run into each other", (width) => {
    const { label, plot, ...edges } = at(width);
    expect(plot.x).toBeGreaterThanOrEqual(label);
    let last = plot.x + plot.width;
    for (const name of ["weights", "pruned", "bits", "nbytes"] as const) {
      if (edges[name] === 0) continue;
      expect(edges[name] - numbers[name]).toBeGreaterThan(last);
      last = edges[name];
    }
    expect(last).toBeLessThanOrEqual(width);
  });

  it("keep bits and size as long as the plot can shrink", () => {
    for (const width of [384, 460]) expect(Math.min(at(width).bits, at(width).nbytes)).toBeGreaterThan(0);
    expect(at(320)).toMatchObject({ weights: 0, bits: 0 });
    expect(Math.min(at(320).pruned, at(320).nbytes)).toBeGreaterThan(0);
  });

  it("leave a phone's width to the whole name, and the bits out", () => {
    const label = 86; // "stage1.0.conv1"
    const estimates = { weights: 0, pruned: 48, bits: 26, nbytes: 58 }; // with their signs
    expect(ridgeColumns(344, label, ROW, estimates)).toMatchObject({ label: label + 26, bits: 0 });
    expect(ridgeColumns(344, 20, ROW, estimates).bits).toBeGreaterThan(0);
  });

  it("give the room of the counts to names that would be cut", () => {
    const label = 86; // "stage1.0.conv1"
    expect(ridgeColumns(400, label, ROW, numbers)).toMatchObject({ label: label + 26, weights: 0 });
    expect(ridgeColumns(600, label, ROW, numbers).weights).toBeGreaterThan(0);
  });

  it("leave most of a wide ridge to the distributions", () => {
    expect(at(690).plot.width).toBeGreaterThan(0.33 * 690);
  });

  it.each([260, 320, 384, 460, 535, 690, 900])(
    "of a ridge of %d pixels have sparklines between plot and numbers",
    (width) => {
      const { label, plot, spark, ...edges } = ridgeColumns(width, 86, ROW, numbers, SPARK);
      expect(plot.x).toBeGreaterThanOrEqual(label);
      expect(spark.x).toBeGreaterThan(plot.x + plot.width);
      const first = (["weights", "pruned", "bits", "nbytes"] as const).find((name) => edges[name] > 0) ?? "nbytes";
      expect(edges[first] - numbers[first]).toBeGreaterThan(spark.x + spark.width - (spark.width > 0 ? 0 : 10));
      expect(edges.nbytes).toBeLessThanOrEqual(width);
      expect(spark.width).toBe(width < 320 ? 0 : SPARK);
    },
  );

  it("are the same as ever without sparklines", () => {
    expect(ridgeColumns(690, 150, ROW, numbers, 0)).toEqual(at(690));
    expect(at(690).spark.width).toBe(0);
  });
});
