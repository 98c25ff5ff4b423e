// Draws the visible rows of the ridge on one canvas: names, distributions, figures, a fixed header and a fixed axis.

import { bytes, count, share, weight } from "./format";
import { type Box, fitText, thin } from "./labels";
import { drawDistribution, type Picture, type PlotStyle } from "./plot";
import { type BlockRow, type LayerRow, type Row, visibleRows } from "./rows";
import type { Colours } from "./theme";
import { mirroredTicks } from "./ticks";

export const ROW = 30;
export const HEADER = 22;
export const AXIS = 20;
const INDENT = 12;
const PAD = 8;

/** What the rows say in numbers; `own` marks a layer with an override. */
export interface RowFigures {
  n: number;
  pruned: number;
  bits: string;
  nbytes: number;
  keep: boolean;
  own: boolean;
}

export interface RidgeScene {
  width: number;
  height: number;
  scrollTop: number;
  rows: readonly Row[];
  columns: Columns;
  /** Half the width of a shared axis; 0 where every row has its own. */
  span: number;
  axisNote: string;
  /** Threshold of the global ranking, named in the header when the axis is shared. */
  threshold: number;
  hovered: number;
  /** Where in the hovered row's plot the pointer is, in pixels; negative outside. */
  pointerX: number;
  selected: number;
  focused: boolean;
  active: number;
  style: PlotStyle;
  picture(layer: number): Picture;
  figures(layer: number): RowFigures;
}

export interface Columns {
  label: number;
  plot: Box;
  /** Right edges of the number columns; 0 for one that has no room. */
  weights: number;
  pruned: number;
  bits: number;
  nbytes: number;
}

/** Divide a row's width: the plot takes what names and numbers leave. */
export function ridgeColumns(width: number, longestLabel: number): Columns {
  const roomy = width >= 520;
  const [weights, pruned, bits, nbytes] = roomy ? [72, 58, 38, 66] : [68, 52, 0, 0];
  const label = Math.round(Math.min(longestLabel + PAD + 18, Math.max(84, width * 0.28)));
  const right = width - PAD;
  const plotEnd = right - weights - pruned - bits - nbytes - 4;
  const plot = { x: label + PAD, y: 0, width: Math.max(40, plotEnd - label - PAD), height: ROW - 8 };
  return {
    label,
    plot,
    weights: plotEnd + weights,
    pruned: plotEnd + weights + pruned,
    bits: bits && plotEnd + weights + pruned + bits,
    nbytes: nbytes && right,
  };
}

export function drawRidge(ctx: CanvasRenderingContext2D, scene: RidgeScene): void {
  const { width, height, rows } = scene;
  const { colours } = scene.style;
  ctx.clearRect(0, 0, width, height);
  const body = height - HEADER - AXIS;
  const { first, end } = visibleRows(scene.scrollTop, body, ROW, rows.length);
  ctx.save();
  ctx.beginPath();
  ctx.rect(0, HEADER, width, body);
  ctx.clip();
  ctx.textBaseline = "middle";
  drawGuides(ctx, scene, Math.min(HEADER + body, HEADER + rows.length * ROW - scene.scrollTop));
  for (let i = first; i < end; i++) drawRow(ctx, scene, i, HEADER + i * ROW - scene.scrollTop);
  ctx.restore();
  drawHeader(ctx, scene);
  drawAxis(ctx, scene, Math.min(height - AXIS, HEADER + rows.length * ROW));
  ctx.fillStyle = colours.line;
  if (scene.scrollTop > 0) ctx.fillRect(0, HEADER - 1, width, 1);
}

export const small = (colours: Colours) => `11px ${colours.font}`;
export const normal = (colours: Colours) => `12px ${colours.font}`;

function drawRow(ctx: CanvasRenderingContext2D, scene: RidgeScene, index: number, y: number): void {
  const row = scene.rows[index];
  const { colours } = scene.style;
  const chosen = row.kind === "layer" && row.layer === scene.selected;
  if (chosen || index === scene.hovered) {
    ctx.fillStyle = chosen ? colours.selected : colours.hover;
    ctx.fillRect(0, y, scene.width, ROW);
  }
  if (row.kind === "layer") drawLayer(ctx, scene, row, y, index === scene.hovered);
  else drawBlock(ctx, scene, row, y);
  if (scene.focused && index === scene.active) {
    ctx.strokeStyle = colours.kept;
    ctx.lineWidth = 2;
    ctx.strokeRect(1, y + 1, scene.width - 2, ROW - 2);
  }
}

