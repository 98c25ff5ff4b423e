// Puts a monitor into an element: framework-free from outside, `(element, state) -> dispose`.

import { render } from "preact";
import { watchTheme } from "../charts/theme";
import { guardKeys } from "../ui/guard-keys-and-focus";
import { createHelp, Explanations, explainByKey, type Help, HelpProvider } from "../ui/help";
import { showTitles } from "../ui/titles-by-keyboard-and-touch";
import { Tooltip } from "../ui/tooltip";
import { EpochTable } from "./epoch-table";
import { Header } from "./header";
import { KeepResult } from "./keep-result";
import { MetricsPanel } from "./metrics-panel";
import type { MonitorState } from "./monitor-state";
import { RetrainForm } from "./retrain-form";
import { TradeOffPlot } from "./trade-off-plot";
import { Rate, TrainingCurves } from "./training-curves";
import { createView, useView, type View, ViewProvider } from "./view-state";

export { MonitorState } from "./monitor-state";

/** Show a monitor in `element`; any number of them may share one state. Returns what takes it away again. */
export function mount(element: HTMLElement, state: MonitorState): () => void {
  const root = element.appendChild(document.createElement("div"));
  root.className = "sw-explorer sw-monitor";
  // JupyterLab and other Lumino hosts leave the keys alone that are pressed in here.
  root.dataset.lmSuppressShortcuts = "true";
  root.dataset.testid = "monitor";
  const listening = new AbortController();
  const view = createView(state, root);
  const keyDown = (event: KeyboardEvent) => {
    explainByKey(event);
    guardKeys(root, event);
  };
  root.addEventListener("keydown", keyDown, { signal: listening.signal });
  const unwatch = watchTheme(root, () => {});
  showTitles(view, listening.signal);
  render(<Monitor view={view} help={createHelp(root, state.glossary)} />, root);
  return () => {
    listening.abort();
    unwatch();
    render(null, root);
    root.remove();
  };
}

function Monitor({ view, help }: { view: View; help: Help }) {
  return (
    <ViewProvider value={view}>
      <HelpProvider value={help}>
        <article class="sw-frame" aria-label={`Training ${view.state.title.value}`}>
          <Header />
          <Body />
          <KeepResult />
        </article>
        <Explanations help={help} />
        <Tips />
      </HelpProvider>
    </ViewProvider>
  );
}

function Body() {
  const { state, table } = useView();
  const offer = state.offer.value;
  if (offer) return <RetrainForm offer={offer} />;
  return (
    <div class="sw-run">
      {table.value ? <EpochTable /> : <TrainingCurves />}
      <div class="sw-run-side">
        <MetricsPanel />
        <TradeOffPlot />
        <Rate />
      </div>
    </div>
  );
}

function Tips() {
  const { tip, root } = useView();
  return <Tooltip tip={tip.value} within={tip.value ? root.clientWidth : 0} />;
}
