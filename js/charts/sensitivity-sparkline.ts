// One layer's sensitivity as a small line: the score with only this layer pruned or quantized, from mild to severe.

import type { Box } from "./fit-and-place-labels";
import type { Colors } from "./theme";

/** What all sparklines of a ridge share: one scale, so that rows compare. */
export interface SparklineScale {
  /** The dense model's score, drawn as a line in every row; null before it is known. */
  dense: number | null;
  low: number;
  high: number;
}

const INSET = 4;

/** The scale of so many layers' scores and the dense one; no flatter than a tenth of a share, or noise would look like much. */
export function sparklineScale(
  layers: readonly (readonly number[] | null)[],
  dense: number | null,
  percent: boolean,
): SparklineScale {
  const all = [...layers.flatMap((values) => values ?? []), ...(dense === null ? [] : [dense])].filter(Number.isFinite);
  if (all.length === 0) return { dense, low: 0, high: 1 };
  const high = Math.max(...all);
  return { dense, low: Math.min(...all, percent ? high - 0.1 : high), high };
}

/** Places of the values within a box, left to right; values that are no numbers have none. */
export function sparklinePoints(
  values: readonly number[],
  { low, high }: SparklineScale,
  box: Box,
): [number, number][] {
  const step = values.length > 1 ? (box.width - 2 * INSET) / (values.length - 1) : 0;
  const [top, height] = [box.y + INSET, box.height - 2 * INSET];
  return values
    .map((value, i): [number, number] => [
      box.x + INSET + i * step,
      top + (high > low ? ((high - value) / (high - low)) * height : 0),
    ])
    .filter(([, y]) => Number.isFinite(y));
}

/** Where among the amounts a layer stands now, as an index between two of them; null outside of all. */
export function placeAmong(amounts: readonly number[], now: number): number | null {
  for (let i = 0; i + 1 < amounts.length; i++) {
    const [a, b] = [amounts[i], amounts[i + 1]];
    if (Math.min(a, b) <= now && now <= Math.max(a, b)) return i + (now - a) / (b - a);
  }
  return null;
}

/** Draw one row; `now` is where the layer stands among the amounts. */
export function drawSparkline(
  ctx: CanvasRenderingContext2D,
  values: readonly number[] | null,
  scale: SparklineScale,
  box: Box,
  now: number | null,
  colors: Colors,
): void {
  if (scale.dense !== null) {
    const [[, y]] = sparklinePoints([scale.dense], scale, box);
    ctx.fillStyle = colors.line;
    ctx.fillRect(box.x, Math.round(y), box.width, 1);
  }
  const points = values ? sparklinePoints(values, scale, box) : [];
  if (points.length === 0) return;
  ctx.strokeStyle = ctx.fillStyle = colors.accuracy;
  ctx.lineWidth = 1.5;
  ctx.lineJoin = "round";
  ctx.beginPath();
  for (const [i, [x, y]] of points.entries()) {
    if (i === 0) ctx.moveTo(x, y);
    else ctx.lineTo(x, y);
  }
  ctx.stroke();
  if (now === null && points.length > 1) return;
  const [x, y] = now === null ? points[0] : between(points, now);
  ctx.beginPath();
  ctx.arc(x, y, 2.6, 0, 2 * Math.PI);
  ctx.fill();
}

function between(points: readonly [number, number][], place: number): [number, number] {
  const i = Math.min(points.length - 1, Math.floor(place));
  const [[x0, y0], [x1, y1]] = [points[i], points[Math.min(points.length - 1, i + 1)]];
  return [x0 + (place - i) * (x1 - x0), y0 + (place - i) * (y1 - y0)];
}
