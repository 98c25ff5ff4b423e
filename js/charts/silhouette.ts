// The model's outline: depth across, width up, area in proportion to bytes.

export interface Block {
  layer: number;
  /** In units of the drawing: x and thickness across, height up; area ∝ dense bytes. */
  x: number;
  thickness: number;
  height: number;
}

export interface LayerShape {
  shape: readonly number[];
  bytes: number;
}

/** How many times the median width a layer may be wide; a vocabulary would dwarf everything else. */
const WIDEST = 4;
const GAP = 1.5;

/** Width of a layer: its output channels. */
function widthOf({ shape }: LayerShape): number {
  return Math.max(1, shape[0] ?? 1);
}

/** Lay the layers side by side in a drawing of `width` × `height`, one scale for all areas. */
export function silhouette(layers: readonly LayerShape[], width: number, height: number): Block[] {
  const widths = layers.map(widthOf);
  const limit = WIDEST * median(widths);
  const heights = widths.map((w) => Math.min(w, limit));
  const tallest = Math.max(...heights, 1);
  const depths = layers.map((layer, i) => layer.bytes / heights[i]);
  const gap = Math.min(GAP, (0.3 * width) / Math.max(1, layers.length));
  const room = width - gap * (layers.length - 1);
  const total = depths.reduce((a, b) => a + b, 0) || 1;
  let x = 0;
  return layers.map((_, layer) => {
    const thickness = (depths[layer] / total) * room;
    const block = { layer, x, thickness, height: (heights[layer] / tallest) * height };
    x += thickness + gap;
    return block;
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

/** The block at a place across; the nearest one in a gap. */
export function blockAt(blocks: readonly Block[], x: number): Block | undefined {
  return blocks.findLast((block) => block.x <= x + GAP) ?? blocks[0];
}
