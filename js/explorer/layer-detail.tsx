// One layer enlarged: its distribution with an axis, its error against bits, and its per-layer values.

import { bytes, count, estimated, estimatedDecibels, share } from "../charts/number-format";
import { fixedSparsity, labelOf } from "../core/control-schema";
import { layerTotal } from "../core/estimate";
import { withLayer } from "../core/recipe";
import type { LayerFields, LayerSketch, Override, OverrideFields, Plan, Recipe } from "../core/types";
import { focusAfter } from "../ui/guard-keys-and-focus";
import { Choice, options, PercentSlider } from "../ui/inputs";
import { OwnChannels, OwnMultiple } from "./channel-controls";
import { LargeDistributionPlot } from "./large-distribution-plot";
import { layerSqnr, namedByPattern, ownOverride, shapeWords, zeroWords } from "./layer-and-file-figures";
import { bitsOptions, KindChoice, KindSettings, quantizerFields, scalesIdle } from "./method-controls";
import { granularityOptions, quantizerIdle, structureTitle } from "./recipe-controls";
import { SqnrPlot } from "./sqnr-against-bits-plot";
import { useView } from "./view-state";

export function LayerDetail({ layer: index }: { layer: number }) {
  const { state } = useView();
  const layer = state.sketch.value.layers[index];
  if (!layer) return null;
  const unknown = state.unknownOf(index);
  return (
    <section class="sw-detail" aria-label={`Layer ${layer.label}`} data-testid="detail">
      <Title index={index} layer={layer} />
      {layer.pending && <p class="sw-note">not sketched yet</p>}
      <div class="sw-detail-charts" data-alone={state.simple.value}>
        <LargeDistributionPlot index={index} layer={layer} />
        {state.simple.value ? null : unknown ? (
          <p class="sw-note" data-testid="no-curve">
            No curve of error against bits: {labelOf(state.kinds.value, unknown)} has no estimate.
          </p>
        ) : (
          <SqnrPlot index={index} layer={layer} />
        )}
      </div>
      {state.simple.value ? <Outcome index={index} layer={layer} /> : <OwnValues index={index} layer={layer} />}
    </section>
  );
}

interface Props {
  index: number;
  layer: LayerSketch;
}

function Title({ index, layer }: Props) {
  const view = useView();
  const order = view.state.order.value;
  const place = order.indexOf(index);
  const go = (to: number) => () => {
    view.selected.value = to;
  };
  const close = () => {
    view.selected.value = -1;
    focusAfter(view.root, "[data-testid=ridge], [data-testid=layer-tables] button");
  };
  return (
    <header class="sw-heading">
      <h4 title={layer.name}>{layer.label}</h4>
      <span class="sw-caption">
        {shapeWords(layer, view.state.figures.value.left.layers[index])} · {layer.dtype}
        {layer.zeros > 0 && ` · ${zeroWords(layer.zeros, layer.n)}`}
        {layer.aliases.length > 0 && ` · tied to ${layer.aliases.join(", ")}`}
      </span>
      <span class="sw-tools">
        <button
          type="button"
          class="sw-icon"
          aria-label="layer before"
          disabled={place === 0}
          onClick={go(order[place - 1])}
        >
          ↑
        </button>
        <button
          type="button"
          class="sw-icon"
          aria-label="next layer"
          disabled={place === order.length - 1}
          onClick={go(order[place + 1])}
        >
          ↓
        </button>
        <button type="button" class="sw-icon" aria-label="close" data-testid="close-detail" onClick={close}>
          ×
        </button>
      </span>
    </header>
  );
}

/** The override to edit: what the layer is asked to do now, as per-layer values. */
function asOwn(recipe: Recipe, layer: LayerSketch, plan: Plan, sparsity: number): Partial<LayerFields> {
  const own = ownOverride(recipe, layer);
  return own && own !== "keep" ? own : { sparsity, bits: plan.bits };
}

/** A recipe in which this one layer is treated so; null goes back to the global value, past any pattern that names it. */
function withOwn(recipe: Recipe, layer: LayerSketch, own: Override | null): Recipe {
  const cleared = withLayer(withLayer(recipe, layer.name, null), layer.label, null);
  if (own !== null) return withLayer(cleared, layer.label, own);
  return namedByPattern(cleared, layer) ? withLayer(cleared, layer.label, {}) : cleared;
}

type Way = "global" | "own" | "keep";

