// The first line: which model this is, and the way back.

import { count } from "../charts/number-format";
import type { Sketch } from "../core/types";
import { focusAfter } from "../ui/guard-keys-and-focus";
import { useView } from "./view-state";

/** "269,722 parameters · 20 layers deep · 10–64 wide · float32". */
export function modelWords(sketch: Sketch): string {
  const widths = sketch.layers.map((layer) => layer.width);
  const [low, high] = [Math.min(...widths), Math.max(...widths)];
  const dtypes = [...new Set(sketch.layers.map((layer) => layer.dtype))];
  return [
    `${count(sketch.parameters)} parameters`,
    `${sketch.layers.length} weighted ${sketch.layers.length === 1 ? "layer" : "layers"}`,
    low === high ? `${low} wide` : `${count(low)}–${count(high)} wide`,
    dtypes.join(", "),
  ].join(" · ");
}

export function Header() {
  const { state, root } = useView();
  return (
    <header class="sw-header">
      <h2 title={state.title.value}>{state.title.value || state.sketch.value.title}</h2>
      <span class="sw-caption">{modelWords(state.sketch.value)}</span>
      <span class="sw-tools">
        {!state.simple.value && (
          <button
            type="button"
            class="sw-link"
            title="only sparsity, bits, size, accuracy and the layers"
            data-testid="simple-view"
            onClick={() => {
              state.setSimple(true);
              focusAfter(root, "[data-testid=all-controls]");
            }}
          >
            simple view
          </button>
        )}
        <button
          type="button"
          class="sw-link"
          aria-disabled={!state.canUndo.value}
          data-testid="undo"
          onClick={() => state.undo()}
        >
          undo
        </button>
        <button
          type="button"
          class="sw-link"
          aria-disabled={!state.canRedo.value}
          data-testid="redo"
          onClick={() => state.redo()}
        >
          redo
        </button>
        <button type="button" class="sw-link" data-testid="reset" onClick={() => state.reset()}>
          reset
        </button>
      </span>
    </header>
  );
}
