// Makes anywidget's model the explorer's model, and keeps the traits that mirror the recipe in step with it.
import type { AnyModel } from "@anywidget/types";
import { parseRecipe, RecipeError, recipeJson, withFields } from "../core/recipe";
import type { Recipe } from "../core/types";
import type { Command, ExplorerModel } from "../explorer/model";

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
  macs: "_macs",
  order: "_order",
  dragging: "_dragging",
  status: "_status",
};

/** What Jupyter's widget managers have, though anywidget does not promise it: the kernel, null once it is gone. */
interface ManagerWithKernel {
  kernel?: { status?: string; isDisposed?: boolean } | null;
}

const GONE = ["dead", "terminating"];

/** Adapt a model until `signal` aborts. */
export function adapt(model: AnyModel, signal: AbortSignal): ExplorerModel {
  const adapter = new Adapter(model);
  signal.addEventListener("abort", () => adapter.dispose(), { once: true });
  return adapter;
}

class Adapter implements ExplorerModel {
  readonly #model: AnyModel;
  readonly #stops = new Set<() => void>();
  #closed = false;

  constructor(model: AnyModel) {
    this.#model = model;
    // a comm goes live before its model is initialized; news of it later is that it closed
    for (const event of ["comm_live_update", "comm:close"]) this.#listen(event, () => this.#close());
    this.#listen("change:_recipe", () => this.#mirrorRecipe());
    this.#listen("change:sparsity", () => this.#takeMirror("sparsity"));
    this.#listen("change:bits", () => this.#takeMirror("bits"));
    this.#mirrorRecipe();
  }

  get(name: string): unknown {
    return this.#model.get(TRAITS[name] ?? name);
  }

  set(name: string, value: unknown): void {
    this.#model.set(TRAITS[name] ?? name, value);
  }

  save(): void {
    this.#model.save_changes();
  }

  on(name: string, callback: () => void): () => void {
    return this.#listen(`change:${TRAITS[name] ?? name}`, callback);
  }

  send(command: Command): void {
    this.#model.send(command);
  }

  alive(): boolean {
    const { kernel } = this.#model.widget_manager as ManagerWithKernel;
    if (this.#closed || kernel === null) return false;
    return !kernel?.isDisposed && !GONE.includes(kernel?.status ?? "");
  }

  dispose(): void {
    for (const stop of [...this.#stops]) stop();
  }

  #listen(event: string, callback: () => void): () => void {
    const stop = () => {
      this.#model.off(event, callback);
      this.#stops.delete(stop);
    };
    this.#model.on(event, callback);
    this.#stops.add(stop);
    return stop;
  }

  #close(): void {
    this.#closed = true;
  }

  get #recipe(): Recipe {
    return parseRecipe(String(this.#model.get("_recipe")));
  }

  /** The recipe changed: its mirrors follow, so that widgets linked to them do. */
  #mirrorRecipe(): void {
    const { sparsity, bits } = this.#recipe;
    if (this.#model.get("sparsity") === sparsity && this.#model.get("bits") === bits) return;
    this.#model.set("sparsity", sparsity);
    this.#model.set("bits", bits);
  }

  /** A linked widget changed a mirror: the recipe follows; a value no recipe can have is put back. */
  #takeMirror(name: "sparsity" | "bits"): void {
    const recipe = this.#recipe;
    const value = this.#model.get(name);
    if (value === recipe[name]) return;
    const pattern = name === "sparsity" ? ({ pattern: "unstructured" } as const) : {};
    try {
      this.#model.set("_recipe", recipeJson(withFields(recipe, { ...pattern, [name]: value })));
    } catch (error) {
      if (!(error instanceof RecipeError)) throw error;
      this.#model.set(name, recipe[name]);
    }
    this.#model.save_changes();
  }
}
