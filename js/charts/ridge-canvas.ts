// Draws the visible rows of the ridge on one canvas: names, distributions, figures, a fixed header and a fixed axis.

import { type DistributionPlot, drawDistribution, type PlotStyle } from "./distribution-canvas";
import { type Box, fitText } from "./fit-and-place-labels";
import { type BlockRow, type LayerRow, type Row, visibleRows } from "./layer-tree-rows";
import { bytes, count, estimated, share, weight } from "./number-format";
import {
  AXIS,
  drawAxis,
  drawGuides,
  drawHeader,
  HEADER,
  normal,
  PAD,
  type RidgeFrame,
  small,
} from "./ridge-layout-header-and-axis";
import { drawSparkline, type SparklineScale } from "./sensitivity-sparkline";
import type { Colors } from "./theme";

const INDENT = 12;

/** What the rows say in numbers; `own` marks a layer with an override, `pending` one that is not sketched yet. */
export interface RowFigures {
  n: number;
  pruned: number;
  bits: string;
  nbytes: number;
  keep: boolean;
  own: boolean;
  pending: boolean;
}

export interface RidgeScene extends RidgeFrame {
  width: number;
  height: number;
  scrollTop: number;
  rows: readonly Row[];
  hovered: number;
  /** Where in the hovered row's plot the pointer is, in pixels; negative outside. */
  pointerX: number;
  selected: number;
  focused: boolean;
  active: number;
  style: PlotStyle;
  /** Names as shortened before, kept from one drawing to the next. */
  fitted: Map<string, string>;
  /** The scale of the sparklines; null where there are none. */
  sparks: SparklineScale | null;
  picture(layer: number): DistributionPlot;
  /** The scores of a layer's sparkline, null while they are not known, and where among them it stands now. */
  spark(layer: number): { values: readonly number[] | null; now: number | null };
  figures(layer: number): RowFigures;
}

export function drawRidge(ctx: CanvasRenderingContext2D, scene: RidgeScene): void {
  const { width, height, rows } = scene;
  const { colors } = scene.style;
  ctx.clearRect(0, 0, width, height);
  const body = height - HEADER - AXIS;
  const { row } = scene.columns;
  // Only rows in sight are drawn: a model of thousands of layers scrolls as quickly as one of ten.
  const { first, end } = visibleRows(scene.scrollTop, body, row, rows.length);
  ctx.save();
  ctx.beginPath();
  ctx.rect(0, HEADER, width, body);
  ctx.clip();
  ctx.textBaseline = "middle";
  drawGuides(ctx, scene, Math.min(HEADER + body, HEADER + rows.length * row - scene.scrollTop));
  for (let i = first; i < end; i++) drawRow(ctx, scene, i, HEADER + i * row - scene.scrollTop);
  ctx.restore();
  drawHeader(ctx, scene);
  drawAxis(ctx, scene, Math.min(height - AXIS, HEADER + rows.length * row));
  ctx.fillStyle = colors.line;
  if (scene.scrollTop > 0) ctx.fillRect(0, HEADER - 1, width, 1);
}

function drawRow(ctx: CanvasRenderingContext2D, scene: RidgeScene, index: number, y: number): void {
  const row = scene.rows[index];
  const { colors } = scene.style;
  const chosen = row.kind === "layer" && row.layer === scene.selected;
  if (chosen || index === scene.hovered) {
    ctx.fillStyle = chosen ? colors.selected : colors.hover;
    ctx.fillRect(0, y, scene.width, scene.columns.row);
  }
  if (chosen) {
    // more than a tint: where colors are forced, or few, it is what tells the open row
    ctx.fillStyle = colors.kept;
    ctx.fillRect(0, y, 3, scene.columns.row);
  }
  if (row.kind === "layer") drawLayer(ctx, scene, row, y, index === scene.hovered);
  else drawBlock(ctx, scene, row, y);
  if (scene.focused && index === scene.active) {
    ctx.strokeStyle = colors.kept;
    ctx.lineWidth = 2;
    ctx.strokeRect(1, y + 1, scene.width - 2, scene.columns.row - 2);
  }
}

function drawLayer(ctx: CanvasRenderingContext2D, scene: RidgeScene, row: LayerRow, y: number, hovered: boolean): void {
  const { columns, style } = scene;
  const figures = scene.figures(row.layer);
  const { colors } = style;
  const middle = y + columns.row / 2;
  ctx.font = normal(colors);
  ctx.textAlign = "left";
  ctx.fillStyle = colors.text;
  const indent = PAD + (row.block ? INDENT : 0);
  const badge = figures.keep || figures.own ? 14 : 0;
  ctx.fillText(fitted(ctx, scene, row, row.label, columns.label - indent - badge), indent, middle);
  if (badge) drawBadge(ctx, columns.label - 7, middle, figures.keep, colors);
  const box = { ...columns.plot, y: y + 2 };
  const picture = scene.picture(row.layer);
  drawDistribution(ctx, picture, box, style);
  if (scene.span > 0 && picture.span !== scene.span) drawOwnSpan(ctx, picture, box, colors);
  if (picture.threshold > 0) drawThreshold(ctx, picture, box, { top: y, bottom: y + columns.row }, colors);
  if (hovered && scene.pointerX >= 0) {
    ctx.fillStyle = colors.text;
    ctx.fillRect(Math.round(scene.pointerX), y + 1, 1, columns.row - 4);
  }
  const about = (text: string) => estimated(scene.sized || figures.keep, text);
  if (scene.sparks && columns.spark.width > 0) {
    const { values, now } = scene.spark(row.layer);
    drawSparkline(ctx, values, scene.sparks, { ...columns.spark, y: y + 1, height: columns.row - 2 }, now, colors);
  }
  const now = figures.keep ? "keep" : about(share(figures.pruned));
  const numbers = figures.pending ? ["…", "…", "…"] : [now, figures.bits, about(bytes(figures.nbytes))];
  drawNumbers(ctx, scene, [count(figures.n), ...numbers], middle);
}

