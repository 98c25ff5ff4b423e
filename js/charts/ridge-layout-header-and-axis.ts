// What stays in place around the ridge's rows: the columns, the header, the axis and its guides.

import type { Box } from "./fit-and-place-labels";
import { estimated, weight } from "./number-format";
import type { Colors } from "./theme";
import { mirroredTicks } from "./ticks-and-size-marks";

/** Height of a row: that of many, and the most that few get. */
export const ROW = 30;
const TALL_ROW = 46;
export const HEADER = 22;
export const AXIS = 20;
export const PAD = 8;

/** What the frame needs to know of a ridge. */
export interface RidgeFrame {
  columns: Columns;
  colors: Colors;
  /** Half the width of a shared axis; 0 where every row has its own. */
  span: number;
  axisNote: string;
  /** Threshold of the global ranking, named in the header. */
  threshold: number;
  /** Whether the figures were counted; estimates carry a sign wherever they stand. */
  exact: boolean;
  /** Whether bytes and kept weights are exact, counted or not. */
  sized: boolean;
}

export interface Columns {
  /** Height of a row. */
  row: number;
  label: number;
  plot: Box;
  /** Where the sparklines of sensitivity stand; no width where there are none, or no room. */
  spark: { x: number; width: number };
  /** Right edges of the number columns; 0 for one that has no room. */
  weights: number;
  pruned: number;
  bits: number;
  nbytes: number;
}

/** The height of each of `rows` rows: few share what room there is. */
export function rowHeight(height: number, rows: number): number {
  return Math.max(ROW, Math.min(TALL_ROW, Math.floor((height - HEADER - AXIS) / rows)));
}

/** The height of a ridge that shows all its rows, `row` high each; as high as few may get, if left out. */
export function ridgeHeight(rows: number, row = TALL_ROW): number {
  return HEADER + rows * row + AXIS;
}

/** Widths of the texts of the number columns. */
export interface NumberWidths {
  weights: number;
  pruned: number;
  bits: number;
  nbytes: number;
}

const GAP = 10;
/** Below this a distribution says nothing: a column of numbers goes first. */
const LEAST_PLOT = 60;
/** Most names fit into this: rather than cut them, other columns go. A longer one is cut, down to the least. */
const USUAL_LABEL = 112;
const LEAST_LABEL = 76;
/** A plot beside sparklines may be so narrow; then the sparklines go. */
const LEAST_BESIDE_SPARK = 40;
/** The width of a sparkline. */
export const SPARK = 66;
const TYPICAL: NumberWidths = { weights: 50, pruned: 42, bits: 26, nbytes: 50 };

/**
 * Divide a row's width: numbers take what they need, names up to a third, the plot the rest. Where that is too little, the
 * counts of weights go first, which no recipe changes, then the bits, which are most often the same in every row, then names
 * give way. `spark` pixels of the plot's share are for sparklines: for them the counts go earlier; they go last.
 */
export function ridgeColumns(width: number, longestLabel: number, row = ROW, numbers = TYPICAL, spark = 0): Columns {
  const right = width - PAD;
  const wanted = Math.min(longestLabel + PAD + 18, Math.max(USUAL_LABEL, width * 0.3));
  let shown: (keyof NumberWidths)[] = ["weights", "pruned", "bits", "nbytes"];
  let beside = spark > 0 ? spark + GAP : 0;
  const rest = () => right - PAD - beside - shown.reduce((sum, name) => sum + numbers[name] + GAP, 0);
  // In this order, each only if what went before was not enough.
  for (const [name, label, plot] of [
    ["weights", USUAL_LABEL, beside > 0 ? 2 * LEAST_PLOT : LEAST_PLOT],
    ["bits", USUAL_LABEL, LEAST_PLOT],
  ] as const) {
    if (rest() - Math.min(wanted, label) < plot) shown = shown.filter((other) => other !== name);
  }
  if (rest() - Math.min(wanted, LEAST_LABEL) < LEAST_BESIDE_SPARK) beside = 0;
  const label = Math.round(Math.max(Math.min(wanted, LEAST_LABEL), Math.min(wanted, rest() - LEAST_PLOT)));
  const plot = { x: label + PAD, y: 0, width: Math.max(40, rest() - label), height: row - 8 };
  const edges = { weights: 0, pruned: 0, bits: 0, nbytes: 0 };
  const room = { x: plot.x + plot.width + GAP, width: beside > 0 ? spark : 0 };
  let edge = plot.x + plot.width + beside;
  for (const name of shown) {
    edge += GAP + numbers[name];
    edges[name] = edge;
  }
  return { row, label, plot, spark: room, ...edges };
}

