// Makes anywidget's model the explorer's model, and keeps the traits that mirror the recipe in step with it.
import type { AnyModel } from "@anywidget/types";
import { parseRecipe, RecipeError, recipeJson, withFields } from "../core/recipe";
import type { Recipe } from "../core/types";
import type { ExplorerModel } from "../explorer/host-interface";
import { AnywidgetHost } from "./anywidget-host-and-kernel-life";

/** The explorer's names of values and the names of the Python traits behind them. */
const TRAITS: Record<string, string> = {
  sketch_data: "_sketch",
  recipe_json: "_recipe",
  title: "_title",
  exact: "_exact",
  score: "_score",
  baseline: "_baseline",
  metric: "_metric",
  history: "_history",
  result: "_result",
  keeps: "_keeps",
  figure: "_figure",
  kinds: "_kinds",
  memory: "_memory",
  stale: "_stale",
  unsketched: "_unsketched",
  recalibrate: "recalibrate_batchnorm",
  recalibration: "_recalibration",
  recovery: "_recovery",
  frontier: "_frontier",
  budget: "budget",
  exporting: "_export",
  view: "view",
  glossary: "_glossary",
  predict_first: "predict_first",
  predictions: "_predictions",
  by_class: "_by_class",
  sensitivity: "_sensitivity",
  race: "_race",
  macs: "_macs",
  order: "_order",
  dragging: "_dragging",
  status: "_status",
  page: "_page",
};

/** The fields of the recipe that are traits of their own. */
const MIRRORS = ["sparsity", "bits", "channels", "multiple"] as const;

/** Adapt a model until `signal` aborts. */
export function adapt(model: AnyModel, signal: AbortSignal): ExplorerModel {
  const adapter = new Adapter(model);
  signal.addEventListener("abort", () => adapter.dispose(), { once: true });
  return adapter;
}

class Adapter extends AnywidgetHost implements ExplorerModel {
  constructor(model: AnyModel) {
    super(model, TRAITS);
    this.listen("change:_recipe", () => this.#mirrorRecipe());
    for (const name of MIRRORS) this.listen(`change:${name}`, () => this.#takeMirror(name));
    this.#mirrorRecipe();
  }

  set(name: string, value: unknown): void {
    this.model.set(this.trait(name), value);
  }

  get #recipe(): Recipe {
    return parseRecipe(String(this.model.get("_recipe")));
  }

  /** The recipe changed: its mirrors follow, so that widgets linked to them do. */
  #mirrorRecipe(): void {
    const recipe = this.#recipe;
    for (const name of MIRRORS) if (this.model.get(name) !== recipe[name]) this.model.set(name, recipe[name]);
  }

  /** A linked widget changed a mirror: the recipe follows; a value no recipe can have is put back. */
  #takeMirror(name: (typeof MIRRORS)[number]): void {
    const recipe = this.#recipe;
    const value = this.model.get(name);
    if (value === recipe[name]) return;
    const structure = name === "sparsity" ? ({ structure: "unstructured" } as const) : {};
    try {
      this.model.set("_recipe", recipeJson(withFields(recipe, { ...structure, [name]: value })));
    } catch (error) {
      if (!(error instanceof RecipeError)) throw error;
      this.model.set(name, recipe[name]);
    }
    this.save();
  }
}
