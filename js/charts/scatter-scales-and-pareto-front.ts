// Places the points of a scatter of score against bytes: domains, ticks, the front, and labels clear of points.

import { linearTicks, logTicks } from "./ticks-and-size-marks";

export interface Trial {
  nbytes: number;
  value: number;
}

export interface Frame {
  width: number;
  height: number;
  left: number;
  right: number;
  top: number;
  bottom: number;
}

export interface Scales {
  x(nbytes: number): number;
  y(value: number): number;
  xTicks: number[];
  yTicks: number[];
}

/**
 * The bytes an axis covers: from well below the smallest trial to the dense size, at least a factor of thirty, so that it
 * stays put while recipes come and go.
 */
export function byteDomain(trials: readonly Trial[], dense: number): [number, number] {
  const least = Math.min(dense / 30, ...trials.map((trial) => trial.nbytes));
  // Half decades: the axis moves rarely while points come and go.
  const step = 10 ** (Math.floor(2 * Math.log10(least / 1.15)) / 2);
  return [step, Math.max(dense, ...trials.map((trial) => trial.nbytes)) * 1.18];
}

/** Where an axis of shares may begin: coarse steps, so that it rarely moves. */
const SHARE_STARTS = [0.95, 0.9, 0.75, 0.5, 0.25];

/** The values an axis covers: for shares up to 1, from the first round value below all; else what they span, and a little more. */
export function valueDomain(trials: readonly Trial[], baseline: number | null, isShare: boolean): [number, number] {
  const values = trials.map((trial) => trial.value).filter(Number.isFinite);
  if (baseline !== null && Number.isFinite(baseline)) values.push(baseline);
  if (values.length === 0) return [0, 1];
  if (isShare) return [SHARE_STARTS.find((start) => start < Math.min(...values) - 0.03) ?? 0, 1];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = 0.08 * (high - low || Math.abs(high) || 1);
  return [low - margin, high + margin];
}

export function scatterScales(frame: Frame, xs: [number, number], ys: [number, number]): Scales {
  const [fromX, toX] = xs.map(Math.log);
  const plotWidth = frame.width - frame.left - frame.right;
  const plotHeight = frame.height - frame.top - frame.bottom;
  return {
    x: (nbytes) => frame.left + ((Math.log(nbytes) - fromX) / (toX - fromX)) * plotWidth,
    y: (value) => frame.top + ((ys[1] - value) / (ys[1] - ys[0])) * plotHeight,
    xTicks: logTicks(xs[0], xs[1], Math.floor(plotWidth / 62)),
    yTicks: linearTicks(ys[0], ys[1], Math.max(2, Math.floor(plotHeight / 34))),
  };
}

/** The trials no other beats in both size and score, from small to large. */
export function paretoFront<T extends Trial>(trials: readonly T[], higherIsBetter: boolean): T[] {
  const sign = higherIsBetter ? 1 : -1;
  const best: T[] = [];
  // By size, and of equal sizes the best first: then a trial is on the front if it beats the last one that is.
  for (const trial of [...trials].sort((a, b) => a.nbytes - b.nbytes || sign * (b.value - a.value))) {
    const last = best.at(-1);
    if (!last || sign * trial.value > sign * last.value) best.push(trial);
  }
  return best;
}
