// Gathers what the ridge draws from the view's signals, and remembers pictures until something changes them.

import { type DistributionPlot, hatchPattern, type PlotStyle } from "../charts/distribution-canvas";
import {
  bareOutline,
  distributionPlot,
  type Outline,
  outlineOf,
  quantile,
  sharedSpan,
} from "../charts/distribution-geometry";
import type { Row } from "../charts/layer-tree-rows";
import { count } from "../charts/number-format";
import type { RidgeScene, RowFigures } from "../charts/ridge-canvas";
import { type Columns, ridgeColumns, SPARK } from "../charts/ridge-layout-header-and-axis";
import { placeAmong, type SparklineScale, sparklineScale } from "../charts/sensitivity-sparkline";
import type { Colors } from "../charts/theme";
import { labelOf } from "../core/control-schema";
import type { Estimate, LayerSketch, Plan } from "../core/types";
import type { State } from "./explorer-state";
import type { Sensitivity } from "./host-interface";
import { outcomeOf, ownOverride, rankedThreshold, rowFigures } from "./layer-and-file-figures";
import type { Axis, View } from "./view-state";

/** How many times wider than the shared axis a layer must be to get one of its own there, too: an embedding, say. */
const FAR_WIDER = 8;

/** Half the width of a layer's axis. */
export function spanOf(axis: Axis, layer: LayerSketch, shared: number): number {
  const body = 1.15 * Math.min(layer.absmax, 1.08 * quantile(layer, 0.997));
  if (axis === "shared") return body > FAR_WIDER * shared ? body : shared;
  if (axis === "own") return layer.absmax || 1;
  return 4 * Math.sqrt(layer.energy / layer.n) || 1;
}

const AXIS_NOTES: Record<Axis, string> = {
  shared: "",
  own: "each row from minus to plus its largest weight",
  spread: "each row from −4 to +4 times its root mean square",
};

/** The least picture axis that still shows something of a layer. */
export function detailSpan(layer: LayerSketch): number {
  return Math.max(quantile(layer, 0.9995), 0.5 * layer.absmax) || 1;
}

/** Why there is no picture of what becomes of a layer; "" where there is. */
export function notDrawn(state: State, index: number): string {
  const tag = state.unknownOf(index);
  return tag && `${labelOf(state.kinds.value, tag)}: the distribution is not drawn`;
}

/** The sensitivity that the rows show; null where it is hidden, as in the simple view, or was never asked for. */
export function shownSensitivity(view: View): Sensitivity | null {
  return view.sparklines.value && !view.state.simple.value ? view.state.sensitivity.value : null;
}

/** Pictures of layers, made once for each set of figures and axis. */
export class RidgeCache {
  readonly #outlines = new Map<LayerSketch, Outline>();
  readonly #pictures = new Map<number, DistributionPlot>();
  readonly #rows = new Map<number, RowFigures>();
  readonly #fitted = new Map<string, string>();
  #figures: Estimate | undefined;
  #key = "";
  #hatch: { colors: Colors; ratio: number; pattern: CanvasPattern | string } | undefined;
  #shared: { layers: readonly LayerSketch[]; span: number } | undefined;
  #columns: { width: number; font: string; rows: readonly Row[]; sparks: boolean; found: Columns } | undefined;
  #sparks: { of: Sensitivity; scale: SparklineScale } | undefined;

  constructor(private readonly view: View) {}

