// A page with an explorer on it that needs no kernel and no network: what `to_html` writes runs this.

import { effect } from "@preact/signals";
import { createState, mount } from "../explorer/mount";
import { fitIntoFrame } from "./height-and-theme-of-notebook-frame";
import { type ExplorerData, KernellessExplorer } from "./kernelless-explorer";
import { open, readPageData } from "./page-data";
import { keepPredictions, keptPredictions } from "./predictions-in-session-storage";
import { printAsShown } from "./print-page";
import { addressWriter, recipeInAddress } from "./recipe-in-address";

open(async (here) => {
  const { data, bytes } = await readPageData<ExplorerData>();
  const write = addressWriter();
  const title = String(data.values.title);
  data.values.predictions = keptPredictions(title) ?? data.values.predictions;
  const host = new KernellessExplorer(data, bytes, (recipe) => write(recipe === data.recipe ? null : recipe));
  const state = createState(host);
  const goToAddress = () => {
    const recipe = recipeInAddress();
    if (recipe !== null) host.go(recipe, state.sketch.value);
  };
  goToAddress();
  mount(here, state);
  effect(() => keepPredictions(title, state.predictions.value));
  fitIntoFrame();
  printAsShown();
  addEventListener("hashchange", goToAddress);
});
