// The first lines: what is trained and how, its state, pause and stop, and how far it is.

import { count } from "../charts/number-format";
import { Toggle } from "../ui/inputs";
import type { RunState } from "./host-interface";
import type { MonitorState } from "./monitor-state";
import { placeWords, STATE_WORDS, speedWords } from "./progress-text";
import { useView } from "./view-state";

export function Header() {
  const { state } = useView();
  return (
    <>
      <header class="sw-header">
        <h2 title={state.title.value}>{state.title.value}</h2>
        <span class="sw-caption">{methodWords(state)}</span>
        <span class="sw-tools">
          <Badge />
          {state.offer.value ? null : (
            <>
              <Buttons />
              <TableToggle />
            </>
          )}
        </span>
      </header>
      <Bar />
      <Place />
    </>
  );
}

/** How it goes about it, as its result will say; before it is one, that is only the plan. */
function methodWords({ method, offer, run }: MonitorState): string {
  return offer.value || run.value === "done" ? method.value : `planned: ${method.value}`;
}

function Badge() {
  const { run, gone, over, kernel } = useView().state;
  const words = kernel || over.value ? STATE_WORDS[run.value] : `${STATE_WORDS[run.value]} when this was saved`;
  const lost = gone.value && !over.value;
  return (
    <span class="sw-badge sw-run-state" data-state={lost ? "lost" : run.value} data-testid="run-state" role="status">
      {lost ? "kernel disconnected" : words}
    </span>
  );
}

const STOPPABLE: RunState[] = ["running", "paused"];

function Buttons() {
  const { state } = useView();
  const run = state.run.value;
  if (state.over.value || !state.kernel) return null;
  const paused = run === "paused";
  const idle = state.gone.value || !STOPPABLE.includes(run);
  return (
    <>
      <button
        type="button"
        class="sw-button"
        disabled={idle}
        data-testid={paused ? "resume" : "pause"}
        onClick={() => state.ask({ do: paused ? "resume" : "pause" })}
      >
        {paused ? "Resume" : "Pause"}
      </button>
      <button
        type="button"
        class="sw-button"
        disabled={idle}
        title="end now; the best weights so far are kept"
        data-testid="stop"
        onClick={() => state.ask({ do: "stop" })}
      >
        Stop
      </button>
    </>
  );
}

function TableToggle() {
  const { table } = useView();
  return (
    <Toggle
      pressed={table.value}
      toggle={() => {
        table.value = !table.value;
      }}
      title="the epochs as a table"
      testid="epochs-table"
    >
      as table
    </Toggle>
  );
}

function Bar() {
  const { at, all, run } = useView().state;
  const share = all.value > 0 ? Math.min(1, at.value / all.value) : 0;
  return (
    <div
      class="sw-run-bar"
      role="progressbar"
      aria-label="epochs done"
      aria-valuemin={0}
      aria-valuemax={all.value}
      aria-valuenow={Math.round(10 * at.value) / 10}
      data-state={run.value}
    >
      <i style={{ transform: `scaleX(${share.toFixed(4)})` }} />
    </div>
  );
}

function Place() {
  const { state } = useView();
  return (
    <p class="sw-run-place">
      <span data-testid="place">{placeText(state)}</span>
      <span class="sw-caption">
        {state.progress.value && !state.gone.value && state.kernel && speedWords(state.progress.value, state.run.value)}
      </span>
    </p>
  );
}

/** Where it is; trouble comes first. */
function placeText(state: MonitorState) {
  if (state.error.value) return <span class="sw-failed">{state.error.value}</span>;
  if (state.over.value) return `${count(state.curves.value.at.length)} of ${count(state.all.value)} epochs`;
  if (state.gone.value) return <span class="sw-failed">{goneWords(state)}</span>;
  if (state.offer.value) return "Retrain these weights, pruned and rounded as they are; your model stays as it is.";
  return state.progress.value ? placeWords(state.progress.value) : "about to begin";
}

/** How far a training came whose kernel went. */
function goneWords({ progress }: MonitorState): string {
  const where = progress.value ? `, it came to ${placeWords(progress.value)}` : "";
  return `kernel disconnected: training stopped${where}`;
}
