// Places the lines of a training: values over epochs, on axes that stay put while a line grows.

import type { Frame } from "./scatter-scales-and-pareto-front";
import { linearTicks, niceBelow, wholeTicks } from "./ticks-and-size-marks";

export interface Series {
  readonly x: readonly number[];
  /** Null where there is no value. */
  readonly y: readonly (number | null)[];
}

export interface LineScales {
  x(value: number): number;
  y(value: number): number;
  xTicks: number[];
  yTicks: number[];
}

/** Scales of a chart whose x axis has whole numbers, such as epochs. */
export function lineScales(frame: Frame, xs: [number, number], ys: [number, number], log = false): LineScales {
  const width = frame.width - frame.left - frame.right;
  const height = frame.height - frame.top - frame.bottom;
  const at = log ? Math.log10 : (value: number) => value;
  const [low, high] = ys.map(at);
  return {
    x: (value) => frame.left + ((value - xs[0]) / (xs[1] - xs[0] || 1)) * width,
    y: (value) => frame.top + ((high - at(value)) / (high - low || 1)) * height,
    xTicks: wholeTicks(xs[0], xs[1], Math.max(2, Math.floor(width / 70))),
    yTicks: log ? decades(low, high) : linearTicks(ys[0], ys[1], Math.max(2, Math.floor(height / 32))),
  };
}

function decades(low: number, high: number): number[] {
  const first = Math.ceil(low - 1e-9);
  return Array.from({ length: Math.floor(high + 1e-9) - first + 1 }, (_, i) => 10 ** (first + i));
}

export interface Scored {
  value: number;
  low: number | null;
  high: number | null;
}

/** Fewer examples than this an axis of shares never tells apart: between two of its ends there is room for chance. */
const FEWEST = 10;
/** Where an axis of shares may begin: coarse steps, so that it rarely moves. */
const SHARE_STARTS = [0.95, 0.9, 0.75, 0.5, 0.25];

/**
 * An axis for the scores of a training: it holds every value with its interval, and is never finer than a few examples.
 * `n` is how many examples were scored; shares end at 1.
 */
export function scoreDomain(scores: readonly Scored[], n: number, isShare: boolean): [number, number] {
  const known = scores.filter((score) => Number.isFinite(score.value));
  if (known.length === 0) return [0, 1];
  const low = Math.min(...known.map((score) => Math.min(score.value, score.low ?? score.value)));
  const high = Math.max(...known.map((score) => Math.max(score.value, score.high ?? score.value)));
  if (isShare) {
    const values = Math.min(...known.map((score) => score.value));
    const fits = (start: number) => start <= low && start < values - 0.03 && 1 - start >= FEWEST / Math.max(1, n);
    return [SHARE_STARTS.find(fits) ?? 0, 1];
  }
  const margin = 0.08 * (high - low || Math.abs(high) || 1);
  return [low - margin, high + margin];
}

/** An axis for losses: from zero to a round number above all of them, so that it seldom changes. */
export function lossDomain(...series: (readonly (number | null)[])[]): [number, number] {
  const most = Math.max(0, ...series.flat().filter((y): y is number => y !== null && Number.isFinite(y)));
  const step = niceBelow(most / 2);
  return [0, most > 0 ? step * Math.ceil(most / step - 1e-9) : 1];
}

/** An axis for rates, in whole decades. */
export function rateDomain(rates: readonly (number | null)[]): [number, number] {
  const found = rates.filter((rate): rate is number => rate !== null && rate > 0).map(Math.log10);
  if (found.length === 0) return [0.001, 1];
  const low = Math.floor(Math.min(...found) + 1e-9);
  return [10 ** low, 10 ** Math.max(low + 1, Math.ceil(Math.max(...found) - 1e-9))];
}

/** The path through a series, interrupted where it has no value; `steps`: a value holds from the one before to its own place. */
export function linePath({ x, y }: Series, scales: Pick<LineScales, "x" | "y">, steps = false): string {
  let path = "";
  let command = "M"; // move to the first place after a gap, then lines
  x.forEach((value, i) => {
    const height = y[i] === null ? Number.NaN : scales.y(y[i]);
    if (!Number.isFinite(height)) {
      command = "M";
      return;
    }
    const place = [scales.x(value), height].map((pixel) => pixel.toFixed(1));
    path += command === "L" && steps ? `V${place[1]}H${place[0]}` : `${command}${place.join(" ")}`;
    command = "L";
  });
  return path;
}

/** The band between two series of one length, where both have values. */
export function bandPath(x: readonly number[], low: Series["y"], high: Series["y"], scales: LineScales): string {
  const known = x.map((_, i) => i).filter((i) => low[i] !== null && high[i] !== null);
  if (known.length === 1) {
    const [i] = known; // one interval is a line
    return `M${scales.x(x[i]).toFixed(1)} ${scales.y(low[i] as number).toFixed(1)}V${scales.y(high[i] as number).toFixed(1)}`;
  }
  if (known.length === 0) return "";
  const line = (side: Series["y"], indices: number[]) =>
    indices.map((i) => `${scales.x(x[i]).toFixed(1)} ${scales.y(side[i] as number).toFixed(1)}`).join("L");
  return `M${line(high, known)}L${line(low, [...known].reverse())}Z`;
}

/** The index of the entry of `x`, ascending, that is nearest to a value; -1 if there is none. */
export function nearestIndex(x: readonly number[], value: number): number {
  let best = -1;
  x.forEach((candidate, i) => {
    if (best < 0 || Math.abs(candidate - value) < Math.abs(x[best] - value)) best = i;
  });
  return best;
}
