// Every tensor of the model as tables: what becomes of each layer, and what is kept and why.

import { type ReadonlySignal, useSignal, useSignalEffect } from "@preact/signals";
import { bytes, count, decibels, share } from "../charts/format";
import { layerTotal } from "../core/estimate";
import type { Estimate } from "../core/types";
import { layerSqnr, ownOverride } from "./figures";
import { useView } from "./view";

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

export function LayerTable() {
  const view = useView();
  const figures = useRested(view.state.figures);
  return (
    <section class="sw-table-scroll" aria-label="Layers as tables" data-testid="layer-tables">
      <table class="sw-table">
        <thead>
          <tr>
            {["layer", "shape", "weights", "pruned", "bits", "SQNR", "dense", "now", ""].map((title) => (
              <th key={title} scope="col">
                {title}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {view.state.sketch.value.layers.map((layer, i) => (
            <LayerLine key={layer.name} index={i} figures={figures} />
          ))}
        </tbody>
      </table>
      <KeptTable />
    </section>
  );
}

function LayerLine({ index, figures }: { index: number; figures: Estimate }) {
  const view = useView();
  const { state } = view;
  const layer = state.sketch.value.layers[index];
  const plan = state.plans.peek()[index];
  const own = ownOverride(state.recipe.peek(), layer);
  const open = () => {
    view.selected.value = index;
  };
  return (
    <tr>
      <th scope="row">
        <button type="button" class="sw-link" onClick={open} title={layer.name}>
          {layer.label}
        </button>
      </th>
      <td>{layer.shape.join("×")}</td>
      <td>{count(layer.n)}</td>
      <td>{share(1 - figures.layers.kept[index] / layer.n)}</td>
      <td>{plan.keep ? "–" : plan.bits}</td>
      <td>{decibels(layerSqnr(figures.layers, index))}</td>
      <td>{bytes(layer.n * layer.itemsize)}</td>
      <td>{bytes(layerTotal(figures.layers, index))}</td>
      <td>{plan.keep ? "kept" : own ? "own values" : ""}</td>
    </tr>
  );
}

function KeptTable() {
  const { state } = useView();
  const { kept } = state.sketch.value;
  if (kept.length === 0) return null;
  return (
    <table class="sw-table" data-testid="kept-table">
      <caption>Not compressed, and why</caption>
      <thead>
        <tr>
          {["tensor", "shape", "type", "bytes", "why"].map((title) => (
            <th key={title} scope="col">
              {title}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {kept.map((tensor) => (
          <tr key={tensor.name}>
            <th scope="row">{tensor.name}</th>
            <td>{tensor.shape.join("×") || "scalar"}</td>
            <td>{tensor.dtype}</td>
            <td>{count(tensor.nbytes)}</td>
            <td class="sw-words">{tensor.why}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
