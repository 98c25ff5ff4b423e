// What every view of one explorer shares: the recipe being edited, its preview, and what the kernel says of it.

import { batch, computed, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import { type Kinds, labelOf, offered } from "../core/control-schema";
import { Estimator } from "../core/estimate";
import { layerNames } from "../core/layer-overrides";
import {
  DEFAULTS,
  parseRecipe,
  plansOf,
  RecipeError,
  recipeJson,
  sketchedPlans,
  structureSparsity,
  withFields,
} from "../core/recipe";
import { recipeAt, stepsWithin } from "../core/recipe-for-budget";
import { exactOnly, withoutEstimate } from "../core/recipes-without-estimate";
import { decodeSketch } from "../core/sketch-decoder";
import type { Estimate, Figures, Memory, Plan, Recipe, Sketch } from "../core/types";
import type { SavedFigure } from "../ui/figure-prompt";
import { type Keeps, PLAIN, suggestions } from "../ui/save-names";
import { modelSignal } from "../ui/signal-that-follows-a-trait";
import type {
  ByClass,
  Command,
  ExplorerModel,
  Exporting,
  Metric,
  Page,
  Planned,
  Prediction,
  Race,
  Recalibration,
  Recovery,
  Score,
  Sensitivity,
  Status,
  Visit,
} from "./host-interface";
import { UndoStack } from "./undo";

/** While a drag moves, how often the kernel hears of it; and how long it must rest for the kernel to begin. */
const MOVING_MS = 1000;
const HELD_MS = 150;
const PATIENCE_MS = 1500;
/** So many recipes are remembered with the budgets they came of: as many as can be undone. */
const BUDGETS = 200;
const NO_METRIC: Metric = { name: "accuracy", higher: true, percent: true, has_data: false };
const NO_EXPORT: Exporting = { state: "idle", text: "", done: 0, exported: null, targets: [] };
/** The recipe that leaves a model as it is. */
const DENSE = recipeJson(DEFAULTS);
const IDLE: Status = { state: "idle", what: "", text: "", id: 0 };
const UNKNOWN: Memory = { weights: null, activations: null };
const NO_RECOVERY: Recovery = { state: "idle", recipe: "", text: "", done: 0, why: "it needs the kernel" };
const NO_SWITCH: Recalibration = { why: "it needs the kernel" };

/** The bytes that the file may have, and between what they can be chosen. */
export interface Budget {
  /** What was asked for, if that made the recipe; else the bytes that the file has. */
  readonly nbytes: number;
  readonly asked: boolean;
  readonly least: number;
  readonly most: number;
  /** Whether the frontier holds for this recipe: else it is planned anew, or there is a reason. */
  readonly ready: boolean;
  /** Why there is none, "" while that is not known. */
  readonly why: string;
}

/** `busy`: the kernel has not answered for a while; `gone`: nobody will. */
export type Notice = "" | "busy" | "gone";

/** How many layers the kernel has sketched, and of how many. */
export interface Sketching {
  readonly done: number;
  readonly all: number;
}

export interface State {
  readonly sketch: ReadonlySignal<Sketch>;
  /** How far the kernel is with the sketch, of which the page has a part; null once it has all of it. */
  readonly sketching: ReadonlySignal<Sketching | null>;
  /** Why the layers that are missing cannot be sketched; "" while they can, or none is. */
  readonly unsketched: ReadonlySignal<string>;
  readonly title: ReadonlySignal<string>;
  readonly recipe: ReadonlySignal<Recipe>;
  readonly recipeText: ReadonlySignal<string>;
  /** What the recipe asks of each layer. */
  readonly plans: ReadonlySignal<readonly Plan[]>;
  /** The kernel's figures where they belong to this recipe, else the preview; while that waits, those of an earlier one. */
  readonly figures: ReadonlySignal<Estimate>;
  /** The kinds a recipe can choose from. */
  readonly kinds: ReadonlySignal<Kinds>;
  /** What the recipe asks for that has no estimate, as the page calls it, and whether the kernel has yet to count it. */
  readonly exactOnly: ReadonlySignal<{ readonly name: string; readonly waiting: boolean }>;
  /** True between the first and the last event of a drag. */
  readonly dragging: ReadonlySignal<boolean>;
  readonly seconds: ReadonlySignal<number | null>;
  readonly baseline: ReadonlySignal<Score | null>;
  readonly metric: ReadonlySignal<Metric>;
  /** What was evaluated, without what is covered. */
  readonly history: ReadonlySignal<readonly Visit[]>;
  /** Which retrained or recovered model is shown; "" for the weights as they came. */
  readonly result: ReadonlySignal<string>;
  /** The score of what is shown; null while there is none, or it is covered. */
  readonly shownScore: ReadonlySignal<Score | null>;
  /** Whether every score is covered until somebody predicts it. */
  readonly predictFirst: ReadonlySignal<boolean>;
  /** Whether the score of what is shown waits to be predicted: nothing of this state tells it. */
  readonly covered: ReadonlySignal<boolean>;
  /** Whether anything may be told that hints at scores: with scores covered, only beside one that was predicted. */
  readonly hintsCovered: ReadonlySignal<boolean>;
  /** Whether only sparsity, bits, size, accuracy and the ridge are shown. */
  readonly simple: ReadonlySignal<boolean>;
  /** What was predicted of what is shown; null if nothing was. */
  readonly prediction: ReadonlySignal<Prediction | null>;
  readonly predictions: ReadonlySignal<readonly Prediction[]>;
  /** Whether batch norm is re-estimated before every score. */
  readonly recalibrate: ReadonlySignal<boolean>;
  readonly recalibration: ReadonlySignal<Recalibration>;
  readonly recovery: ReadonlySignal<Recovery>;
  readonly budget: ReadonlySignal<Budget>;
  readonly exporting: ReadonlySignal<Exporting>;
  /** What is got wrong, of whatever was evaluated last; null before, and for the dense model. */
  readonly byClass: ReadonlySignal<ByClass | null>;
  /** Whether that is of what is shown. */
  readonly byClassIsCurrent: ReadonlySignal<boolean>;
  /** Null before it is asked for, and while it is covered. */
  readonly sensitivity: ReadonlySignal<Sensitivity | null>;
  /** The figure saved last. */
  readonly figure: ReadonlySignal<SavedFigure | null>;
  /** What the buttons keep. */
  readonly keeps: ReadonlySignal<Keeps>;
  readonly memory: ReadonlySignal<Memory>;
  /** Null before there is a race. */
  readonly race: ReadonlySignal<Race | null>;
  /** Why the figures are no longer those of the model; "" while they are. */
  readonly stale: ReadonlySignal<string>;
  /** Multiply-accumulates of each layer for one example; empty while unknown. */
  readonly macs: ReadonlySignal<readonly (number | null)[]>;
  /** Indices of the layers in the order of the forward pass, as far as that is known. */
  readonly order: ReadonlySignal<readonly number[]>;
  readonly status: ReadonlySignal<Status>;
  readonly notice: ReadonlySignal<Notice>;
  readonly page: ReadonlySignal<Page>;
  readonly canUndo: ReadonlySignal<boolean>;
  readonly canRedo: ReadonlySignal<boolean>;
  /** Change the recipe; the preview follows in the next frame. Edits of one named gesture undo together. */
  edit(change: (recipe: Recipe) => Recipe, gesture?: string): void;
  /** Take the best recipe of at most so many bytes, layer by layer; the preview follows in the next frame. */
  setBudget(nbytes: number): void;
  /** Have the best recipes for all budgets planned around the present one, if they are not. */
  plan(): void;
  /** Tell the kernel now; the next edit is a new step of the history, unless the gesture is not `over`. */
  settle(over?: boolean): void;
  /** Go back to a recipe as it was tried: a retrained or recovered one comes back as it was. */
  goTo(visit: Visit): void;
  /** Have batch norm re-estimated before every score, or not. */
  setRecalibrate(on: boolean): void;
  /** Have every score covered until it is predicted, or not. */
  setPredictFirst(on: boolean): void;
  /** Show the few controls to begin with, or all. */
  setSimple(on: boolean): void;
  /** Say what the score of what is shown will be; it is shown from then on, and the prediction stays. */
  predict(value: number): void;
  /** What a layer is asked for that has no estimate; "" if all of it has. */
  unknownOf(layer: number): string;
  /** SQNR of a layer in dB at 1, 2 … 8 bits, pruned as it is now. */
  layerSqnr(layer: number): Float64Array;
  undo(): void;
  redo(): void;
  reset(): void;
  /** How often it was reset, which makes old news of what was refused, even where it changes no recipe. */
  readonly resets: ReadonlySignal<number>;
  /** Address of the glossary; "" where none is known. */
  readonly glossary: string;
  /** False on a page that stands alone: what is not known yet stays unknown. */
  readonly kernel: boolean;
  /** Whether the monitor of a training can be shown inside. */
  readonly nests: boolean;
  send(command: Command): void;
  /** Leave a question of the kernel unanswered. */
  dismiss(): void;
  /** Let the page remember something of itself. */
  remember(changes: Page): void;
  dispose(): void;
}

interface Exact extends Figures {
  seconds?: number;
  /** Which retrained or recovered model was counted; none for weights as they came. */
  result?: string | null;
}

/** Make the state of a model; `mount` any number of views on it, and dispose of it when the model goes. */
export function createState(model: ExplorerModel): State {
  return new Shared(model);
}

class Shared implements State {
  readonly #blob: Signal<unknown>;
  readonly #exact: Signal<Exact | null>;
  readonly #preview: Signal<Estimate>;
  readonly #score: Signal<Score | null>;
  readonly #visits: Signal<readonly Visit[]>;
  readonly #view: Signal<string>;
  readonly #planned: Signal<Planned | null>;
  /** What was asked for, by the recipe that came of it. */
  readonly #budgets = signal<ReadonlyMap<string, number>>(new Map());
  #planFor = "";
  readonly #newsOf = signal("");
  readonly #dismissed = signal(-1);
  readonly #past = new UndoStack<Recipe>();
  readonly #stops: (() => void)[] = [];
  readonly #start: Recipe;
  #estimator: Estimator;
  #wanted: Recipe;
  #published: string;
  #publishedBudget: number | null = null;
  #moving = false;
  #unsaid = false;
  #frame = 0;
  #heldTimer: ReturnType<typeof setTimeout> | undefined;
  #patienceTimer: ReturnType<typeof setTimeout> | undefined;
  #lastPublish = Number.NEGATIVE_INFINITY;

  readonly recipe: Signal<Recipe>;
  readonly dragging = signal(false);
  readonly notice = signal<Notice>("");
  readonly canUndo = signal(false);
  readonly canRedo = signal(false);
  readonly resets = signal(0);
  readonly sketch: ReadonlySignal<Sketch>;
  readonly sketching: ReadonlySignal<Sketching | null>;
  readonly unsketched: ReadonlySignal<string>;
  readonly recipeText: ReadonlySignal<string>;
  readonly plans: ReadonlySignal<readonly Plan[]>;
  readonly figures: ReadonlySignal<Estimate>;
  readonly kinds: ReadonlySignal<Kinds>;
  readonly exactOnly: ReadonlySignal<{ readonly name: string; readonly waiting: boolean }>;
  readonly seconds: ReadonlySignal<number | null>;
  readonly title: Signal<string>;
  readonly baseline: Signal<Score | null>;
  readonly metric: Signal<Metric>;
  readonly history: ReadonlySignal<readonly Visit[]>;
  readonly result: ReadonlySignal<string>;
  readonly shownScore: ReadonlySignal<Score | null>;
  readonly predictFirst: Signal<boolean>;
  readonly simple: ReadonlySignal<boolean>;
  readonly covered: ReadonlySignal<boolean>;
  readonly hintsCovered: ReadonlySignal<boolean>;
  readonly prediction: ReadonlySignal<Prediction | null>;
  readonly predictions: Signal<readonly Prediction[]>;
  readonly recalibrate: Signal<boolean>;
  readonly recalibration: ReadonlySignal<Recalibration>;
  readonly exporting: ReadonlySignal<Exporting>;
  readonly recovery: ReadonlySignal<Recovery>;
  readonly budget: ReadonlySignal<Budget>;
  readonly byClass: ReadonlySignal<ByClass | null>;
  readonly byClassIsCurrent: ReadonlySignal<boolean>;
  readonly sensitivity: ReadonlySignal<Sensitivity | null>;
  readonly figure: ReadonlySignal<SavedFigure | null>;
  readonly keeps: ReadonlySignal<Keeps>;
  readonly race: ReadonlySignal<Race | null>;
  readonly memory: ReadonlySignal<Memory>;
  readonly stale: ReadonlySignal<string>;
  readonly macs: Signal<readonly (number | null)[]>;
  readonly order: ReadonlySignal<readonly number[]>;
  readonly status: ReadonlySignal<Status>;
  readonly page: Signal<Page>;

  constructor(private readonly model: ExplorerModel) {
    this.#blob = this.#follow<unknown>("sketch_data", undefined, () => this.#reload());
    this.sketch = computed(() => {
      const found = this.#blob.value as DataView | Uint8Array | Sketch;
      return "layers" in found ? found : decodeSketch(found);
    });
    this.title = this.#follow("title", "");
    this.#exact = this.#follow<Exact | null>("exact", null, () => this.#catchUp());
    this.#score = this.#follow<Score | null>("score", null);
    this.baseline = this.#follow<Score | null>("baseline", null);
    this.metric = this.#follow("metric", NO_METRIC);
    this.#visits = this.#follow<readonly Visit[]>("history", []);
    this.result = this.#follow("result", "");
    this.recalibrate = this.#follow("recalibrate", false);
    this.recalibration = this.#follow("recalibration", NO_SWITCH);
    this.recovery = this.#follow("recovery", NO_RECOVERY);
    this.#planned = this.#follow<Planned | null>("frontier", null);
    this.exporting = this.#follow("exporting", NO_EXPORT);
    this.#view = this.#follow("view", "full");
    this.simple = computed(() => this.#view.value === "simple");
    this.predictFirst = this.#follow("predict_first", false);
    this.predictions = this.#follow<readonly Prediction[]>("predictions", []);
    const byClass = this.#follow<ByClass | null>("by_class", null);
    const sensitivity = this.#follow<Sensitivity | null>("sensitivity", null);
    this.figure = this.#follow<SavedFigure | null>("figure", null);
    const keeps = this.#follow<Partial<Keeps>>("keeps", {});
    this.keeps = computed(() => ({ ...suggestions(this.title.value), ...keeps.value }));
    this.memory = this.#follow("memory", UNKNOWN);
    this.race = this.#follow<Race | null>("race", null);
    this.stale = this.#follow("stale", "");
    this.macs = this.#follow<readonly (number | null)[]>("macs", []);
    const order = this.#follow<readonly number[]>("order", []);
    this.order = computed(() => {
      const { layers } = this.sketch.value;
      return order.value.length === layers.length ? order.value : layers.map((_, i) => i);
    });
    this.sketching = computed(() => {
      const { layers } = this.sketch.value;
      const done = layers.filter((layer) => !layer.pending).length;
      return done < layers.length ? { done, all: layers.length } : null;
    });
    const unsketched = this.#follow("unsketched", "");
    this.unsketched = computed(() => (this.sketching.value ? unsketched.value : ""));
    const news = this.#follow("status", IDLE, () => {
      this.#newsOf.value = recipeJson(this.#wanted);
      this.#heard();
    });
    this.status = computed(() => this.#fresh(news.value));
    this.page = this.#follow<Page>("page", {});
    this.#published = String(model.get("recipe_json"));
    this.#newsOf.value = this.#published;
    this.#start = parseRecipe(this.#published);
    this.#wanted = this.#start;
    this.recipe = signal(this.#start);
    this.#estimator = new Estimator(this.sketch.value);
    this.#preview = signal(this.#estimated(this.#start) ?? this.#estimator.estimate(DEFAULTS));
    const kinds = this.#follow<Partial<Kinds>>("kinds", {});
    this.kinds = computed(() => offered(kinds.value));
    this.recipeText = computed(() => recipeJson(this.recipe.value));
    this.plans = computed(() => this.#plansOf(this.recipe.value));
    const unknown = computed(() => exactOnly(this.sketch.value, this.recipe.value, this.plans.value));
    this.exactOnly = computed(() => {
      const name = unknown.value && labelOf(this.kinds.value, unknown.value);
      return { name, waiting: name !== "" && !this.#counted() };
    });
    this.figures = computed(() => this.#best());
    this.budget = computed(() => this.#budget());
    this.#noteBudget(this.#published);
    this.seconds = computed(() => (this.#counted() ? (this.#exact.value?.seconds ?? null) : null));
    // what covers scores covers them here, where every view gets them: none can tell by mistake
    const now = computed(() => this.#scoreNow());
    this.history = computed(() => this.#visits.value.filter((visit) => !this.#isCovered(visit)));
    this.prediction = computed(() => this.#predictionOf(this.#shown()));
    this.covered = computed(() => {
      const nothing = this.unsketched.value !== "" || now.value?.state === "failed" || (!this.kernel && !now.value);
      return this.metric.value.has_data && !nothing && this.#isCovered(this.#shown());
    });
    this.shownScore = computed(() => (this.covered.value ? null : now.value));
    this.hintsCovered = computed(() => this.predictFirst.value && this.prediction.value === null);
    this.byClass = computed(() => (byClass.value && this.#isCovered(byClass.value) ? null : byClass.value));
    this.sensitivity = computed(() => (this.hintsCovered.value ? null : sensitivity.value));
    this.byClassIsCurrent = computed(() => {
      const found = this.byClass.value;
      return found?.recipe === this.recipeText.value && isShown(found, this.result.value, this.recalibrate.value);
    });
    this.#checkAlive();
    this.#stops.push(
      model.on("recipe_json", () => this.#incoming()),
      model.on("budget", () => this.#noteBudget(recipeJson(this.#wanted))),
      model.onAlive?.(() => this.#checkAlive()) ?? (() => {}),
    );
    model.onOpen?.(() => {
      if (this.#unsaid) this.#publish(this.dragging.value);
    });
  }

  edit(change: (recipe: Recipe) => Recipe, gesture = ""): void {
    if (this.model.locked?.()) return;
    const next = change(this.#wanted);
    if (recipeJson(next) === recipeJson(this.#wanted)) return;
    this.#past.record(this.#wanted, gesture, this.dragging.value);
    this.#show(next);
    if (gesture === "") this.settle();
    else this.#drag();
  }

  setBudget(nbytes: number): void {
    const frontier = this.#planned.value?.frontier;
    const steps = frontier && stepsWithin(frontier, nbytes);
    if (!frontier || !steps || this.model.locked?.()) return;
    const recipe = recipeAt(frontier, steps);
    this.#askFor(recipeJson(recipe), nbytes);
    this.edit(() => recipe, "budget");
  }

  plan(): void {
    const text = this.recipeText.value;
    if (!this.kernel || this.budget.value.ready || this.#planned.value?.of === text || this.#planFor === text) return;
    this.#planFor = text;
    this.send({ do: "plan" });
  }

  settle(over = true): void {
    if (over) this.#past.pause();
    this.dragging.value = false;
    this.#publish();
  }

  goTo({ recipe, result, recalibrated }: Visit): void {
    if (result) {
      this.send({ do: "goto", result });
      return;
    }
    if (this.result.value) this.send({ do: "goto", result: null });
    this.setRecalibrate(recalibrated ?? false);
    this.edit(() => parseRecipe(recipe));
  }

  setRecalibrate(on: boolean): void {
    if (on === this.recalibrate.value) return;
    this.recalibrate.value = on;
    this.model.set("recalibrate", on);
    this.model.save();
  }

  setPredictFirst(on: boolean): void {
    if (on === this.predictFirst.value) return;
    this.predictFirst.value = on;
    this.model.set("predict_first", on);
    this.model.save();
  }

  setSimple(on: boolean): void {
    this.#view.value = on ? "simple" : "full";
    this.model.set("view", this.#view.value);
    this.model.save();
  }

  predict(predicted: number): void {
    if (!this.covered.value) return;
    const { recipe, recalibrated } = this.#shown();
    this.predictions.value = [...this.predictions.value, { recipe, recalibrated, predicted }];
    this.model.set("predictions", this.predictions.value);
    this.model.save();
  }

  get kernel(): boolean {
    return this.model.kernel ?? true;
  }

  get glossary(): string {
    return String(this.model.get("glossary") ?? "");
  }

  get nests(): boolean {
    return this.model.nests ?? true;
  }

  unknownOf(layer: number): string {
    return withoutEstimate(this.sketch.value, this.recipe.value, this.plans.value[layer]);
  }

  layerSqnr(layer: number): Float64Array {
    return this.#estimator.layerSqnr(this.recipe.value, layer);
  }

  undo(): void {
    this.#travel(this.#past.undo(this.#wanted));
  }

  redo(): void {
    this.#travel(this.#past.redo(this.#wanted));
  }

  reset(): void {
    this.edit(() => this.#start);
    this.resets.value += 1;
  }

  send(command: Command): void {
    this.#publish();
    this.#checkAlive();
    this.model.send(command);
  }

  dismiss(): void {
    this.#dismissed.value = this.status.value.id;
  }

  remember(changes: Page): void {
    this.page.value = { ...this.page.value, ...changes };
    this.model.set("page", this.page.value);
    this.model.save();
  }

  dispose(): void {
    cancelAnimationFrame(this.#frame);
    clearTimeout(this.#heldTimer);
    clearTimeout(this.#patienceTimer);
    for (const stop of this.#stops) stop();
  }

  /** How a command went is news until the recipe changes. */
  #fresh(status: Status): Status {
    if (status.id === this.#dismissed.value) return IDLE;
    const over = ["done", "failed", "exists"].includes(status.state);
    return over && this.#newsOf.value !== this.recipeText.value ? IDLE : status;
  }

  #scoreNow(): Score | null {
    const [score, result, recipe] = [this.#score.value, this.result.value, this.recipeText.value];
    const recalibrate = this.recalibrate.value;
    const sameModel =
      (score?.result ?? "") === result && (result !== "" || (score?.recalibrated ?? false) === recalibrate);
    if (score?.recipe === recipe && sameModel) return score;
    const visit = this.#visits.value.findLast((v) => v.recipe === recipe && isShown(v, result, recalibrate));
    return visit ? { ...visit, total: null, state: "done", metric: this.metric.value.name } : null;
  }

  /** What is shown, as a visit names it. */
  #shown(): { recipe: string; recalibrated: boolean; result: string } {
    return { recipe: this.recipeText.value, recalibrated: this.recalibrate.value, result: this.result.value };
  }

  /** Remember that a recipe came of a budget: undo brings back both. */
  #askFor(recipe: string, nbytes: number): void {
    const known = [...this.#budgets.value].filter(([text]) => text !== recipe).slice(-BUDGETS);
    this.#budgets.value = new Map([...known, [recipe, nbytes]]);
  }

  /** The kernel, or a linked widget, has set a budget, and the recipe with it. */
  #noteBudget(recipe: string): void {
    const nbytes = this.model.get("budget");
    if (typeof nbytes !== "number") return;
    const frontier = this.#planned.value?.frontier;
    const best = frontier && recipeJson(recipeAt(frontier, stepsWithin(frontier, nbytes) ?? []));
    if (!best || best === recipe) this.#askFor(recipe, nbytes);
  }

  #budget(): Budget {
    const planned = this.#planned.value;
    const text = this.recipeText.value;
    const asked = this.#budgets.value.get(text);
    const nbytes = asked ?? this.figures.value.nbytes;
    const frontier = planned?.frontier;
    if (!frontier) {
      const why = planned?.of === text ? planned.why : "";
      return { nbytes, asked: false, least: nbytes, most: nbytes, ready: false, why };
    }
    const ready =
      planned.of === text || asked !== undefined || planned.settings === recipeJson(unplanned(this.recipe.value));
    const most = Math.min(frontier.nbytes[frontier.nbytes.length - 1], this.sketch.value.original_nbytes);
    return { nbytes, asked: asked !== undefined, least: frontier.nbytes[0], most, ready, why: "" };
  }

  #predictionOf(of: { recipe: string; recalibrated?: boolean }): Prediction | null {
    return predictionOf(this.predictions.value, of);
  }

  /**
   * Whether a score waits to be predicted. The dense model's does not, as it is what predictions start from, nor does a
   * retrained model's, which its training has shown epoch by epoch.
   */
  #isCovered(of: { recipe: string; recalibrated?: boolean; result?: string | null }): boolean {
    if (!this.predictFirst.value || of.result || (of.recipe === DENSE && !of.recalibrated)) return false;
    return this.#predictionOf(of) === null;
  }

  #follow<T>(name: string, missing: T, changed?: () => void): Signal<T> {
    return modelSignal(this.model, name, missing, this.#stops, changed);
  }

  /** The kernel's figures, whatever recipe they are of; null before the first, or if they are of another model. */
  #lastExact(): Exact | null {
    const exact = this.#exact.value;
    return exact && exact.layers.kept.length === this.sketch.value.layers.length ? exact : null;
  }

  /** Whether the kernel has counted what is shown: this very recipe, of this very model. */
  #counted(): boolean {
    const exact = this.#lastExact();
    return exact?.recipe === this.recipeText.value && (exact.result ?? "") === this.result.value;
  }

  #best(): Estimate {
    const exact = this.#lastExact();
    if (exact && (this.#counted() || this.exactOnly.value.waiting)) {
      return this.#estimator.counted(exact);
    }
    return this.#preview.value;
  }

  /** The preview of a recipe; null where it can only be counted. */
  #estimated(recipe: Recipe): Estimate | null {
    if (exactOnly(this.sketch.value, recipe, this.#plansOf(recipe))) return null;
    try {
      return this.#estimator.estimate(recipe);
    } catch (error) {
      // it names a layer that the model, looked at again, has no more: the kernel's next word is another recipe
      if (error instanceof RecipeError) return null;
      throw error;
    }
  }

  #plansOf(recipe: Recipe): readonly Plan[] {
    const sketch = this.sketch.value;
    return sketchedPlans(plansOf(recipe, layerNames(sketch)), sketch);
  }

  #travel(recipe: Recipe | undefined): void {
    if (!recipe) return;
    this.#show(recipe);
    this.settle();
  }

  /** Estimate and paint once per frame, however many events came in between. */
  #show(recipe: Recipe): void {
    this.#wanted = recipe;
    this.canUndo.value = this.#past.canUndo;
    this.canRedo.value = this.#past.canRedo;
    if (this.#frame === 0) this.#frame = requestAnimationFrame(() => this.#paint());
  }

  #paint(): void {
    this.#frame = 0;
    batch(() => {
      const preview = this.#estimated(this.#wanted);
      if (preview) this.#preview.value = preview;
      this.recipe.value = this.#wanted;
    });
    this.model.set("recipe_json", this.recipeText.value);
  }

  /**
   * A drag moves: the kernel hears of it seldom and rests meanwhile. Each message costs the page two frames of
   * JupyterLab's own, and counting would take the very cores that paint.
   */
  #drag(): void {
    this.dragging.value = true;
    clearTimeout(this.#heldTimer);
    this.#heldTimer = setTimeout(() => this.#publish(), HELD_MS);
    if (performance.now() - this.#lastPublish >= MOVING_MS) this.#publish(true);
  }

  #publish(moving = false): void {
    if (!moving) clearTimeout(this.#heldTimer);
    // what is sent later is what the recipe is then, of which `#published` has to know: its echo is no news
    this.#unsaid = this.model.open === false;
    if (this.#unsaid) return;
    const text = recipeJson(this.#wanted);
    const budget = this.#budgets.value.get(text) ?? null;
    if (text === this.#published && moving === this.#moving && budget === this.#publishedBudget) return;
    this.#published = text;
    this.#publishedBudget = budget;
    this.#moving = moving;
    this.#lastPublish = performance.now();
    this.model.set("recipe_json", text);
    this.model.set("budget", budget);
    this.model.set("dragging", moving);
    this.model.save();
    clearTimeout(this.#patienceTimer);
    if (!this.#checkAlive() || moving || !this.kernel) return;
    this.#patienceTimer = setTimeout(() => this.#doubt(), PATIENCE_MS);
  }

  #incoming(): void {
    const text = String(this.model.get("recipe_json"));
    if (text === this.#published || text === recipeJson(this.#wanted)) return;
    this.#published = text;
    this.#noteBudget(text);
    this.#past.record(this.#wanted, "kernel");
    this.#show(parseRecipe(text));
  }

  /** The sketch changed: in the same batch all that is made of it does, as tables of one do not fit layers of another. */
  #reload(): void {
    this.#estimator = new Estimator(this.sketch.value);
    cancelAnimationFrame(this.#frame);
    this.#preview.value = this.#estimator.estimate(DEFAULTS); // stands where the recipe has no estimate
    this.#paint();
  }

  /**
   * Figures came. They draw the slider again, and between an edit and its frame that would be where it stood before: the
   * next arrow key would go on from there, and a step be lost.
   */
  #catchUp(): void {
    if (this.#frame !== 0) {
      cancelAnimationFrame(this.#frame);
      this.#paint();
    }
    this.#heard();
  }

  /** The kernel spoke: it is not busy. A late word of one that is gone brings nobody back. */
  #heard(): void {
    if (this.notice.value === "busy") this.notice.value = "";
  }

  #doubt(): void {
    if (!this.#checkAlive()) return;
    if (this.#exact.value?.recipe !== this.#published && this.status.value.state !== "busy") this.notice.value = "busy";
  }

  #checkAlive(): boolean {
    const alive = this.model.alive?.() ?? true;
    if (!alive) this.notice.value = "gone";
    else if (this.notice.value === "gone") this.notice.value = "";
    return alive;
  }
}

/** A recipe without what a plan chooses: the twin of Python's `BudgetFrontier.settings`, where layers are locks. */
function unplanned(recipe: Recipe): Recipe {
  const fixed = structureSparsity(recipe.structure);
  return withFields(recipe, { bits: 32, scope: "layer", sparsity: fixed });
}

/** What was predicted of the score of a recipe, with batch norm re-estimated or not; null if nothing was. */
export function predictionOf(
  predictions: readonly Prediction[],
  { recipe, recalibrated = false }: { recipe: string; recalibrated?: boolean },
): Prediction | null {
  return predictions.find((one) => one.recipe === recipe && one.recalibrated === recalibrated) ?? null;
}

/** Whether a visit is of the weights that are shown: a retrained model by its name, or those that came. */
export function isShown(
  { result, recalibrated = false, provenance = PLAIN }: Partial<Visit>,
  shown: string,
  recalibrate: boolean,
): boolean {
  if (shown || result) return result === shown;
  return recalibrated === recalibrate && (recalibrated || provenance === PLAIN);
}
