// What anywidget loads: one state for each model, any number of views on it.
import type { AnyWidget, InitializeProps, RenderProps } from "@anywidget/types";
import { createState, mount, type State } from "../explorer/mount";
import { adapt } from "./adapter";
import { showInside } from "./inside";

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
      const slot = el.appendChild(document.createElement("div"));
      slot.className = "sw-inside";
      showInside(model, "_monitor", slot, signal);
      const shown = () => revealed(model.get("_status"), slot);
      model.on("change:_status", shown);
      signal.addEventListener("abort", () => model.off("change:_status", shown), { once: true });
    },
  };
};

/** "Retrain…" while a training is under way leads to the one there is. */
function revealed(status: { state?: string; what?: string } | null, slot: HTMLElement): void {
  if (status?.state === "done" && status.what === "retrain") slot.scrollIntoView({ block: "nearest" });
}

export default explorer;
