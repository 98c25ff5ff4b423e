// Labels fit, and stay off what they label.
import { describe, expect, it } from "vitest";
import { type Box, fitText, type Point, placeLabel, thin } from "./fit-and-place-labels";

const letters = (text: string) => 6 * text.length;

describe("a name too long", () => {
  it("loses its middle", () => {
    const fitted = fitText("model.layers.12.self_attn.q_proj", 96, letters);
    expect(letters(fitted)).toBeLessThanOrEqual(96);
    expect(fitted).toBe("mode…12…n.q_proj");
  });

  it("keeps the numbers that tell it from its neighbours, whole", () => {
    const fitted = [...Array(30).keys()].map((i) =>
      fitText(`encoder.bidirectional_${i}_attention.lateral_connection`, 110, letters),
    );
    expect(new Set(fitted).size).toBe(30);
    for (const name of fitted) expect(letters(name)).toBeLessThanOrEqual(110);
    expect(fitted[17]).toContain("…17…");
  });

  it("loses its numbers, too, where they alone are too long", () => {
    const fitted = fitText("a1b22c333d4444e55555f666666g7777777", 60, letters);
    expect(letters(fitted)).toBeLessThanOrEqual(60);
  });

  it("stays whole where it fits", () => {
    expect(fitText("conv1", 96, letters)).toBe("conv1");
  });
});

describe("the label of a point", () => {
  const bounds: Box = { x: 0, y: 0, width: 300, height: 150 };
  const size = { width: 80, height: 14 };
  const covers = (box: Box, p: Point) =>
    p.x > box.x && p.x < box.x + box.width && p.y > box.y && p.y < box.y + box.height;

  it("goes to the right of it where nothing is in the way", () => {
    expect(placeLabel({ x: 50, y: 75 }, size, bounds, [{ x: 50, y: 75 }])).toMatchObject({ x: 59, y: 68 });
  });

  it("stays inside at the right edge", () => {
    const box = placeLabel({ x: 280, y: 75 }, size, bounds, []) as Box;
    expect(box.x + box.width).toBeLessThanOrEqual(300);
  });

  it("covers no other point and no level", () => {
    const point = { x: 150, y: 70 };
    const points = [point, { x: 180, y: 70 }, { x: 120, y: 72 }, { x: 190, y: 88 }];
    const box = placeLabel(point, size, bounds, points, [84]) as Box;
    expect(points.some((p) => covers(box, p))).toBe(false);
    expect(box.y < 84 && box.y + box.height > 84).toBe(false);
  });

  it("is left out where every place is taken", () => {
    const crowd = Array.from({ length: 900 }, (_, i) => ({ x: (i % 30) * 10, y: Math.floor(i / 30) * 5 }));
    expect(placeLabel({ x: 150, y: 70 }, size, bounds, crowd)).toBeNull();
  });
});

it("labels in a row that would touch are left out", () => {
  const labels = [0, 10, 40, 45, 90].map((x) => ({ x, width: 20 }));
  expect(thin(labels).map((label) => label.x)).toEqual([0, 40, 90]);
});
