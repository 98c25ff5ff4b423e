// Layers fold by the prefix of their names, in forward order.
import { describe, expect, it } from "vitest";
import { blockOf, blocks, ridgeRows, visibleRows } from "./layer-tree-rows";

it.each([
  ["conv1", ""],
  ["layer3.5.conv2", "layer3.5"],
  ["layer3.5.downsample.0", "layer3.5"],
  ["model.layers.11.self_attn.q_proj", "model.layers.11"],
  ["features.0", "features"],
  ["encoder.embed", "encoder"],
])("%s belongs to the block %s", (label, block) => {
  expect(blockOf(label)).toBe(block);
});

const inOrder = (labels: readonly string[]) => labels.map((_, i) => i);
const LABELS = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer1.1.conv2", "fc"];

it("neighbours of one prefix are one block; a prefix that comes back is another", () => {
  expect(blocks(["a.x", "a.y", "b", "a.z"], [0, 1, 2, 3]).map((block) => block.layers)).toEqual([[0, 1], [2], [3]]);
});

it("the order of the forward pass decides, not that of the definition", () => {
  expect(blocks(["a.x", "b", "a.y"], [1, 0, 2]).map((block) => block.layers)).toEqual([[1], [0, 2]]);
  const rows = ridgeRows(["late", "early"], [1, 0], false, new Set());
  expect(rows.map((row) => row.kind === "layer" && row.label)).toEqual(["early", "late"]);
});

describe("rows", () => {
  it("are the layers, where they are not grouped", () => {
    expect(ridgeRows(LABELS, inOrder(LABELS), false, new Set())).toHaveLength(LABELS.length);
  });

  it("show blocks of two and more with their layers below, by the rest of their names", () => {
    const rows = ridgeRows(LABELS, inOrder(LABELS), true, new Set());
    expect(rows.map((row) => (row.kind === "block" ? `[${row.key}]` : row.label))).toEqual([
      "conv1",
      "[layer1.0]",
      "conv1",
      "conv2",
      "[layer1.1]",
      "conv1",
      "conv2",
      "fc",
    ]);
  });

  it("leave out what is folded", () => {
    expect(ridgeRows(LABELS, inOrder(LABELS), true, new Set(["layer1.0", "layer1.1"]))).toHaveLength(4);
  });
});

it("only rows in the viewport are visible, part ones included", () => {
  expect(visibleRows(45, 100, 30, 300)).toEqual({ first: 1, end: 5 });
  expect(visibleRows(0, 100, 30, 2)).toEqual({ first: 0, end: 2 });
});
