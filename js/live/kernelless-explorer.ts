// Hosts an explorer without a kernel: what a kernel had found out by the time the page was written is all there is.

import { layerNames } from "../core/layer-overrides";
import { parseRecipe, recipeJson, resolve } from "../core/recipe";
import type { Figures, Sketch } from "../core/types";
import type { ByClass, Command, ExplorerModel, Score } from "../explorer/host-interface";

interface Evaluated {
  score?: Score;
  by_class?: ByClass;
}

/** What a kernel knew of one recipe, or of one retrained model. */
export interface Known extends Evaluated {
  exact?: Figures & { result?: string | null };
  /** With batch norm re-estimated. */
  recalibrated?: Evaluated;
}

/** The data of a page with an explorer; the sketch travels beside it. */
export interface ExplorerData {
  recipe: string;
  /** The values of `ExplorerModel`, under its names. */
  values: Record<string, unknown>;
  /** By recipe, as canonical JSON. */
  known: Record<string, Known>;
  /** Retrained models by the key that a `Visit` names them with. */
  results: Record<string, Known & { recipe: string }>;
}

export class KernellessExplorer implements ExplorerModel {
  readonly kernel = false;
  readonly nests = false;
  readonly #values: Map<string, unknown>;
  #locked = false;
  readonly #listeners = new Map<string, Set<() => void>>();

  constructor(
    private readonly data: ExplorerData,
    sketch: Uint8Array | Sketch,
    private readonly changed: (recipe: string) => void = () => {},
  ) {
    const shown = { sketch_data: sketch, recipe_json: data.recipe, page: { shown: true } };
    this.#values = new Map(Object.entries({ ...data.values, ...shown }));
    this.#answer();
  }

  get(name: string): unknown {
    return this.#values.get(name);
  }

  set(name: string, value: unknown): void {
    this.#values.set(name, value);
  }

  save(): void {
    if (this.get("dragging")) return;
    if (this.data.results[this.#result]?.recipe !== this.#recipe) this.#hear("result", "");
    this.#answer();
    this.changed(this.#recipe);
  }

  on(name: string, callback: () => void): () => void {
    if (!this.#listeners.has(name)) this.#listeners.set(name, new Set());
    this.#listeners.get(name)?.add(callback);
    return () => this.#listeners.get(name)?.delete(callback);
  }

  /** The way back to a retrained model, and from it; all other commands need a kernel, and the page does not offer them. */
  send(command: Command): void {
    if (command.do !== "goto") return;
    const { result } = command;
    if (result !== null && !this.data.results[result]) return;
    if (result !== null) this.#hear("recipe_json", this.data.results[result].recipe);
    this.#hear("result", result ?? "");
    this.#answer();
  }

  /** Show what is known of the weights by now; until they all are, the recipe stays as it is. */
  show(sketch: Sketch, locked: boolean): void {
    this.#locked = locked;
    this.#hear("sketch_data", sketch);
  }

  locked(): boolean {
    return this.#locked;
  }

  /** Show another recipe, as if the kernel had set it; what cannot be is said, and changes nothing. */
  go(recipe: string, sketch: Sketch): void {
    try {
      const parsed = parseRecipe(recipe);
      resolve(parsed, layerNames(sketch));
      this.#hear("recipe_json", recipeJson(parsed));
      this.save();
    } catch (error) {
      const text = `the recipe in the address of this page cannot be shown: ${(error as Error).message}`;
      this.#hear("status", { state: "failed", what: "recipe", text, id: 0 });
    }
  }

  get #recipe(): string {
    return String(this.get("recipe_json"));
  }

  get #result(): string {
    return String(this.get("result") ?? "");
  }

  /** Tell what was known of the recipe, or of the retrained model: exact figures and a score, or that there are none. */
  #answer(): void {
    const known = this.data.results[this.#result] ?? this.data.known[this.#recipe];
    this.#hear("exact", known?.exact ?? null);
    const evaluated = this.#result === "" && this.get("recalibrate") ? known?.recalibrated : known;
    this.#hear("score", evaluated?.score ?? null);
    this.#hear("by_class", evaluated?.by_class ?? null);
  }

  #hear(name: string, value: unknown): void {
    if (this.#values.get(name) === value) return;
    this.#values.set(name, value);
    for (const callback of [...(this.#listeners.get(name) ?? [])]) callback();
  }
}
