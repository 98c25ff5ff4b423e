// What anywidget loads: one state for each model, any number of views on it.
import type { AnyWidget, InitializeProps, RenderProps } from "@anywidget/types";
import { createState, mount, type State } from "../explorer/mount";
import { adapt } from "./explorer-adapter-and-mirrored-traits";
import { showNestedView } from "./nested-widget-view";

/** anywidget calls this once for every model, so that `state` is shared by the views of one explorer and no others. */
const explorer: AnyWidget = () => {
  let state: State;
  return {
    initialize({ model, signal }: InitializeProps) {
      state = createState(adapt(model, signal));
      signal.addEventListener("abort", () => state.dispose(), { once: true });
    },
    render({ model, el, signal }: RenderProps) {
      const dispose = mount(el, state);
      signal.addEventListener("abort", dispose, { once: true });
      const record = el.appendChild(document.createElement("div"));
      record.className = "sw-inside";
      showNestedView(model, "_monitor", record, signal);
      const shown = () => revealed(model.get("_status"), record);
      model.on("change:_status", shown);
      signal.addEventListener("abort", () => model.off("change:_status", shown), { once: true });
    },
  };
};

/** "Retrain…" while a training is under way leads to the one there is. */
function revealed(status: { state?: string; what?: string } | null, record: HTMLElement): void {
  if (status?.state === "done" && status.what === "retrain") record.scrollIntoView({ block: "nearest" });
}

export default explorer;
