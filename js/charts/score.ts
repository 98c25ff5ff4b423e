// Scores as people read them, in the unit of their metric.

import { percent } from "./format";

export interface Metric {
  name: string;
  /** Whether more is better. */
  higher: boolean;
  /** Whether it is a share, 0…1. */
  percent: boolean;
}

/** A score's value in the metric's own unit. */
export function metricValue(metric: Metric, value: number): string {
  return metric.percent ? percent(value, 1) : String(Number(value.toPrecision(4)));
}

/** A round value on an axis: "95 %", not "95.0 %", and 1.05 as it is. */
export function metricTick(metric: Metric, value: number): string {
  return metricValue(metric, value).replace(/\.0(?=\D)/, "");
}

/** Half the width of an interval: "± 0.6"; nothing where there is none. */
export function plusMinus(metric: Metric, { low, high }: { low: number | null; high: number | null }): string {
  if (low === null || high === null || !Number.isFinite(high - low)) return "";
  const half = (high - low) / 2;
  return `± ${metric.percent ? (100 * half).toFixed(1) : Number(half.toPrecision(2))}`;
}