/** Where a row among others of a shared axis ends, as it is far wider than they are. */
function drawOwnSpan(ctx: CanvasRenderingContext2D, picture: DistributionPlot, box: Box, colors: Colors): void {
  ctx.save();
  ctx.font = small(colors);
  ctx.fillStyle = colors.muted;
  ctx.textAlign = "right";
  ctx.textBaseline = "top";
  ctx.fillText(`to ±${weight(picture.span)}`, box.x + box.width, box.y);
  ctx.restore();
}

/** The edges of the pruned band; over a shared axis they join into one line down the ridge. */
function drawThreshold(
  ctx: CanvasRenderingContext2D,
  picture: DistributionPlot,
  box: Box,
  row: { top: number; bottom: number },
  colors: Colors,
): void {
  const reach = (picture.threshold / picture.span) * (box.width / 2);
  if (reach > box.width / 2) return;
  const middle = box.x + box.width / 2;
  ctx.strokeStyle = colors.text;
  ctx.globalAlpha = 0.55;
  ctx.setLineDash([2, 2]);
  ctx.lineWidth = 1;
  ctx.beginPath();
  for (const x of [middle - reach, middle + reach]) {
    ctx.moveTo(Math.round(x) + 0.5, row.top);
    ctx.lineTo(Math.round(x) + 0.5, row.bottom);
  }
  ctx.stroke();
  ctx.setLineDash([]);
  ctx.globalAlpha = 1;
}

/** A folded or open block: its triangle and name, how much of each of its layers is left, its sums. */
function drawBlock(ctx: CanvasRenderingContext2D, scene: RidgeScene, row: BlockRow, y: number): void {
  const { columns, style } = scene;
  const { colors } = style;
  const middle = y + columns.row / 2;
  drawTriangle(ctx, PAD + 3, middle, row.folded, colors);
  ctx.font = `600 ${normal(colors)}`;
  ctx.textAlign = "left";
  ctx.fillStyle = colors.text;
  const name = fitted(ctx, scene, row, row.key, columns.label - PAD - 12);
  ctx.fillText(name, PAD + 12, middle);
  let [n, kept, nbytes] = [0, 0, 0];
  const bits = new Set<string>();
  const pending = row.layers.some((layer) => scene.figures(layer).pending);
  for (const layer of row.layers) {
    const figures = scene.figures(layer);
    n += figures.n;
    kept += figures.n * (1 - figures.pruned);
    nbytes += figures.nbytes;
    bits.add(figures.bits);
  }
  if (row.folded) drawShares(ctx, scene, row, y);
  else {
    ctx.font = small(colors);
    ctx.fillStyle = colors.muted;
    ctx.fillText(`${row.layers.length} layers`, columns.plot.x, middle);
  }
  const oneBits = bits.size === 1 ? [...bits][0] : "mixed";
  const about = (text: string) => estimated(scene.sized, text);
  const numbers = pending ? ["…", "…", "…"] : [about(share(1 - kept / n)), oneBits, about(bytes(nbytes))];
  drawNumbers(ctx, scene, [count(n), ...numbers], middle);
}

/** One bar for each layer of a block, filled as far as its weights are kept. */
function drawShares(ctx: CanvasRenderingContext2D, scene: RidgeScene, row: BlockRow, y: number): void {
  const { plot, row: rowHeight } = scene.columns;
  const { colors, hatch } = scene.style;
  const step = Math.min(34, plot.width / row.layers.length);
  const height = rowHeight - 12;
  row.layers.forEach((layer, i) => {
    const kept = height * (1 - scene.figures(layer).pruned);
    const x = plot.x + i * step;
    const width = Math.max(1, step - 3);
    ctx.fillStyle = hatch;
    ctx.fillRect(x, y + 6, width, height - kept);
    ctx.fillStyle = colors.kept;
    ctx.fillRect(x, y + 6 + height - kept, width, kept);
  });
}

function drawTriangle(ctx: CanvasRenderingContext2D, x: number, y: number, folded: boolean, colors: Colors): void {
  ctx.save();
  ctx.translate(x, y);
  if (!folded) ctx.rotate(Math.PI / 2);
  ctx.fillStyle = colors.muted;
  ctx.beginPath();
  ctx.moveTo(-2, -4);
  ctx.lineTo(3, 0);
  ctx.lineTo(-2, 4);
  ctx.fill();
  ctx.restore();
}

/** A closed lock for a layer left uncompressed, a dot for one with per-layer values. */
function drawBadge(ctx: CanvasRenderingContext2D, x: number, y: number, keep: boolean, colors: Colors): void {
  ctx.fillStyle = ctx.strokeStyle = colors.muted;
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
  ctx.font = normal(style.colors);
  ctx.textAlign = "right";
  [columns.weights, columns.pruned, columns.bits, columns.nbytes].forEach((right, i) => {
    if (right === 0) return;
    ctx.fillStyle = i === 0 ? style.colors.muted : style.colors.text;
    ctx.fillText(texts[i], right, y);
  });
}

/** Shorten the name of a row to a width in the current font; measured once per name and width. */
function fitted(ctx: CanvasRenderingContext2D, scene: RidgeScene, { kind }: Row, text: string, width: number): string {
  // the kind stands for the font, which a context takes long to tell
  const key = `${Math.round(width)} ${kind} ${text}`;
  let found = scene.fitted.get(key);
  if (found === undefined) {
    found = fitText(text, width, (t) => ctx.measureText(t).width);
    scene.fitted.set(key, found);
  }
  return found;
}
