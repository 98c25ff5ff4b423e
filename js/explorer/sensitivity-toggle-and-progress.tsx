// The line below the heading of the layers: what their sparklines show, how far it is measured, and of what.

import { Term } from "../ui/help";
import { Choice, options, Toggle } from "../ui/inputs";
import type { Sensitivity } from "./host-interface";
import { COVERED } from "./predict-before-score";
import { sensitivityWords } from "./sensitivity-words";
import { useView } from "./view-state";

const KINDS = options<Sensitivity["kind"]>(
  ["sparsity", "sparsity", "one layer at a time is pruned"],
  ["bits", "bits", "one layer at a time is quantized"],
);

/** Asks for the sensitivity the first time, then shows or hides it. */
export function SensitivityToggle() {
  const { state, sparklines } = useView();
  const known = state.sensitivity.value;
  const asks = state.kernel && state.notice.value !== "gone";
  if (!state.metric.value.has_data || (!known && !asks)) return null;
  return (
    <Toggle
      pressed={known !== null && sparklines.value}
      toggle={() => {
        sparklines.value = !known || !sparklines.value;
        if (!known) state.send({ do: "sensitivity", kind: "sparsity" });
      }}
      idle={state.hintsCovered.value ? COVERED : ""}
      title="how much the score drops with one layer at a time pruned or quantized, all others dense"
      testid="sensitivity"
    >
      sensitivity
    </Toggle>
  );
}

export function SensitivityLine() {
  const { state, sparklines } = useView();
  const found = state.sensitivity.value;
  if (!found || !sparklines.value) return null;
  const asks = state.kernel && state.notice.value !== "gone";
  const running = asks && found.state === "running";
  const total = found.layers.filter((values) => values !== null).length + (found.pending ?? 0);
  const done = found.pending === null || total === 0 ? 0 : 1 - found.pending / total;
  return (
    <div class="sw-sensitivity" data-testid="sensitivity-line" data-state={found.state}>
      <p
        class={`sw-hint ${found.state === "failed" ? "sw-failed" : ""}`}
        role="status"
        title={sensitivityWords(state.metric.value, found, state.kernel)}
      >
        {sensitivityWords(state.metric.value, found, state.kernel)}
      </p>
      <Term of="sensitivity" />
      {asks && (
        <Choice<Sensitivity["kind"]>
          legend="to"
          className="sw-small"
          testid="sensitivity-kind"
          options={KINDS}
          value={found.kind}
          choose={(kind) => state.send({ do: "sensitivity", kind })}
        />
      )}
      {running && (
        <button
          type="button"
          class="sw-link"
          data-testid="sensitivity-stop"
          onClick={() => state.send({ do: "stop_sensitivity" })}
        >
          Stop
        </button>
      )}
      {asks && !running && (
        <button
          type="button"
          class="sw-link"
          data-testid="sensitivity-again"
          onClick={() => state.send({ do: "sensitivity", kind: found.kind })}
        >
          Measure again
        </button>
      )}
      {running && (
        <span class="sw-progress" data-state="running" aria-hidden="true">
          <i style={{ width: `${100 * done}%` }} />
        </span>
      )}
    </div>
  );
}
