// Puts an explorer into an element: framework-free from outside, `(element, state) -> dispose`.

import { render } from "preact";
import { readColors, watchTheme } from "../charts/theme";
import { watchPixelRatio } from "../charts/watch-pixel-ratio";
import { guardKeys } from "../ui/guard-keys-and-focus";
import { createHelp, Explanations, explainByKey, type Help, HelpProvider } from "../ui/help";
import { showTitles } from "../ui/titles-by-keyboard-and-touch";
import { Tooltip } from "../ui/tooltip";
import { AccuracyPanel, Stats } from "./accuracy-panel-and-stats";
import { ByClassPanel } from "./by-class-panel";
import type { State } from "./explorer-state";
import { Header } from "./header";
import { HistoryPlot } from "./history-plot";
import { Footer } from "./keep-copy-code-and-status-bar";
import { LayersPanel } from "./layers-panel";
import { RecipeControls } from "./recipe-controls";
import { scrollIntoView } from "./scroll-new-widget-into-view";
import { SilhouettePlot } from "./silhouette-plot";
import { SizePanel } from "./size-panel";
import { createView, type View, ViewProvider } from "./view-state";

export { createState, type State } from "./explorer-state";

/**
 * Show an explorer in `element`; any number of them may share one state. `seen` hears which layers' rows are in sight.
 * Returns what takes it away again.
 */
export function mount(element: HTMLElement, state: State, seen?: (layers: readonly number[]) => void): () => void {
  const root = element.appendChild(document.createElement("div"));
  root.className = "sw-explorer";
  // JupyterLab and other Lumino hosts leave the keys alone that are pressed in here.
  root.dataset.lmSuppressShortcuts = "true";
  root.dataset.testid = "explorer";
  const listening = new AbortController();
  const view = createView(state, root, readColors(root), seen);
  const unwatch = watchTheme(root, () => {
    view.colors.value = readColors(root);
  });
  const unwatchRatio = watchPixelRatio(root, (ratio) => {
    view.pixelRatio.value = ratio;
  });
  root.addEventListener("keydown", (event) => keyDown(root, event, state), { signal: listening.signal });
  showTitles(view, listening.signal);
  render(<Explorer view={view} help={createHelp(root, state.glossary)} />, root);
  if (!state.page.value.shown) {
    state.remember({ shown: true });
    scrollIntoView(root, listening.signal);
  }
  return () => {
    listening.abort();
    unwatch();
    unwatchRatio();
    render(null, root);
    root.remove();
  };
}

/** Undo and redo by keyboard. */
function keyDown(root: HTMLElement, event: KeyboardEvent, state: State): void {
  explainByKey(event);
  guardKeys(root, event);
  const typing = event.target instanceof HTMLInputElement && ["text", "number"].includes(event.target.type);
  if (!(event.ctrlKey || event.metaKey) || typing) return;
  const key = event.key.toLowerCase();
  if (key === "z" && !event.shiftKey) state.undo();
  else if (key === "y" || (key === "z" && event.shiftKey)) state.redo();
  else return;
  event.preventDefault();
}

function Explorer({ view, help }: { view: View; help: Help }) {
  const simple = view.state.simple.value;
  return (
    <ViewProvider value={view}>
      <HelpProvider value={help}>
        <article
          class="sw-frame"
          aria-label={`Compress ${view.state.title.value}`}
          data-view={simple ? "simple" : "full"}
          data-stale={view.state.stale.value !== "" || view.state.exactOnly.value.waiting}
        >
          <Header />
          <RecipeControls />
          <div class="sw-body">
            <LayersPanel />
            <div class="sw-side">
              <SizePanel />
              <AccuracyPanel />
              {!simple && <Stats />}
              {!simple && <HistoryPlot />}
            </div>
            {!simple && <SilhouettePlot />}
            {!simple && <ByClassPanel />}
          </div>
          <Footer />
        </article>
        <Explanations help={help} />
        <Tips view={view} />
      </HelpProvider>
    </ViewProvider>
  );
}

/** Alone in reading the tip, so that nothing else is made again while the pointer moves. */
function Tips({ view }: { view: View }) {
  return <Tooltip tip={view.tip.value} within={view.tip.value ? view.root.clientWidth : 0} />;
}
