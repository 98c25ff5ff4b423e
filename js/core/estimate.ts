// The estimate: what a recipe would make of a model, from its sketch alone; the twin of shrinkwidget/analysis/estimate_from_sketch.py.

import { ChannelPruning, type Narrowed } from "./channel-families-and-counts";
import { importanceOf, pruningOutcome } from "./importances";
import { layerNames } from "./layer-overrides";
import { countBytes, headerBytes, layerBytes, uncompressedBytes } from "./packed-file-size";
import { noiseOf } from "./pruning-and-rounding-noise";
import { type Cut, cutAt, mergedRanking, type PruningOutcome, type Ranking } from "./pruning-estimate";
import { quoteName } from "./quote-name";
import { DEFAULTS, plansOf, RecipeError, recipeJson, resolve, sketchedPlans } from "./recipe";
import { exactOnly } from "./recipes-without-estimate";
import { roundHalfEven, sum } from "./search-round-and-sum";
import type { Estimate, Figures, LayerFigures, LayerSketch, Plan, Recipe, Sketch, Totals } from "./types";

/** Bits for which `Estimator.layerSqnr` answers. */
export const CODED_BITS = [1, 2, 3, 4, 5, 6, 7, 8] as const;

const COLUMNS = ["kept", "threshold", "signal", "noise", "codes", "mask", "scales", "as_is"] as const;
type Columns = Record<(typeof COLUMNS)[number], Float64Array>;

/** Estimates recipes for one sketch; keeps what recurs from one move of a slider to the next. */
export class Estimator {
  readonly #names: readonly string[];
  readonly #pruning: ChannelPruning;
  #ranked = "";
  #narrow: Sketch | null = null;
  #ranking: Ranking | null = null;

  constructor(readonly sketch: Sketch) {
    this.#names = layerNames(sketch);
    this.#pruning = new ChannelPruning(sketch);
  }

  /** The sketch without the channels that a recipe removes, and what can be counted of it. */
  narrowed(recipe: Recipe): Narrowed {
    return this.#pruning.narrowed(this.#pruning.widths(recipe));
  }

  /** Figures that the kernel has counted, with what follows from them. */
  counted(figures: Figures): Estimate {
    const { sketch: left, widths, macs } = this.#pruning.narrowed(figures.widths ?? this.#pruning.widths(DEFAULTS));
    return { ...figures, ...totals(figures, left), widths, macs, left, exact: true, sized: true };
  }

  /**
   * What the recipe would make of the model; throws a RecipeError if an override matches no layer, and for what has no
   * estimate.
   */
  estimate(recipe: Recipe): Estimate {
    const plans = this.#resolved(recipe);
    const unknown = exactOnly(this.sketch, recipe, plans);
    if (unknown)
      throw new RecipeError(`${quoteName(unknown)} has no estimate: only the kernel can count what it makes`);
    const narrowed = this.narrowed(recipe);
    const { layers, patterns } = narrowed.sketch;
    const shared = this.#sharedCut(recipe, plans, narrowed.sketch);
    const importance = importanceOf(recipe.importance);
    const columns = emptyColumns(layers.length);
    let sized = narrowed.sized;
    layers.forEach((layer, i) => {
      const fate = pruningOutcome(importance, layer, plans[i], shared, patterns);
      fill(columns, i, layer, plans[i], fate, noiseOf(narrowed.sketch, layer, plans[i], fate));
      sized &&= isSized(this.sketch.layers[i], layer, plans[i], recipe);
    });
    return this.#assembled(recipe, plans, columns, narrowed, sized);
  }

  /** What becomes of one layer's weights: which survive, and by what rule. */
  fate(recipe: Recipe, index: number): PruningOutcome {
    const plans = this.#resolved(recipe);
    const { sketch } = this.narrowed(recipe);
    const shared = this.#sharedCut(recipe, plans, sketch);
    const importance = importanceOf(recipe.importance);
    return pruningOutcome(importance, sketch.layers[index], plans[index], shared, sketch.patterns);
  }

  /** The SQNR in dB of one layer as the recipe prunes it, if its weights had 1, 2, … 8 bits. */
  layerSqnr(recipe: Recipe, index: number): Float64Array {
    const { sketch } = this.narrowed(recipe);
    const layer = sketch.layers[index];
    const plan = plansOf(recipe, this.#names)[index];
    const fate = this.fate(recipe, index);
    const noises = CODED_BITS.map((bits) => noiseOf(sketch, layer, { ...plan, keep: false, bits }, fate));
    return Float64Array.from(noises, (noise) => decibels(layer.energy, noise));
  }

  #resolved(recipe: Recipe): readonly Plan[] {
    return sketchedPlans(resolve(recipe, this.#names), this.sketch);
  }

  /** The cut of all ranked layers together; their ranking stays as long as the same layers take part, as wide as they are. */
  #sharedCut(recipe: Recipe, plans: readonly Plan[], narrow: Sketch): Cut | null {
    if (!importanceOf(recipe.importance)?.ranks) return null;
    const who = plans.map((plan) => (plan.scope === "global" ? "1" : "0")).join("");
    const layers = narrow.layers.filter((_, i) => plans[i].scope === "global");
    const k = roundHalfEven(recipe.sparsity * sum(layers.map((layer) => layer.n)));
    if (k === 0) return null;
    if (who !== this.#ranked || narrow !== this.#narrow || !this.#ranking) {
      this.#ranked = who;
      this.#narrow = narrow;
      this.#ranking = mergedRanking(layers);
    }
    return cutAt(this.#ranking, k);
  }

  #assembled(
    recipe: Recipe,
    plans: readonly Plan[],
    columns: Columns,
    { sketch, widths, macs }: Narrowed,
    sized: boolean,
  ): Estimate {
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
    const figures: Figures = { ...all, widths, macs, layers: columns };
    return { ...figures, ...totals(figures, sketch), left: sketch, sized };
  }
}

/**
 * Whether the number of weights that survive of a layer follows from its size alone: no ranking with others and no zero
 * that is there has a say. Then its bytes are exact as well.
 */
function isSized(dense: LayerSketch, layer: LayerSketch, plan: Plan, recipe: Recipe): boolean {
  if (plan.keep) return true;
  if (plan.scope === "global" && recipe.sparsity > 0) return false;
  return dense.zeros === 0 || (layer === dense && plan.structure === "unstructured" && plan.sparsity === 0);
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

/** What follows from figures, the browser's or the kernel's, of a sketch without the channels that went: bytes in all, … */
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
