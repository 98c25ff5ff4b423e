// A page with the curves of a training on it, as far as it had come when `to_html` wrote them.

import type { MonitorModel } from "../monitor/host-interface";
import { MonitorState, mount } from "../monitor/mount";
import { fitIntoFrame } from "./height-and-theme-of-notebook-frame";
import { open, readPageData } from "./page-data";
import { printAsShown } from "./print-page";

open(async (here) => {
  const { data } = await readPageData<Record<string, unknown>>();
  const host: MonitorModel = { kernel: false, get: (name) => data[name], on: () => () => {}, send: () => {} };
  mount(here, new MonitorState(host));
  fitIntoFrame();
  printAsShown();
});
