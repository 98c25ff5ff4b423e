// The panel of layers: the ridge or its table, and the chosen layer enlarged below.

import { useComputed } from "@preact/signals";
import { removesChannels } from "../core/recipe";
import { Choice, options, Toggle } from "../ui/inputs";
import { LayerDetail } from "./layer-detail";
import { LayerTable } from "./layers-and-uncompressed-tables";
import { Panel } from "./panel-with-table-toggle";
import { Ridge } from "./ridge-plot";
import { SensitivityLine, SensitivityToggle } from "./sensitivity-toggle-and-progress";
import { type Axis, useView } from "./view-state";

const AXES = options<Axis>(
  ["shared", "shared", "one axis of weight values for all layers"],
  ["own", "own", "each layer from minus to plus its largest weight"],
  ["spread", "spread", "each layer in units of its own root mean square"],
);

export function LayersPanel() {
  const view = useView();
  if (view.state.simple.value) {
    return (
      <Panel name="layers" title="Layers" caption={<Legend />}>
        <Ridge />
        {view.selected.value >= 0 && <LayerDetail layer={view.selected.value} />}
      </Panel>
    );
  }
  const table = view.tables.value.has("layers");
  return (
    <Panel
      name="layers"
      title="Layers"
      caption={table ? "every tensor, and what becomes of it" : <Legend />}
      tools={
        <>
          <SensitivityToggle />
          {!table && <Tools />}
        </>
      }
      table="layers"
      tableTitle="layers as a table, with what is left uncompressed and why"
    >
      <SensitivityLine />
      {table ? <LayerTable /> : <Ridge />}
      {view.selected.value >= 0 && <LayerDetail layer={view.selected.value} />}
    </Panel>
  );
}

/** What the marks of the ridge mean, said once. */
function Legend() {
  const { state } = useView();
  // what goes with a channel is missing from a layer's histogram as what is pruned is, and no column counts it
  const channels = useComputed(() => removesChannels(state.recipe.value)).value;
  const pruned = channels ? "pruned, or gone with channels" : "pruned";
  return (
    <span class="sw-legend">
      {(["original", "kept", "pruned", "grid"] as const).map((word) => (
        <span key={word}>
          <i class={`sw-key-${word}`} />
          {word === "pruned" ? pruned : word}
        </span>
      ))}
    </span>
  );
}

function Tools() {
  const view = useView();
  return (
    <>
      <Folding />
      <Choice<Axis>
        legend="axis"
        className="sw-small"
        testid="axis"
        options={AXES}
        value={view.axis.value}
        choose={(axis) => {
          view.axis.value = axis;
        }}
      />
      <Toggle
        pressed={view.log.value}
        toggle={() => {
          view.log.value = !view.log.value;
        }}
        title="counts on a logarithmic scale"
        testid="log"
      >
        log counts
      </Toggle>
    </>
  );
}

/** Blocks on or off, and all of them folded at once. */
function Folding() {
  const view = useView();
  if (view.blocks.length === 0) return null;
  const all = view.blocks.every((key) => view.folded.value.has(key));
  return (
    <>
      {view.grouped.value && (
        <button
          type="button"
          class="sw-link"
          onClick={() => {
            view.folded.value = new Set(all ? [] : view.blocks);
          }}
        >
          {all ? "unfold all" : "fold all"}
        </button>
      )}
      <Toggle
        pressed={view.grouped.value}
        toggle={() => {
          view.grouped.value = !view.grouped.value;
        }}
        title="group layers by the prefix of their names"
        testid="blocks"
      >
        group blocks
      </Toggle>
    </>
  );
}
