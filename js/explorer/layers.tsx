// The panel of layers: the ridge or its table, and the chosen layer enlarged below.

import { Detail } from "./detail";
import { Choice, Toggle } from "./inputs";
import { LayerTable } from "./layer-table";
import { Ridge } from "./ridge";
import { type Axis, toggled, useView } from "./view";

export function Layers() {
  const view = useView();
  const table = view.tables.value.has("layers");
  return (
    <section class="sw-layers" aria-label="Layers">
      <header class="sw-heading">
        <h3>Layers</h3>
        <Caption table={table} />
        <Tools table={table} />
      </header>
      {table ? <LayerTable /> : <Ridge />}
      {view.selected.value >= 0 && <Detail layer={view.selected.value} />}
    </section>
  );
}

function Caption({ table }: { table: boolean }) {
  if (table) return <span class="sw-caption">every tensor, and what becomes of it</span>;
  return (
    <span class="sw-caption sw-legend">
      <span>
        <i class="sw-key-outline" />
        original
      </span>
      <span>
        <i class="sw-key-kept" />
        kept
      </span>
      <span>
        <i class="sw-key-pruned" />
        pruned
      </span>
      <span>
        <i class="sw-key-grid" />
        grid
      </span>
    </span>
  );
}

function Tools({ table }: { table: boolean }) {
  const view = useView();
  return (
    <span class="sw-tools">
      {!table && (
        <>
          <Folding />
          <Choice<Axis>
            legend="axis"
            className="sw-small"
            testid="axis"
            options={[
              { value: "shared", label: "shared", title: "one axis of weight values for all layers" },
              { value: "own", label: "own", title: "each layer from minus to plus its largest weight" },
              { value: "spread", label: "spread", title: "each layer in units of its own root mean square" },
            ]}
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
            log
          </Toggle>
        </>
      )}
      <Toggle
        pressed={table}
        toggle={() => {
          view.tables.value = toggled(view.tables.value, "layers");
        }}
        title="layers as a table, with what is kept and why"
        testid="layers-table"
      >
        table
      </Toggle>
    </span>
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
          {all ? "unfold" : "fold"}
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
        blocks
      </Toggle>
    </>
  );
}