function OwnValues({ index, layer }: Props) {
  const { state } = useView();
  const recipe = state.recipe.value;
  const plan = state.plans.value[index];
  const figures = state.figures.value;
  const override = ownOverride(recipe, layer);
  const way: Way = override === null ? "global" : override === "keep" ? "keep" : "own";
  const left = figures.left.layers[index];
  const pruned = 1 - figures.layers.kept[index] / left.n;
  const about = (text: string) => estimated(figures.sized || plan.keep, text);
  const set = (own: Override | null) => state.edit((r) => withOwn(r, layer, own));
  const fixed = fixedSparsity(state.kinds.value, plan.structure);
  const sparsityNow = fixed ?? Math.min(Number(pruned.toFixed(4)), 0.9999);
  const change = (changes: Partial<LayerFields>, gesture?: string) =>
    state.edit((r) => withOwn(r, layer, { ...asOwn(r, layer, plan, sparsityNow), ...changes }), gesture);
  const own: Partial<OverrideFields> = override === null || override === "keep" ? {} : override;
  const changeChannels = (changes: Partial<OverrideFields>, gesture?: string) => {
    // nothing else of the layer is locked by it
    state.edit((r) => withOwn(r, layer, { ...own, ...changes }), gesture);
  };
  const choose: Record<Way, () => void> = {
    global: () => set(null),
    own: () => set(asOwn(recipe, layer, plan, sparsityNow)),
    keep: () => set("keep"),
  };
  return (
    <div class="sw-own" data-way={way}>
      <div class="sw-own-way">
        <Choice<Way>
          legend="this layer"
          testid="way"
          options={options(
            ["global", "global values", "back to the global value"],
            ["own", "per-layer values", "locked at per-layer values"],
            ["keep", "uncompressed", "this layer is not compressed"],
          )}
          value={way}
          choose={(value) => choose[value]()}
        />
        <Outcome index={index} layer={layer} />
      </div>
      <PercentSlider
        label="Sparsity"
        term="sparsity"
        value={plan.keep ? 0 : way === "own" ? pruned : Number(pruned.toFixed(3))} // a share that nobody chose
        valueText={`${about(share(pruned))} of ${layer.label} pruned`}
        hint={
          fixed === null
            ? `keeps ${about(count(figures.layers.kept[index]))} of ${count(left.n)} weights`
            : structureTitle(state, plan.structure)
        }
        disabled={plan.keep || fixed !== null}
        testid="own-sparsity"
        change={(sparsity) => change({ sparsity }, `own ${layer.name}`)}
        settle={(over) => state.settle(over)}
      />
      <OwnChannels layer={layer} keep={plan.keep} own={own} change={changeChannels} />
      <div class="sw-own-choices">
        <Choice
          legend="bits"
          term="bits"
          testid="own-bits"
          options={bitsOptions(state.kinds.value, plan.quantizer)}
          value={plan.bits}
          choose={(bits) => change({ bits })}
          idle={plan.keep ? "uncompressed" : ""}
        />
        <KindChoice
          of="structure"
          legend="structure"
          testid="own-structure"
          chosen={plan.structure}
          choose={({ kind: structure, sparsity = pruned }) => change({ structure, sparsity })}
          idle={plan.keep ? "uncompressed" : ""}
        />
        <Choice
          legend="granularity"
          term="granularity"
          testid="own-granularity"
          options={granularityOptions(plan.granularity)}
          value={plan.granularity}
          choose={(granularity) => change({ granularity })}
          idle={plan.keep ? "uncompressed" : scalesIdle(state.kinds.value, plan.bits, plan.quantizer)}
        />
        <KindChoice
          of="quantizer"
          legend="quantizer"
          testid="own-quantizer"
          chosen={plan.quantizer}
          choose={(entry) => change(quantizerFields(entry, plan.bits))}
          idle={plan.keep ? "uncompressed" : quantizerIdle(plan.bits)}
        />
        <OwnMultiple layer={layer} keep={plan.keep} own={own} change={changeChannels} />
        <KindSettings
          of="quantizer"
          kind={plan.quantizer}
          change={(quantizer) => change({ quantizer })}
          bits={plan.bits}
          idle={plan.keep ? "uncompressed" : quantizerIdle(plan.bits)}
          testid={(name) => `own-${name}`}
        />
      </div>
    </div>
  );
}

/** What becomes of the layer, in one line. */
function Outcome({ index, layer }: Props) {
  const { state } = useView();
  const { exact, sized, layers } = state.figures.value;
  const about = (text: string) => estimated(sized || state.plans.value[index].keep, text);
  const parts = (["codes", "mask", "scales"] as const)
    .filter((part) => layers[part][index] > 0)
    .map((part) => `${part} ${about(bytes(layers[part][index]))}`);
  return (
    <p class="sw-outcome" data-testid="outcome">
      <b>
        {bytes(layer.n * layer.itemsize)} → {about(bytes(layerTotal(layers, index)))}
      </b>
      {parts.length > 1 && <span> = {parts.join(" + ")}</span>}
      <span> · SQNR {estimatedDecibels(exact || state.plans.value[index].keep, layerSqnr(layers, index))}</span>
    </p>
  );
}
