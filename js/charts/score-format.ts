// Scores as people read them, in the unit and the direction of their metric.

import { count, percent } from "./number-format";

export interface Metric {
  name: string;
  /** Whether more is better; null where nobody has said. */
  higher: boolean | null;
  /** Whether it is a share, 0…1. */
  percent: boolean;
}

/** The ends of a 95 % interval; null where too few examples can tell them. */
export interface Interval {
  low: number | null;
  high: number | null;
}

/** A score's value in the metric's own unit. */
export function metricValue(metric: Metric, value: number): string {
  return metric.percent ? percent(value, 1) : String(Number(value.toPrecision(4)));
}

/** A round value on an axis: "95 %", not "95.0 %", and 1.05 as it is. */
export function metricTick(metric: Metric, value: number): string {
  return metricValue(metric, value).replace(/\.0(?=\D)/, "");
}

/** An interval as it was computed, from its lower to its upper end: "98.4–100.0 %"; nothing where there is none. */
export function intervalText(metric: Metric, { low, high }: Interval): string {
  if (low === null || high === null || !Number.isFinite(high - low)) return "";
  if (metric.percent) return `${(100 * low).toFixed(1)}–${percent(high, 1)}`;
  return `${metricValue(metric, low)}${low < 0 || high < 0 ? " to " : "–"}${metricValue(metric, high)}`;
}

/** Which way is better, in words. */
export function directionWords({ higher }: Metric): string {
  if (higher === null) return "which way is better is not known";
  return higher ? "higher is better" : "lower is better";
}

/** "97.2 %, 95.1–98.4 % with 95 % confidence, 360 examples": a score said in full, for tips and for screen readers. */
export function scoreWords(metric: Metric, score: Interval & { value: number; n: number }): string {
  const interval = intervalText(metric, score);
  const sure = interval && `, 95${"\u00a0"}% interval ${interval}`;
  return `${metricValue(metric, score.value)}${sure}, ${count(score.n)} examples`;
}

/** A prediction held against the score: "you said 80 %, it is 41.9 %: 38.1 points off"; null while there is no score. */
export function predictionWords(
  metric: Metric,
  predicted: number,
  score: (Interval & { value: number; state?: string }) | null,
): string {
  const said = `you said ${metricTick(metric, predicted)}`;
  if (!score || score.state === "running")
    return score ? `${said}, it is ${metricValue(metric, score.value)} so far` : said;
  const off = Math.abs(predicted - score.value);
  const by = metric.percent ? `${(100 * off).toFixed(1)} points` : metricValue(metric, off);
  const inside = score.low !== null && score.high !== null && predicted >= score.low && predicted <= score.high;
  const sure = inside ? `, inside the 95${"\u00a0"}% interval` : "";
  return `${said}, it is ${metricValue(metric, score.value)}: ${by} off${sure}`;
}

/** Whether a score holds what the dense model reaches: no worse than the interval of its score. */
export function holdsUp(metric: Metric, value: number, dense: (Interval & { value: number }) | null): boolean {
  if (!dense || metric.higher === null) return false;
  const worst = (metric.higher ? dense.low : dense.high) ?? dense.value;
  return metric.higher ? value >= worst : value <= worst;
}
