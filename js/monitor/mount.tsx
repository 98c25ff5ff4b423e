// Puts a monitor into an element: framework-free from outside, `(element, state) -> dispose`.

import { render } from "preact";
import { watchTheme } from "../charts/theme";
import { guardKeys } from "../explorer/keys";
import { Tooltip } from "../explorer/tooltip";
import { Curves, Rate } from "./curves";
import { Figures } from "./figures";
import { Header } from "./header";
import { Offer } from "./offer";
import { Result } from "./result";
import type { MonitorState } from "./state";
import { History } from "./table";
import { TradeOff } from "./trade-off";
import { createView, useView, type View, ViewProvider } from "./view";

export { MonitorState } from "./state";

/** Show a monitor in `element`; any number of them may share one state. Returns what takes it away again. */
export function mount(element: HTMLElement, state: MonitorState): () => void {
  const root = element.appendChild(document.createElement("div"));
  root.className = "sw-explorer sw-monitor";
  // JupyterLab and other Lumino hosts leave the keys alone that are pressed in here.
  root.dataset.lmSuppressShortcuts = "true";
  root.dataset.testid = "monitor";
  const listening = new AbortController();
  root.addEventListener("keydown", (event) => guardKeys(root, event), { signal: listening.signal });
  const unwatch = watchTheme(root, () => {});
  render(<Monitor view={createView(state, root)} />, root);
  return () => {
    listening.abort();
    unwatch();
    render(null, root);
    root.remove();
  };
}

function Monitor({ view }: { view: View }) {
  return (
    <ViewProvider value={view}>
      <article class="sw-frame" aria-label={`Training ${view.state.title.value}`}>
        <Header />
        <Body />
        <Result />
      </article>
      <Tips />
    </ViewProvider>
  );
}

function Body() {
  const { state, table } = useView();
  const offer = state.offer.value;
  if (offer) return <Offer offer={offer} />;
  return (
    <div class="sw-run">
      {table.value ? <History /> : <Curves />}
      <div class="sw-run-side">
        <Figures />
        <TradeOff />
        <Rate />
      </div>
    </div>
  );
}

function Tips() {
  const { tip, root } = useView();
  return <Tooltip tip={tip.value} within={tip.value ? root.clientWidth : 0} />;
}
