// Every tensor of the model as tables: what becomes of each layer, and what is uncompressed and why.

import { type ReadonlySignal, useComputed, useSignal, useSignalEffect } from "@preact/signals";
import { bytes, count, estimated, estimatedDecibels, share } from "../charts/number-format";
import { layerTotal } from "../core/estimate";
import { DataTable } from "../ui/data-table";
import { heldBits, layerSqnr, ownOverride, shapeWords } from "./layer-and-file-figures";
import { shownSensitivity } from "./ridge-data-and-cache";
import { dropText } from "./sensitivity-words";
import { useView } from "./view-state";

const REST_MS = 120;

/** A value that follows another once it has come to rest: a table of hundreds of rows need not follow every frame. */
function useRested<T>(source: ReadonlySignal<T>): T {
  const rested = useSignal(source.peek());
  useSignalEffect(() => {
    const value = source.value;
    const timer = setTimeout(() => {
      rested.value = value;
    }, REST_MS);
    return () => clearTimeout(timer);
  });
  return rested.value;
}

const HEAD = ["layer", "shape", "weights", "pruned", "bits", "SQNR", "dense", "now", "by"];
/** The mean drop of the score over all amounts: the number that sparklines are ranked by in Python. */
const DROP = "drop";

export function LayerTable() {
  const view = useView();
  const { state } = view;
  // one moment's, as figures of a sketch do not fit the layers of the next
  const shown = useComputed(() => ({
    sketch: state.sketch.value,
    order: state.order.value,
    plans: state.plans.value,
    recipe: state.recipe.value,
    figures: state.figures.value,
  }));
  const { sketch, order, plans, recipe, figures } = useRested(shown);
  const { exact, sized, left, layers: now } = figures;
  const sensitivity = shownSensitivity(view);
  const rows = order.map((i) => {
    const layer = sketch.layers[i];
    const rest = left.layers[i];
    const plan = plans[i];
    const own = ownOverride(recipe, layer);
    const open = () => {
      view.selected.value = i;
    };
    return [
      <button key="open" type="button" class="sw-link" onClick={open} title={layer.name}>
        {layer.label}
      </button>,
      shapeWords(layer, rest, "×"),
      count(rest.n),
      layer.pending ? "…" : estimated(sized || plan.keep, share(1 - now.kept[i] / rest.n)),
      layer.pending ? "…" : plan.keep ? "–" : heldBits(plan, layer.itemsize),
      layer.pending ? "…" : estimatedDecibels(exact || plan.keep, layerSqnr(now, i)),
      bytes(layer.n * layer.itemsize),
      layer.pending ? "…" : estimated(sized || plan.keep, bytes(layerTotal(now, i))),
      layer.pending ? "not sketched yet" : plan.keep ? "keep" : own ? "own" : "all",
      ...(sensitivity ? [dropText(state.metric.value, sensitivity, i)] : []),
    ];
  });
  const uncompressed = sketch.uncompressed.map((tensor) => [
    tensor.name,
    tensor.shape.join("×") || "scalar",
    tensor.dtype,
    count(tensor.nbytes),
    tensor.why,
  ]);
  return (
    <section class="sw-table-scroll" aria-label="Layers as tables" data-testid="layer-tables">
      <DataTable head={sensitivity ? [...HEAD, DROP] : HEAD} rows={rows} />
      {uncompressed.length > 0 && (
        <DataTable
          testid="uncompressed-table"
          caption="Not compressed, and why"
          head={["tensor", "shape", "type", "bytes", "why"]}
          words={4}
          rows={uncompressed}
        />
      )}
    </section>
  );
}
