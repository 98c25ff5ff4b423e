// Says in words what a sensitivity has measured: of a layer, and of all of them.

import { withoutNoise } from "../charts/number-format";
import { metricValue } from "../charts/score-format";
import type { Metric, Sensitivity } from "./host-interface";

/** "90 %", "4 bits". */
export function amountText(kind: Sensitivity["kind"], amount: number): string {
  if (kind === "sparsity") return `${withoutNoise(100 * amount)}\u00a0%`;
  return `${amount}\u00a0${amount === 1 ? "bit" : "bits"}`;
}

const DONE = { sparsity: "pruned", bits: "quantized" } as const;

/** What a layer's sparkline shows, a line for each amount; why there is none, where there is none. */
export function sensitivityLines(metric: Metric, found: Sensitivity, layer: number): string[] {
  const values = found.layers[layer];
  if (!values) return [found.state === "running" ? "sensitivity: not measured yet" : "sensitivity: not measured"];
  const dense = found.dense === null ? "" : `, ${metricValue(metric, found.dense)} dense`;
  return [
    `${metric.name} with only this layer ${DONE[found.kind]}${dense}:`,
    ...values.map((value, i) => `${amountText(found.kind, found.amounts[i])}: ${metricValue(metric, value)}`),
  ];
}

/** The mean drop of a layer over all amounts, in the metric's unit; "–" where it is not known. */
export function dropText(metric: Metric, { dense, layers }: Sensitivity, layer: number): string {
  const values = layers[layer];
  if (!values || dense === null) return "–";
  const mean = values.reduce((sum, value) => sum + (dense - value), 0) / values.length;
  return metricValue(metric, metric.higher === false ? -mean : mean);
}

/** What is measured, how far it is, and on which examples. */
export function sensitivityWords(metric: Metric, found: Sensitivity, kernel: boolean): string {
  if (found.state === "failed") return found.text;
  const { kind, amounts, pending } = found;
  const measured = found.layers.filter((values) => values !== null).length;
  if (pending === null) return `sensitivity to ${kind}: the dense model comes first`;
  const ends = amounts.length > 1 ? [amounts[0], amounts[amounts.length - 1]] : amounts;
  const range = ends.map((amount) => amountText(kind, amount)).join(" … ");
  const what = `${metric.name}, one layer at a time ${DONE[kind]} to ${range}`;
  const of = pending > 0 ? `${measured} of ${measured + pending} layers, ` : "";
  const stopped = pending > 0 && (found.state === "stopped" || !kernel) ? ", stopped" : "";
  return `${what} · ${of}${found.examples}${stopped}`;
}
