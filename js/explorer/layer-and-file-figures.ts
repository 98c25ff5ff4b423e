// Questions the explorer asks of figures: a row's numbers, the ranking's threshold, the parts of the file, MACs, whether there is a score.

import { count, share } from "../charts/number-format";
import type { RowFigures } from "../charts/ridge-canvas";
import { denseMacs, layerMacs } from "../core/channel-families-and-counts";
import type { Outcome } from "../core/chart-distribution";
import { decibels, layerTotal } from "../core/estimate";
import { importanceOf } from "../core/importances";
import { layerMatches, overrideOf } from "../core/layer-overrides";
import { sum } from "../core/search-round-and-sum";
import type { Estimate, LayerFigures, LayerSketch, Memory, Override, Plan, Recipe, Sketch } from "../core/types";
import type { Sketching, State } from "./explorer-state";
import type { Score } from "./host-interface";

export function rowFigures(figures: Estimate, plan: Plan, layer: number): RowFigures {
  const { n, itemsize, pending = false } = figures.left.layers[layer];
  return {
    n,
    pruned: 1 - figures.layers.kept[layer] / n,
    bits: plan.keep ? "–" : String(heldBits(plan, itemsize)),
    nbytes: layerTotal(figures.layers, layer),
    keep: plan.keep && !pending,
    own: false,
    pending,
  };
}

/** The bits that a layer's codes have: a tensor of half precision has no 32 to hold. */
export function heldBits(plan: Plan, itemsize: number): number {
  return Math.min(plan.bits, 8 * itemsize);
}

/** How far the kernel is with a sketch: "sketched 120 of 300 layers". */
export function sketchingWords({ done, all }: Sketching): string {
  return `sketched ${count(done)} of ${count(all)} layers`;
}

