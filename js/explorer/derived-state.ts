// Questions the explorer asks of figures: a row's numbers, the ranking's threshold, the parts of the file, MACs, whether there is a score.

import { count, share } from "../charts/number-format";
import type { RowFigures } from "../charts/ridge-canvas";
import type { Outcome } from "../core/chart-distribution";
import { decibels, layerTotal } from "../core/estimate";
import { layerMatches, overrideOf } from "../core/layer-overrides";
import { tagOf } from "../core/method-settings";
import type { Estimate, LayerFigures, LayerSketch, Override, Plan, Recipe, Sketch } from "../core/types";
import type { Score } from "./host-interface";

export function rowFigures(sketch: Sketch, figures: Estimate, plan: Plan, layer: number): RowFigures {
  const { n } = sketch.layers[layer];
  return {
    n,
    pruned: 1 - figures.layers.kept[layer] / n,
    bits: plan.keep ? "–" : String(plan.bits),
    nbytes: layerTotal(figures.layers, layer),
    keep: plan.keep,
    own: false,
  };
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
  if (tagOf(recipe.importance) !== "magnitude") return 0;
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

/** Multiply-accumulates for an example: all, and those that remain if pruned weights are skipped; null if unknown. */
export function macsOf(
  sketch: Sketch,
  figures: Estimate,
  macs: readonly (number | null)[],
): { dense: number; now: number } | null {
  if (macs.length !== sketch.layers.length) return null;
  const total = (share: (i: number) => number) => macs.reduce<number>((sum, n, i) => sum + (n ?? 0) * share(i), 0);
  return { dense: total(() => 1), now: total((i) => figures.layers.kept[i] / sketch.layers[i].n) };
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
