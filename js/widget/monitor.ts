// What anywidget loads for a monitor: one state for each model, any number of views on it.
import type { AnyWidget, InitializeProps, RenderProps } from "@anywidget/types";
import { MonitorState, mount } from "../monitor/mount";
import { AnywidgetHost } from "./anywidget-host-and-kernel-life";

/** The monitor's names of values and the names of the Python traits behind them. */
const TRAITS: Record<string, string> = {
  title: "_title",
  method: "_method",
  metric: "_metric",
  state: "_state",
  progress: "_progress",
  curves: "_curves",
  points: "_points",
  baseline: "_baseline",
  error: "_error",
  offer: "_offer",
  kept: "_kept",
  keeps: "_keeps",
  figure: "_figure",
  glossary: "_glossary",
};

const monitor: AnyWidget = () => {
  let state: MonitorState;
  return {
    initialize({ model, signal }: InitializeProps) {
      const host = new AnywidgetHost(model, TRAITS);
      state = new MonitorState(host);
      const end = () => {
        state.dispose();
        host.dispose();
      };
      signal.addEventListener("abort", end, { once: true });
    },
    render({ el, signal }: RenderProps) {
      const dispose = mount(el, state);
      signal.addEventListener("abort", dispose, { once: true });
    },
  };
};

export default monitor;