/** What figures say became of one layer's weights. */
export function outcomeOf(figures: Estimate, layer: number): Outcome {
  const random = /"importance":("random"|\{"kind":"random")/.test(figures.recipe); // in a name the quotes are escaped
  return { kept: figures.layers.kept[layer], threshold: figures.layers.threshold[layer], random };
}

/** Signal to noise of one layer in dB; Infinity where nothing is lost. */
export function layerSqnr(layers: LayerFigures, layer: number): number {
  return decibels(layers.signal[layer], layers.noise[layer]);
}

/** What the recipe says of this very layer, by name or by a pattern; null where it global values. */
export function ownOverride(recipe: Recipe, layer: LayerSketch): Override | null {
  const found = overrideOf(recipe.layers, layer.name)?.[1] ?? null;
  return found !== null && found !== "keep" && Object.keys(found).length === 0 ? null : found;
}

/** The key under which the recipe names this layer alone, and whether a pattern names it too. */
export function namedByPattern(recipe: Recipe, layer: LayerSketch): boolean {
  return recipe.layers.some(([key]) => key !== layer.label && key !== layer.name && layerMatches(key, layer.name));
}

/** The one threshold of all ranked layers; 0 where there is no such thing. */
export function rankedThreshold(plans: readonly Plan[], recipe: Recipe, figures: Estimate): number {
  if (!importanceOf(recipe.importance)?.ranks) return 0;
  const ranked = plans.findIndex((plan) => plan.scope === "global");
  return ranked < 0 ? 0 : figures.layers.threshold[ranked];
}

export interface Part {
  key: "codes" | "mask" | "scales" | "uncompressed" | "header";
  label: string;
  bytes: number;
  title: string;
}

/** What the file is made of. */
export function partsOf(figures: Estimate): Part[] {
  return [
    { key: "codes", label: "codes", bytes: figures.codes, title: "the surviving weights" },
    { key: "mask", label: "mask", bytes: figures.mask, title: "one bit per weight says which survive" },
    { key: "scales", label: "scales", bytes: figures.scales, title: "what turns codes into values: scales, codebooks" },
    {
      key: "uncompressed",
      label: "uncompressed",
      bytes: figures.as_is + figures.uncompressed_bytes,
      title: "tensors that are not compressed",
    },
    { key: "header", label: "header", bytes: figures.header, title: "names, shapes, and the recipe itself" },
  ];
}

/**
 * Multiply-accumulates for an example: all, those that remain if pruned weights are skipped, and whether that is exact;
 * null if unknown.
 */
export function macsOf(
  sketch: Sketch,
  figures: Estimate,
  macs: readonly (number | null)[],
): { dense: number; now: number; exact: boolean } | null {
  const { left, layers } = figures;
  const exact = left.layers.every(({ n }, i) => layers.kept[i] === n) || figures.sized;
  if (sketch.channels && figures.macs != null) {
    const byLayer = layerMacs(sketch.channels, sketch);
    const skipped = left.layers.map(({ n }, i) => (byLayer[i] * (n - layers.kept[i])) / (sketch.layers[i].n || 1));
    return { dense: denseMacs(sketch.channels), now: figures.macs - sum(skipped), exact };
  }
  if (macs.length !== sketch.layers.length) return null;
  const total = (share: (i: number) => number) => macs.reduce<number>((sum, n, i) => sum + (n ?? 0) * share(i), 0);
  return { dense: total(() => 1), now: total((i) => layers.kept[i] / sketch.layers[i].n), exact };
}

/**
 * What a model takes while it runs, and whether that is `exact`: without channels it takes less, and until the kernel has
 * run what is left of the network, all that is known of its activations is that they are at most the dense network's.
 */
export function memoryOf(state: State): Memory & { exact: boolean } {
  const { weights, activations } = state.memory.value;
  const { left, memory } = state.figures.value;
  if (memory) return { ...memory, exact: true };
  const bytesIn = ({ layers, uncompressed }: Sketch) =>
    sum(layers.map((layer) => layer.n * layer.itemsize)) + sum(uncompressed.map(({ nbytes }) => nbytes));
  const gone = left === state.sketch.value ? 0 : bytesIn(state.sketch.value) - bytesIn(left);
  const exact = left === state.sketch.value || activations === null;
  return { weights: weights === null ? null : weights - gone, activations, exact };
}

/** Why activations are not known: whoever gave data waits until they are measured. */
export function unmeasuredWords({ kernel, metric }: State): string {
  if (!metric.value.has_data) return "unknown without data";
  return kernel ? "not measured yet" : "not measured";
}

/**
 * What layers are asked for where it is not the recipe's own value, which is the only one that a control can show:
 * "0–81 % by layer"; "" where all are asked for that value. Layers that are kept as they are ask for nothing.
 */
export function byLayer(plans: readonly Plan[], field: "sparsity" | "bits", own: number): string {
  const values = plans.filter((plan) => !plan.keep).map((plan) => plan[field]);
  if (values.every((value) => value === own)) return "";
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const words = field === "bits" ? String : share;
  const from = least === most ? "" : `${words(least).replace(/\s*%$/, "")}–`;
  return `${from}${words(most)} by layer`;
}

/** The shape of a layer, and what it is without the channels that went: "16 × 1 × 3 × 3 → 8 × 1 × 3 × 3". */
export function shapeWords(layer: LayerSketch, left: LayerSketch, times = " × "): string {
  const dense = layer.shape.join(times);
  return left.n === layer.n ? dense : `${dense} → ${left.shape.join(times)}`;
}

/** The layers of which nothing is left, by name: "fc1: all weights pruned". */
export function deadWords(sketch: Sketch, figures: Estimate): string {
  const dead = sketch.layers.filter((layer, i) => layer.n > 0 && figures.layers.kept[i] < 0.5);
  if (dead.length === 0) return "";
  const names = dead.slice(0, 2).map((layer) => layer.label);
  const more = dead.length > 3 ? ` and ${dead.length - 2} more layers` : "";
  return `${(more ? names : dead.map((layer) => layer.label)).join(", ")}${more}: all weights pruned`;
}

/** How much of so many weights was zero before anything was pruned: "25 % are zero already". */
export function zeroWords(zeros: number, n: number): string {
  return `${zeros < n / 1000 ? count(zeros) : share(zeros / n)} ${zeros === 1 ? "is" : "are"} zero already`;
}

/** Whether there is a number to show: none of an evaluation that failed, has no example yet, or came to no number. */
export function isKnown(score: Score | null): score is Score {
  return score !== null && score.state !== "failed" && score.n > 0 && Number.isFinite(score.value);
}