export const small = (colors: Colors) => `11px ${colors.font}`;
export const normal = (colors: Colors) => `12px ${colors.font}`;

/** Titles of the number columns, and the common threshold. */
export function drawHeader(ctx: CanvasRenderingContext2D, scene: RidgeFrame): void {
  const { columns, colors } = scene;
  const y = HEADER / 2;
  ctx.textBaseline = "middle";
  ctx.font = small(colors);
  ctx.fillStyle = colors.muted;
  ctx.textAlign = "right";
  const titles: [number, string][] = [
    [columns.weights, "weights"],
    [columns.pruned, "pruned"],
    [columns.bits, "bits"],
    [columns.nbytes, "size"],
  ];
  for (const [right, title] of titles) if (right > 0) ctx.fillText(title, right, y);
  if (columns.spark.width > 0) ctx.fillText("sensitivity", columns.spark.x + columns.spark.width, y);
  if (scene.threshold > 0) {
    const { plot } = columns;
    const text = `pruned within ${estimated(scene.exact, `±${weight(scene.threshold)}`)}`;
    const half = ctx.measureText(text).width / 2;
    ctx.textAlign = "center";
    ctx.fillStyle = colors.text;
    ctx.fillText(text, Math.min(plot.x + plot.width / 2, plot.x + plot.width - half), y);
  }
}

/** Fine vertical lines of a shared axis. */
export function drawGuides(ctx: CanvasRenderingContext2D, scene: RidgeFrame, bottom: number): void {
  if (scene.span === 0) return;
  ctx.fillStyle = scene.colors.line;
  ctx.globalAlpha = 0.5;
  const { plot } = scene.columns;
  for (const tick of axisTicks(scene)) {
    const x = plot.x + plot.width / 2 + (tick / scene.span) * (plot.width / 2);
    ctx.fillRect(Math.round(x), HEADER, 1, bottom - HEADER);
  }
  ctx.globalAlpha = 1;
}

/** Ticks of the shared axis: as many on each side as have room for their labels, the same on both. */
export function axisTicks({ span, columns }: Pick<RidgeFrame, "span" | "columns">): number[] {
  const room = columns.plot.width / 2 / span;
  return (
    [3, 2, 1]
      .map((perSide) => mirroredTicks(span, perSide))
      .find(
        (ticks) => 6 * Math.max(...ticks.map((tick) => weight(tick).length)) + 6 <= (ticks[1] - ticks[0]) * room,
      ) ?? [0]
  );
}

/** Ticks of the shared axis, or what stands for them. */
export function drawAxis(ctx: CanvasRenderingContext2D, scene: RidgeFrame, y: number): void {
  const { plot } = scene.columns;
  const { colors } = scene;
  ctx.font = small(colors);
  ctx.fillStyle = colors.muted;
  ctx.textAlign = "center";
  ctx.textBaseline = "middle";
  const middle = plot.x + plot.width / 2;
  if (scene.span === 0) {
    const half = ctx.measureText(scene.axisNote).width / 2; // as wide as it is, it may begin under the names
    ctx.fillText(scene.axisNote, Math.max(half + PAD, Math.min(middle, scene.columns.nbytes - half)), y + AXIS / 2);
    return;
  }
  ctx.textAlign = "right";
  ctx.fillText("weight value", scene.columns.nbytes, y + AXIS / 2);
  ctx.textAlign = "center";
  for (const tick of axisTicks(scene)) {
    ctx.fillText(weight(tick), middle + (tick / scene.span) * (plot.width / 2), y + AXIS / 2);
  }
}