function drawLayer(ctx: CanvasRenderingContext2D, scene: RidgeScene, row: LayerRow, y: number, hovered: boolean): void {
  const { columns, style } = scene;
  const figures = scene.figures(row.layer);
  const { colours } = style;
  const middle = y + ROW / 2;
  ctx.font = normal(colours);
  ctx.textAlign = "left";
  ctx.fillStyle = colours.text;
  const indent = PAD + (row.block ? INDENT : 0);
  const badge = figures.keep || figures.own ? 14 : 0;
  ctx.fillText(fitted(ctx, row.label, columns.label - indent - badge), indent, middle);
  if (badge) drawBadge(ctx, columns.label - 7, middle, figures.keep, colours);
  const box = { ...columns.plot, y: y + 2 };
  const picture = scene.picture(row.layer);
  drawDistribution(ctx, picture, box, style);
  if (picture.threshold > 0) drawThreshold(ctx, picture, box, y, colours);
  if (hovered && scene.pointerX >= 0) {
    ctx.fillStyle = colours.text;
    ctx.fillRect(Math.round(scene.pointerX), y + 1, 1, ROW - 4);
  }
  const now = figures.keep ? "kept" : share(figures.pruned);
  drawNumbers(ctx, scene, [count(figures.n), now, figures.bits, bytes(figures.nbytes)], middle);
}

/** The edges of the pruned band; over a shared axis they join into one line down the ridge. */
function drawThreshold(ctx: CanvasRenderingContext2D, picture: Picture, box: Box, y: number, colours: Colours): void {
  const reach = (picture.threshold / picture.span) * (box.width / 2);
  if (reach > box.width / 2) return;
  const middle = box.x + box.width / 2;
  ctx.strokeStyle = colours.text;
  ctx.globalAlpha = 0.55;
  ctx.setLineDash([2, 2]);
  ctx.lineWidth = 1;
  ctx.beginPath();
  for (const x of [middle - reach, middle + reach]) {
    ctx.moveTo(Math.round(x) + 0.5, y);
    ctx.lineTo(Math.round(x) + 0.5, y + ROW);
  }
  ctx.stroke();
  ctx.setLineDash([]);
  ctx.globalAlpha = 1;
}

/** A folded or open block: its triangle and name, how much of each of its layers is left, its sums. */
function drawBlock(ctx: CanvasRenderingContext2D, scene: RidgeScene, row: BlockRow, y: number): void {
  const { columns, style } = scene;
  const { colours } = style;
  const middle = y + ROW / 2;
  drawTriangle(ctx, PAD + 3, middle, row.folded, colours);
  ctx.font = `600 ${normal(colours)}`;
  ctx.textAlign = "left";
  ctx.fillStyle = colours.text;
  const name = fitted(ctx, row.key, columns.label - PAD - 12);
  ctx.fillText(name, PAD + 12, middle);
  let [n, kept, nbytes] = [0, 0, 0];
  const bits = new Set<string>();
  for (const layer of row.layers) {
    const figures = scene.figures(layer);
    n += figures.n;
    kept += figures.n * (1 - figures.pruned);
    nbytes += figures.nbytes;
    bits.add(figures.bits);
  }
  if (row.folded) drawShares(ctx, scene, row, y);
  else {
    ctx.font = small(colours);
    ctx.fillStyle = colours.muted;
    ctx.fillText(`${row.layers.length} layers`, columns.plot.x, middle);
  }
  const oneBits = bits.size === 1 ? [...bits][0] : "mixed";
  drawNumbers(ctx, scene, [count(n), share(1 - kept / n), oneBits, bytes(nbytes)], middle);
}

/** One bar for each layer of a block, filled as far as its weights are kept. */
function drawShares(ctx: CanvasRenderingContext2D, scene: RidgeScene, row: BlockRow, y: number): void {
  const { plot } = scene.columns;
  const { colours, hatch } = scene.style;
  const step = Math.min(34, plot.width / row.layers.length);
  const height = ROW - 12;
  row.layers.forEach((layer, i) => {
    const kept = height * (1 - scene.figures(layer).pruned);
    const x = plot.x + i * step;
    const width = Math.max(1, step - 3);
    ctx.fillStyle = hatch;
    ctx.fillRect(x, y + 6, width, height - kept);
    ctx.fillStyle = colours.kept;
    ctx.fillRect(x, y + 6 + height - kept, width, kept);
  });
}

