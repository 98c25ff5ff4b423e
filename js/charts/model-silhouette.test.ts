// Areas of the silhouette are bytes.
import { describe, expect, it } from "vitest";
import { blockAt, contourPath, silhouette } from "./model-silhouette";

const LAYERS = [
  { width: 16, bytes: 1728 },
  { width: 16, bytes: 9216 },
  { width: 64, bytes: 36_864 },
  { width: 10, bytes: 2560 },
];

describe("a silhouette", () => {
  const blocks = silhouette(LAYERS, [...LAYERS.keys()], 400, 80);

  it("gives every layer an area in proportion to its bytes", () => {
    const perByte = blocks.map((block, i) => (block.thickness * block.height) / LAYERS[i].bytes);
    for (const scale of perByte) expect(scale).toBeCloseTo(perByte[0], 10);
  });

  it("fills its width, and its height with the widest layer", () => {
    const last = blocks[blocks.length - 1];
    expect(last.x + last.thickness).toBeCloseTo(400, 9);
    expect(Math.max(...blocks.map((block) => block.height))).toBe(80);
  });

  it("finds the layer under the pointer", () => {
    for (const block of blocks) expect(blockAt(blocks, block.x + block.thickness / 2)).toBe(block);
  });

  it("is not dwarfed by a vocabulary, and keeps its areas true", () => {
    const wide = [{ width: 50_000, bytes: 3_200_000 }, ...LAYERS];
    const found = silhouette(wide, [...wide.keys()], 400, 80);
    expect(found[1].height).toBeGreaterThan(10);
    const area = (i: number) => (found[i].thickness * found[i].height) / wide[i].bytes;
    expect(area(0)).toBeCloseTo(area(2), 10);
  });

  it("has one closed contour", () => {
    expect(contourPath(blocks, 40).match(/M/g)).toHaveLength(1);
  });
});
