// The model's outline: depth across, width up, area in proportion to bytes.
// The twin of shrinkwidget/figures/model_silhouette.py; tests/vectors/charts holds the two together.

import { thin } from "./fit-and-place-labels";
import { blockOf } from "./layer-tree-rows";

export interface Block {
  layer: number;
  /** In units of the drawing: x and thickness across, height up; area ∝ dense bytes. */
  x: number;
  thickness: number;
  height: number;
}

export interface LayerShape {
  /** Output channels. */
  width: number;
  bytes: number;
}

/** How many times the median width a layer may be wide; a vocabulary would dwarf everything else. */
const WIDEST = 4;

/** Lay the layers side by side, in this order, in a drawing of `width` × `height`, one scale for all areas. */
export function silhouette(
  layers: readonly LayerShape[],
  order: readonly number[],
  width: number,
  height: number,
): Block[] {
  const widths = layers.map((layer) => layer.width);
  const limit = WIDEST * median(widths);
  const heights = widths.map((w) => Math.min(w, limit));
  const tallest = Math.max(...heights, 1);
  // Area is bytes: a layer that is cut off at the limit gets wider in exchange.
  const depths = layers.map((layer, i) => layer.bytes / heights[i]);
  const total = depths.reduce((a, b) => a + b, 0) || 1;
  let x = 0;
  return order.map((layer) => {
    const thickness = (depths[layer] / total) * width;
    const block = { layer, x, thickness, height: (heights[layer] / tallest) * height };
    x += thickness;
    return block;
  });
}

interface Sized {
  readonly width: number;
  readonly n: number;
}

/** The blocks of layers without some channels, in the middle of the dense ones: as high as they are wide, area ∝ weights. */
export function narrowedBlocks(blocks: readonly Block[], dense: readonly Sized[], left: readonly Sized[]): Block[] {
  return blocks.map((block) => {
    const [was, now] = [dense[block.layer], left[block.layer]];
    if (was === now || was.n === 0) return block;
    const tall = now.width / was.width;
    const thickness = (block.thickness * (now.n / was.n)) / tall;
    return { ...block, x: block.x + (block.thickness - thickness) / 2, thickness, height: block.height * tall };
  });
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1] ?? 1;
}

/** One path of rectangles about the middle line, each as high as `share(layer)` of its block. */
export function blocksPath(blocks: readonly Block[], middle: number, share: (layer: number) => number): string {
  let path = "";
  for (const { layer, x, thickness, height } of blocks) {
    const tall = height * share(layer);
    path += `M${x.toFixed(2)} ${(middle - tall / 2).toFixed(2)}h${thickness.toFixed(2)}v${tall.toFixed(2)}h${(-thickness).toFixed(2)}z`;
  }
  return path;
}

/** The outer contour of all blocks as one path: what to draw where single blocks would be a grid of lines. */
export function contourPath(blocks: readonly Block[], middle: number): string {
  const upper = blocks.map((b) => `V${(middle - b.height / 2).toFixed(2)}H${(b.x + b.thickness).toFixed(2)}`);
  const lower = [...blocks].reverse().map((b) => `V${(middle + b.height / 2).toFixed(2)}H${b.x.toFixed(2)}`);
  return `M0 ${middle}${upper.join("")}${lower.join("")}z`;
}

/** The block at a place across. */
export function blockAt(blocks: readonly Block[], x: number): Block | undefined {
  return blocks.findLast((block) => block.x <= x) ?? blocks[0];
}

/** Pixels that a letter of a stage's name takes, about. */
const LETTER = 5.6;

/** The stages of a model and their middles, named once each where there is room. */
export function stages(labels: readonly string[], blocks: readonly Block[]): { text: string; x: number }[] {
  const runs: { text: string; from: number; to: number }[] = [];
  for (const { layer, x, thickness } of blocks) {
    const text = blockOf(labels[layer]).split(/\.\d/)[0] || labels[layer];
    const end = x + thickness;
    const last = runs.at(-1);
    if (last?.text === text) last.to = end;
    else runs.push({ text, from: x, to: end });
  }
  const placed = runs.map(({ text, from, to }) => ({
    text,
    x: (from + to) / 2,
    width: LETTER * text.length,
    room: to - from,
  }));
  return thin(placed.filter(({ text, room, width }) => room > 0.7 * width || /^\d+$/.test(text)));
}
