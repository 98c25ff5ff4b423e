// Draws one weight distribution: original outlined, pruned part hatched, effective weights filled, grid levels ticked.

import type { Box } from "./fit-and-place-labels";
import type { Colors } from "./theme";

/** What a distribution looks like on an axis from -span to span, in counts per bin. */
export interface DistributionPlot {
  span: number;
  /** Bins of the outline: `outline[i]` weights lie between `edges[i]` and `edges[i + 1]`. */
  edges: Float64Array;
  outline: Float64Array;
  /** How many of them survive pruning. */
  survivors: Float64Array;
  /** Where effective weights are: the bars' positions, and their heights in the outline's unit. */
  barAt: Float64Array;
  barHeight: Float64Array;
  /** Width of a bar in units of the axis. */
  barWidth: number;
  /** Grid levels worth a tick. */
  levels: ArrayLike<number>;
  /** Where the pruned band ends on both sides; 0 where no threshold decides. */
  threshold: number;
  /** Height that fills the plot; taller spikes are clipped. */
  top: number;
  /** Why nothing but the outline is drawn. */
  unknown?: string;
}

export interface PlotStyle {
  log: boolean;
  colors: Colors;
  hatch: CanvasPattern | string;
  /** Height of the grid ticks under the base line. */
  tick: number;
}

/** Draw into `box`; its lower edge is the base line. */
export function drawDistribution(
  ctx: CanvasRenderingContext2D,
  picture: DistributionPlot,
  box: Box,
  style: PlotStyle,
): void {
  const place = placing(picture, box, style.log);
  ctx.save();
  ctx.beginPath();
  ctx.rect(box.x, box.y, box.width, box.height);
  ctx.clip();
  drawPruned(ctx, picture, place, style);
  drawBars(ctx, picture, place, style);
  drawOutline(ctx, picture, place, style);
  ctx.restore();
  drawBase(ctx, box, style);
  drawLevels(ctx, picture, place, box, style);
  drawClipped(ctx, picture, place, box, style);
}

interface Placing {
  x(value: number): number;
  y(count: number): number;
  base: number;
  perUnit: number;
}

/** From weights and counts to pixels. */
function placing(picture: DistributionPlot, box: Box, log: boolean): Placing {
  const perUnit = box.width / (2 * picture.span);
  const middle = box.x + box.width / 2;
  const base = box.y + box.height;
  const full = log ? Math.log1p(picture.top) : picture.top;
  const scale = full > 0 ? box.height / full : 0;
  return {
    x: (value) => middle + value * perUnit,
    y: log ? (count) => base - Math.log1p(count) * scale : (count) => base - count * scale,
    base,
    perUnit,
  };
}

/** Path through the middles of the bins. */
function trace(ctx: CanvasRenderingContext2D, edges: Float64Array, counts: Float64Array, place: Placing): void {
  const last = counts.length - 1;
  ctx.moveTo(place.x(edges[0]), place.y(counts[0]));
  for (let i = 0; i <= last; i++) ctx.lineTo(place.x((edges[i] + edges[i + 1]) / 2), place.y(counts[i]));
  ctx.lineTo(place.x(edges[last + 1]), place.y(counts[last]));
}

function drawPruned(ctx: CanvasRenderingContext2D, picture: DistributionPlot, place: Placing, style: PlotStyle): void {
  const { edges, outline, survivors, threshold } = picture;
  ctx.save();
  ctx.beginPath();
  if (threshold > 0) {
    const left = place.x(-threshold);
    ctx.rect(left, 0, place.x(threshold) - left, place.base);
    ctx.clip();
    ctx.beginPath();
    trace(ctx, edges, outline, place);
    ctx.lineTo(place.x(edges[outline.length]), place.base);
    ctx.lineTo(place.x(edges[0]), place.base);
  } else {
    trace(ctx, edges, outline, place);
    for (let i = survivors.length - 1; i >= 0; i--) {
      ctx.lineTo(place.x((edges[i] + edges[i + 1]) / 2), place.y(survivors[i]));
    }
  }
  ctx.closePath();
  ctx.fillStyle = style.hatch;
  ctx.fill();
  ctx.restore();
}