  /** Half the width of the axis all layers share. */
  sharedSpan(): number {
    const { layers } = this.view.state.sketch.value;
    if (this.#shared?.layers !== layers) this.#shared = { layers, span: sharedSpan(layers) };
    return this.#shared.span;
  }

  style(ctx: CanvasRenderingContext2D, ratio: number): PlotStyle {
    const colors = this.view.colors.value;
    if (this.#hatch?.colors !== colors || this.#hatch.ratio !== ratio) {
      this.#hatch = { colors, ratio, pattern: hatchPattern(ctx, colors.hatch, ratio) };
    }
    return { colors, hatch: this.#hatch.pattern, log: this.view.log.value, tick: 3 };
  }

  /** Everything the ridge needs for one drawing, except for what the pointer and the keyboard add. */
  scene(
    ctx: CanvasRenderingContext2D,
    size: { width: number; height: number; row: number; scrollTop: number; ratio: number },
    rows: readonly Row[],
  ): Omit<RidgeScene, "hovered" | "pointerX" | "focused" | "active"> {
    const { view } = this;
    const { state } = view;
    const figures = state.figures.value;
    const plans = state.plans.value;
    const style = this.style(ctx, size.ratio);
    const columns = this.#columnsFor(ctx, style.colors.font, size, rows);
    const axis = view.axis.value;
    const sensitivity = shownSensitivity(view);
    this.#forget(figures, `${axis} ${view.log.value} ${columns.plot.width}`);
    return {
      ...size,
      rows,
      fitted: this.#fitted,
      columns,
      style,
      colors: style.colors,
      span: axis === "shared" ? this.sharedSpan() : 0,
      axisNote: AXIS_NOTES[axis],
      threshold: rankedThreshold(plans, state.recipe.value, figures),
      exact: figures.exact,
      sized: figures.sized,
      selected: view.selected.value,
      sparks: sensitivity && this.#scaleOf(sensitivity),
      picture: (layer) => this.#picture(layer, plans[layer], figures, axis, columns.plot.width),
      figures: (layer) => this.#figuresOf(layer, plans[layer], figures),
      spark: (layer) => ({
        values: sensitivity?.layers[layer] ?? null,
        now: sensitivity && placeAmong(sensitivity.amounts, this.#amount(sensitivity, layer, plans[layer], figures)),
      }),
    };
  }

  /** What a sensitivity varies, as it is for a layer now: the share that is pruned, or the bits. */
  #amount(sensitivity: Sensitivity, layer: number, plan: Plan, figures: Estimate): number {
    if (sensitivity.kind === "bits") return plan.bits;
    return 1 - figures.layers.kept[layer] / figures.left.layers[layer].n;
  }

  #scaleOf(of: Sensitivity): SparklineScale {
    if (this.#sparks?.of !== of) {
      this.#sparks = { of, scale: sparklineScale(of.layers, of.dense, this.view.state.metric.value.percent) };
    }
    return this.#sparks.scale;
  }

  #forget(figures: Estimate, key: string): void {
    if (figures === this.#figures && key === this.#key) return;
    if (key !== this.#key) this.#outlines.clear();
    this.#pictures.clear();
    this.#rows.clear();
    this.#figures = figures;
    this.#key = key;
  }

  /** The columns, divided again for a new width, other rows, or the page's font, which comes after the first drawing. */
  #columnsFor(
    ctx: CanvasRenderingContext2D,
    font: string,
    { width, row }: { width: number; row: number },
    rows: readonly Row[],
  ): Columns {
    const known = this.#columns;
    const sparks = shownSensitivity(this.view) !== null;
    const same = known?.width === width && known.found.row === row && known.font === font && known.rows === rows;
    if (!same || known.sparks !== sparks) {
      ctx.font = `12px ${font}`;
      const text = (words: string) => ctx.measureText(words).width;
      const counts = rows.map((one) => (one.kind === "layer" ? [one.layer] : one.layers));
      const { layers } = this.view.state.sketch.value;
      const most = Math.max(...counts.map((some) => some.reduce((sum, i) => sum + layers[i].n, 0)), 0);
      // as wide as any recipe makes them, so that they stand still while it changes
      const numbers = {
        weights: Math.max(text(count(most)), text("weights")),
        pruned: text("≈ > 99.9 %"),
        bits: rows.some((one) => one.kind === "block") ? text("mixed") : text("bits"),
        nbytes: text("≈ 88.8 MB"),
      };
      const longest = rows.reduce((widest, one) => {
        const [name, wider] = one.kind === "layer" ? [one.label, 1] : [one.key, 1.09];
        return Math.max(widest, wider * text(name) + (one.kind === "layer" && !one.block ? 0 : 12));
      }, 0);
      const found = ridgeColumns(width, longest, row, numbers, sparks ? SPARK : 0);
      this.#columns = { width, font, rows, sparks, found };
      this.#fitted.clear();
      return found;
    }
    return known.found;
  }

  #picture(index: number, plan: Plan, figures: Estimate, axis: Axis, pixels: number): DistributionPlot {
    let picture = this.#pictures.get(index);
    if (!picture) {
      const { sketch } = this.view.state;
      const layer = sketch.value.layers[index];
      let outline = this.#outlines.get(layer);
      outline ??= outlineOf(layer, spanOf(axis, layer, this.sharedSpan()), pixels);
      this.#outlines.set(layer, outline);
      const unknown = notDrawn(this.view.state, index);
      picture = unknown
        ? bareOutline(outline, unknown)
        : distributionPlot(figures.left, figures.left.layers[index], plan, outcomeOf(figures, index), outline);
      this.#pictures.set(index, picture);
    }
    return picture;
  }

  #figuresOf(index: number, plan: Plan, figures: Estimate): RowFigures {
    let found = this.#rows.get(index);
    if (!found) {
      const { sketch, recipe } = this.view.state;
      const own = ownOverride(recipe.value, sketch.value.layers[index]) !== null;
      found = { ...rowFigures(figures, plan, index), own };
      this.#rows.set(index, found);
    }
    return found;
  }
}
