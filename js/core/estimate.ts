// The estimate: what a recipe would make of a model, from its sketch alone; the twin of shrinkwidget/analysis/estimate.py.

import { roundHalfEven, sum } from "./array-search";
import { importanceOf, pruningOutcome } from "./importances";
import { layerNames } from "./layer-overrides";
import { countBytes, headerBytes, layerBytes, uncompressedBytes } from "./packed-file-size";
import { type Cut, cutAt, mergedRanking, type PruningOutcome, type Ranking } from "./pruning-estimate";
import { noiseOf } from "./quantization-error";
import { quoteName } from "./quote-name";
import { plansOf, RecipeError, recipeJson, resolve } from "./recipe";
import { exactOnly } from "./recipes-without-estimate";
import type { Estimate, Figures, LayerFigures, LayerSketch, Plan, Recipe, Sketch, Totals } from "./types";

/** Bits for which `Estimator.layerSqnr` answers. */
export const CODED_BITS = [1, 2, 3, 4, 5, 6, 7, 8] as const;

const COLUMNS = ["kept", "threshold", "signal", "noise", "codes", "mask", "scales", "as_is"] as const;
type Columns = Record<(typeof COLUMNS)[number], Float64Array>;

/** Estimates recipes for one sketch; keeps what recurs from one move of a slider to the next. */
export class Estimator {
  readonly #names: readonly string[];
  #ranked = "";
  #ranking: Ranking | null = null;

  constructor(readonly sketch: Sketch) {
    this.#names = layerNames(sketch);
  }

  /**
   * What the recipe would make of the model; throws a RecipeError if an override matches no layer, and for what has no
   * estimate.
   */
  estimate(recipe: Recipe): Estimate {
    const { layers, patterns } = this.sketch;
    const plans = resolve(recipe, this.#names);
    const unknown = exactOnly(this.sketch, recipe, plans);
    if (unknown)
      throw new RecipeError(`${quoteName(unknown)} has no estimate: only the kernel can count what it makes`);
    const shared = this.#sharedCut(recipe, plans);
    const importance = importanceOf(recipe.importance);
    const columns = emptyColumns(layers.length);
    layers.forEach((layer, i) => {
      const fate = pruningOutcome(importance, layer, plans[i], shared, patterns);
      fill(columns, i, layer, plans[i], fate, noiseOf(this.sketch, layer, plans[i], fate));
    });
    return this.#assembled(recipe, plans, columns);
  }

  /** What becomes of one layer's weights: which survive, and by what rule. */
  fate(recipe: Recipe, index: number): PruningOutcome {
    const plans = resolve(recipe, this.#names);
    const shared = this.#sharedCut(recipe, plans);
    const importance = importanceOf(recipe.importance);
    return pruningOutcome(importance, this.sketch.layers[index], plans[index], shared, this.sketch.patterns);
  }

  /** The SQNR in dB of one layer as the recipe prunes it, if its weights had 1, 2, … 8 bits. */
  layerSqnr(recipe: Recipe, index: number): Float64Array {
    const layer = this.sketch.layers[index];
    const plan = plansOf(recipe, this.#names)[index];
    const fate = this.fate(recipe, index);
    const noises = CODED_BITS.map((bits) => noiseOf(this.sketch, layer, { ...plan, keep: false, bits }, fate));
    return Float64Array.from(noises, (noise) => decibels(layer.energy, noise));
  }

  /** The cut of all ranked layers together; their ranking stays as long as the same layers take part. */
  #sharedCut(recipe: Recipe, plans: readonly Plan[]): Cut | null {
    if (!importanceOf(recipe.importance)?.ranks) return null;
    const who = plans.map((plan) => (plan.scope === "global" ? "1" : "0")).join("");
    if (who !== this.#ranked || !this.#ranking) {
      this.#ranked = who;
      this.#ranking = mergedRanking(this.sketch.layers.filter((_, i) => plans[i].scope === "global"));
    }
    return cutAt(this.#ranking, roundHalfEven(recipe.sparsity * (this.#ranking.countTo.at(-1) ?? 0)));
  }

  #assembled(recipe: Recipe, plans: readonly Plan[], columns: Columns): Estimate {
    const { sketch } = this;
    const text = recipeJson(recipe);
    const uncompressed = uncompressedBytes(sketch.uncompressed, recipe.uncompressed_bits);
    const header = headerBytes(text, sketch.structure, {
      counts: sum(sketch.layers.map((layer, i) => (plans[i].keep ? 0 : countBytes(layer.n)))),
      codes: sum(columns.codes),
      mask: sum(columns.mask),
      scales: sum(columns.scales),
      rest: uncompressed + sum(columns.as_is),
    });
    const all = {
      recipe: text,
      exact: false,
      uncompressed_bytes: uncompressed,
      header,
      original_nbytes: sketch.original_nbytes,
      nbytes_entropy_coded: null,
    };
    const figures: Figures = { ...all, layers: columns };
    return { ...figures, ...totals(figures, sketch) };
  }
}

function emptyColumns(length: number): Columns {
  return Object.fromEntries(COLUMNS.map((name) => [name, new Float64Array(length)])) as Columns;
}

function fill(columns: Columns, i: number, layer: LayerSketch, plan: Plan, fate: PruningOutcome, noise: number): void {
  const bytes = layerBytes(layer, plan, fate.kept);
  columns.kept[i] = fate.kept;
  columns.threshold[i] = fate.cut?.threshold ?? 0;
  columns.signal[i] = layer.energy;
  columns.noise[i] = noise;
  columns.codes[i] = bytes.codes;
  columns.mask[i] = bytes.mask;
  columns.scales[i] = bytes.scales;
  columns.as_is[i] = bytes.as_is;
}

/** What follows from figures, the browser's or the kernel's: bytes in all, ratio, SQNR, sparsity. */
export function totals(figures: Figures, sketch: Sketch): Totals {
  const { layers } = figures;
  const [codes, mask, scales, as_is] = [layers.codes, layers.mask, layers.scales, layers.as_is].map(sum);
  const nbytes = codes + mask + scales + as_is + figures.uncompressed_bytes + figures.header;
  const kept = sum(layers.kept);
  const sqnr = decibels(sum(layers.signal), sum(layers.noise));
  const sparsity = 1 - kept / sum(sketch.layers.map((layer) => layer.n));
  return { nbytes, ratio: figures.original_nbytes / nbytes, sqnr, sparsity, kept, codes, mask, scales, as_is };
}

/** Bytes of one layer in the file, without its share of the header. */
export function layerTotal(layers: LayerFigures, i: number): number {
  return layers.codes[i] + layers.mask[i] + layers.scales[i] + layers.as_is[i];
}

/** 10·log₁₀(signal / noise); Infinity without noise. */
export function decibels(signal: number, noise: number): number {
  return noise > 0 && signal > 0 ? 10 * Math.log10(signal / noise) : Number.POSITIVE_INFINITY;
}
