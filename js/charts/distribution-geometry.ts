// Turns one layer of a sketch and its plan into a picture of its distribution, before and after.
// The twin of shrinkwidget/figures/distribution_geometry.py; tests/vectors holds the two together.

import { effective, levels, type Outcome, original, survivors } from "../core/chart-distribution";
import { quantizerOf } from "../core/quantizers";
import type { LayerSketch, Plan, Sketch } from "../core/types";
import type { DistributionPlot } from "./distribution-canvas";

/** Least width of a bin of an outline in pixels, and of the gap between two levels drawn one by one. */
const BIN_PIXELS = 3;
const LEVEL_PIXELS = 4;

/**
 * How many bins an axis from -span to span gets, an odd number, so that zero is in the middle of one. They are three
 * quarters as wide as Scott's (1979), 3.49·σ·n^(-1/3): few weights make a noisy histogram of many bins.
 */
export function binCount(n: number, sigma: number, span: number, pixels: number): number {
  const scott = sigma > 0 ? (2 * span) / (2.6 * sigma * n ** (-1 / 3)) : 1;
  const wanted = Math.min(Math.floor(pixels / BIN_PIXELS), Math.round(Math.max(scott, 2.2 * n ** (1 / 3))));
  return Math.max(9, wanted - 1 + (wanted % 2));
}

/** `bins` equal bins from -span to span, as their edges. */
export function binEdges(span: number, bins: number): Float64Array {
  return Float64Array.from({ length: bins + 1 }, (_, i) => span * ((2 * i) / bins - 1));
}

/** A height that shows the body of a histogram: a bin counts for at most 1.7 times its neighbours two bins away. */
export function bodyHeight(counts: ArrayLike<number>): number {
  let top = 0;
  for (let i = 0; i < counts.length; i++) {
    const around = Math.max(counts[i - 2] ?? 0, counts[i + 2] ?? 0);
    top = Math.max(top, Math.min(counts[i], 1.7 * around));
  }
  return 1.06 * top || 1;
}

/**
 * How much to lower bars that stand for several bins each, so that they meet the outline they came from: the share of
 * them that lies below it.
 */
export function combFactor(bars: ArrayLike<number>, survivors: ArrayLike<number>): number {
  let [below, all] = [0, 0];
  for (let i = 0; i < bars.length; i++) {
    below += Math.min(bars[i], survivors[i]);
    all += bars[i];
  }
  return all > 0 ? below / all : 1;
}

/** The magnitude below which a share of the layer's weights lies. */
export function quantile(layer: LayerSketch, share: number): number {
  const { countTo, hi } = layer.magnitudes;
  const rank = share * layer.n;
  let [low, high] = [0, hi.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (countTo[middle + 1] < rank) low = middle + 1;
    else high = middle;
  }
  return hi[low] ?? layer.absmax;
}

/** A shared axis that suits the typical layer; a much wider one runs over its ends. */
export function sharedSpan(layers: readonly LayerSketch[]): number {
  // 99.7 % of a normal distribution lie within 3 σ: single outliers do not widen the axis for all.
  const known = layers.filter((layer) => !layer.pending);
  const spans = known.map((layer) => Math.min(layer.absmax, 1.08 * quantile(layer, 0.997))).sort((a, b) => a - b);
  return 1.15 * spans[spans.length >> 1] || 1;
}

/** What no recipe changes of a picture. */
export interface Outline extends Pick<DistributionPlot, "span" | "edges" | "outline" | "top"> {
  /** Width of the axis. */
  pixels: number;
}

/** A layer's original distribution on an axis from -span to span that is `pixels` wide. */
export function outlineOf(layer: LayerSketch, span: number, pixels: number): Outline {
  const edges = binEdges(span, binCount(layer.n, Math.sqrt(layer.energy / layer.n), span, pixels));
  const outline = original(layer, edges);
  return { span, pixels, edges, outline, top: bodyHeight(outline) };
}

/** The picture of what a plan makes of a layer, over its outline; of one without some channels, over that of all of it. */
export function distributionPlot(
  sketch: Sketch,
  layer: LayerSketch,
  plan: Plan,
  outcome: Outcome,
  { span, pixels, edges, outline, top }: Outline,
): DistributionPlot {
  const left = survivors(sketch, layer, plan, outcome, edges);
  const values = levels(sketch, layer, plan, outcome);
  const oneGrid = !plan.keep && plan.bits <= 8 && quantizerOf(plan).oneGrid(plan);
  const apart = (values[1] - values[0]) * (pixels / (2 * span)) >= LEVEL_PIXELS;
  const bars =
    oneGrid && apart
      ? levelBars(sketch, layer, plan, outcome, values, edges[1] - edges[0])
      : binBars(effective(sketch, layer, plan, outcome, edges), left, edges);
  return {
    span,
    edges,
    outline,
    survivors: left,
    ...bars,
    levels: values,
    threshold: plan.keep ? 0 : outcome.threshold,
    top,
  };
}

/** The picture of a layer of which a sketch cannot tell what becomes: as it was, and nothing over it; `unknown` says why. */
export function bareOutline({ span, edges, outline, top }: Outline, unknown: string): DistributionPlot {
  const none = new Float64Array();
  const bars = { barAt: none, barHeight: none, barWidth: edges[1] - edges[0] };
  return { span, edges, outline, survivors: outline, ...bars, levels: none, threshold: 0, top, unknown };
}

type PictureBars = Pick<DistributionPlot, "barAt" | "barHeight" | "barWidth">;

/** A bar for each level, as high as its weights would be over the bins of its cell. */
function levelBars(
  sketch: Sketch,
  layer: LayerSketch,
  plan: Plan,
  outcome: Outcome,
  values: Float64Array,
  binWidth: number,
): PictureBars {
  const cells = cellEdges(values);
  const barHeight = effective(sketch, layer, plan, outcome, cells);
  for (let i = 0; i < barHeight.length; i++) barHeight[i] *= binWidth / (cells[i + 1] - cells[i]);
  return { barAt: values, barHeight, barWidth: leastGap(values) / 2 };
}

/** Boundaries half-way between neighbouring values; the outer cells are as wide to the outside as to the inside. */
export function cellEdges(values: Float64Array): Float64Array {
  const last = values.length - 1;
  const edges = new Float64Array(values.length + 1);
  for (let i = 1; i <= last; i++) edges[i] = (values[i - 1] + values[i]) / 2;
  edges[0] = 2 * values[0] - edges[1];
  edges[last + 1] = 2 * values[last] - edges[last];
  return edges;
}

function leastGap(values: Float64Array): number {
  let gap = Number.POSITIVE_INFINITY;
  for (let i = 1; i < values.length; i++) gap = Math.min(gap, values[i] - values[i - 1]);
  return gap;
}

function binBars(counts: Float64Array, left: Float64Array, edges: Float64Array): PictureBars {
  const factor = combFactor(counts, left);
  return {
    barAt: Float64Array.from(counts, (_, i) => (edges[i] + edges[i + 1]) / 2),
    barHeight: counts.map((count) => factor * count),
    barWidth: edges[1] - edges[0],
  };
}