function drawTriangle(ctx: CanvasRenderingContext2D, x: number, y: number, folded: boolean, colours: Colours): void {
  ctx.save();
  ctx.translate(x, y);
  if (!folded) ctx.rotate(Math.PI / 2);
  ctx.fillStyle = colours.muted;
  ctx.beginPath();
  ctx.moveTo(-2, -4);
  ctx.lineTo(3, 0);
  ctx.lineTo(-2, 4);
  ctx.fill();
  ctx.restore();
}

/** A closed lock for a layer kept as it is, a dot for one with values of its own. */
function drawBadge(ctx: CanvasRenderingContext2D, x: number, y: number, keep: boolean, colours: Colours): void {
  ctx.fillStyle = ctx.strokeStyle = colours.muted;
  ctx.lineWidth = 1.4;
  ctx.beginPath();
  if (!keep) {
    ctx.arc(x, y, 3, 0, 2 * Math.PI);
    ctx.fill();
    return;
  }
  ctx.arc(x, y - 1.5, 2.4, Math.PI, 0);
  ctx.stroke();
  ctx.fillRect(x - 4, y - 1, 8, 6);
}

function drawNumbers(ctx: CanvasRenderingContext2D, scene: RidgeScene, texts: string[], y: number): void {
  const { columns, style } = scene;
  ctx.font = normal(style.colours);
  ctx.textAlign = "right";
  [columns.weights, columns.pruned, columns.bits, columns.nbytes].forEach((right, i) => {
    if (right === 0) return;
    ctx.fillStyle = i === 0 ? style.colours.muted : style.colours.text;
    ctx.fillText(texts[i], right, y);
  });
}

function drawHeader(ctx: CanvasRenderingContext2D, scene: RidgeScene): void {
  const { columns, style } = scene;
  const y = HEADER / 2;
  ctx.textBaseline = "middle";
  ctx.font = small(style.colours);
  ctx.fillStyle = style.colours.muted;
  ctx.textAlign = "right";
  const titles: [number, string][] = [
    [columns.weights, "weights"],
    [columns.pruned, "pruned"],
    [columns.bits, "bits"],
    [columns.nbytes, "size"],
  ];
  for (const [right, title] of titles) if (right > 0) ctx.fillText(title, right, y);
  if (scene.threshold > 0) {
    const { plot } = columns;
    const text = `pruned within ±${weight(scene.threshold)}`;
    const half = ctx.measureText(text).width / 2;
    ctx.textAlign = "center";
    ctx.fillStyle = style.colours.text;
    ctx.fillText(text, Math.min(plot.x + plot.width / 2, plot.x + plot.width - half), y);
  }
}

/** Fine vertical lines of a shared axis. */
function drawGuides(ctx: CanvasRenderingContext2D, scene: RidgeScene, bottom: number): void {
  if (scene.span === 0) return;
  ctx.fillStyle = scene.style.colours.line;
  ctx.globalAlpha = 0.5;
  const { plot } = scene.columns;
  for (const tick of axisTicks(scene)) {
    const x = plot.x + plot.width / 2 + (tick / scene.span) * (plot.width / 2);
    ctx.fillRect(Math.round(x), HEADER, 1, bottom - HEADER);
  }
  ctx.globalAlpha = 1;
}

function axisTicks(scene: RidgeScene): number[] {
  return mirroredTicks(scene.span, scene.columns.plot.width > 260 ? 3 : 2);
}

function drawAxis(ctx: CanvasRenderingContext2D, scene: RidgeScene, y: number): void {
  const { plot } = scene.columns;
  const { colours } = scene.style;
  ctx.font = small(colours);
  ctx.fillStyle = colours.muted;
  ctx.textAlign = "center";
  ctx.textBaseline = "middle";
  const middle = plot.x + plot.width / 2;
  if (scene.span === 0) {
    ctx.fillText(scene.axisNote, middle, y + AXIS / 2);
    return;
  }
  const labels = axisTicks(scene).map((tick) => {
    const text = weight(tick);
    return { x: middle + (tick / scene.span) * (plot.width / 2), width: ctx.measureText(text).width, text };
  });
  for (const label of thin(labels)) ctx.fillText(label.text, label.x, y + AXIS / 2);
}

const fittedTexts = new Map<string, string>();

/** Shorten a text to a width in the current font; measured once per text, font and width. */
function fitted(ctx: CanvasRenderingContext2D, text: string, width: number): string {
  const key = `${Math.round(width)} ${ctx.font} ${text}`;
  let found = fittedTexts.get(key);
  if (found === undefined) {
    if (fittedTexts.size > 4000) fittedTexts.clear();
    found = fitText(text, width, (t) => ctx.measureText(t).width);
    fittedTexts.set(key, found);
  }
  return found;
}