function drawBars(ctx: CanvasRenderingContext2D, picture: DistributionPlot, place: Placing, style: PlotStyle): void {
  const { barAt, barHeight, barWidth } = picture;
  const pixels = barWidth * place.perUnit;
  // A pixel between bars that are wide enough to count; levels are at least two wide, or one of 256 would vanish.
  const width = Math.max(barAt === picture.levels ? 2 : 1, pixels > 3 ? pixels - 1 : pixels);
  ctx.fillStyle = style.colors.kept;
  ctx.beginPath();
  for (let i = 0; i < barAt.length; i++) {
    if (barHeight[i] <= 0) continue;
    // A single weight among millions still shows.
    const y = Math.min(place.y(barHeight[i]), place.base - 0.75);
    ctx.rect(place.x(barAt[i]) - width / 2, y, width, place.base - y);
  }
  ctx.fill();
}

function drawOutline(ctx: CanvasRenderingContext2D, picture: DistributionPlot, place: Placing, style: PlotStyle): void {
  ctx.beginPath();
  trace(ctx, picture.edges, picture.outline, place);
  ctx.strokeStyle = style.colors.outline;
  ctx.lineWidth = 1;
  ctx.lineJoin = "round";
  ctx.stroke();
}

function drawBase(ctx: CanvasRenderingContext2D, box: Box, style: PlotStyle): void {
  ctx.fillStyle = style.colors.line;
  ctx.fillRect(box.x, box.y + box.height, box.width, 1);
}

/** Ticks of the grid, left out where they would run into each other. */
function drawLevels(
  ctx: CanvasRenderingContext2D,
  picture: DistributionPlot,
  place: Placing,
  box: Box,
  style: PlotStyle,
): void {
  ctx.fillStyle = style.colors.grid;
  let last = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < picture.levels.length; i++) {
    const x = place.x(picture.levels[i]);
    if (x < box.x - 0.5 || x > box.x + box.width + 0.5 || x - last < 2.5) continue;
    ctx.fillRect(x - 0.5, place.base + 1, 1, style.tick);
    last = x;
  }
}

/** A small gap near the top says that a spike goes on above. */
function drawClipped(
  ctx: CanvasRenderingContext2D,
  picture: DistributionPlot,
  place: Placing,
  box: Box,
  style: PlotStyle,
): void {
  ctx.strokeStyle = style.colors.background;
  ctx.lineWidth = 1.5;
  ctx.beginPath();
  const cut = (x: number) => {
    ctx.moveTo(x - 4, box.y + 6);
    ctx.lineTo(x + 4, box.y + 3);
  };
  const { edges, outline, barAt, barHeight, top } = picture;
  for (let i = 0; i < outline.length; i++) if (outline[i] > top) cut(place.x((edges[i] + edges[i + 1]) / 2));
  for (let i = 0; i < barAt.length; i++) if (barHeight[i] > top) cut(place.x(barAt[i]));
  ctx.stroke();
}

/** A pattern of thin diagonal lines: what is pruned. */
export function hatchPattern(ctx: CanvasRenderingContext2D, color: string, ratio: number): CanvasPattern | string {
  const size = 5;
  const tile = document.createElement("canvas");
  tile.width = tile.height = Math.max(1, Math.round(size * ratio));
  const canvas = tile.getContext("2d");
  if (!canvas) return color;
  canvas.scale(tile.width / size, tile.height / size);
  canvas.strokeStyle = color;
  canvas.lineWidth = 0.9;
  canvas.beginPath();
  // Three lines, so that the corners of the tile are filled, too, and its copies join without a seam.
  for (const shift of [-size, 0, size]) {
    canvas.moveTo(shift - 1, size + 1);
    canvas.lineTo(shift + size + 1, -1);
  }
  canvas.stroke();
  const pattern = ctx.createPattern(tile, "repeat");
  pattern?.setTransform(new DOMMatrix().scale(size / tile.width));
  return pattern ?? color;
}
