// @vitest-environment happy-dom
// The shared state: previews at once, tells the kernel seldom, believes the kernel where it speaks of this recipe.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { effect } from "@preact/signals";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Estimator } from "../core/estimate";
import { parseRecipe, recipeJson, withFields } from "../core/recipe";
import { decodeSketch } from "../core/sketch-decoder";
import { encode, gaussian, sketchOf } from "../core/test-sketches";
import type { Recipe } from "../core/types";
import { createState } from "./explorer-state";
import type { Command, ExplorerModel, Score, Visit } from "./host-interface";
import { memoryOf } from "./layer-and-file-figures";

const { sketch } = JSON.parse(readFileSync(join(import.meta.dirname, "../../tests/vectors/conv.json"), "utf8"));
const BLOB = Uint8Array.from(Buffer.from(sketch, "base64"));
const START = '{"format":"shrinkwidget-recipe","version":2,"sparsity":0.5,"bits":4}';

const VISIT: Visit = {
  recipe: START,
  nbytes: 900,
  value: 0.35,
  low: 0.3,
  high: 0.4,
  n: 360,
  provenance: "no retraining",
  result: null,
};

/** A model that remembers, with a kernel that answers only when told to. */
class Recorder implements ExplorerModel {
  readonly values = new Map<string, unknown>([
    ["sketch_data", BLOB],
    ["recipe_json", START],
  ]);
  /** What the kernel was told: a recipe, and whether the drag still moves. */
  readonly told: [recipe: string, moving: boolean][] = [];
  readonly commands: Command[] = [];
  readonly listeners = new Map<string, Set<() => void>>();
  readonly watchers = new Set<() => void>();
  readonly openers: (() => void)[] = [];
  living = true;
  open = true;

  get(name: string): unknown {
    return this.values.get(name);
  }

  set(name: string, value: unknown): void {
    this.values.set(name, value);
  }

  save(): void {
    this.told.push([String(this.values.get("recipe_json")), Boolean(this.values.get("dragging"))]);
  }

  onOpen(callback: () => void): void {
    this.openers.push(callback);
  }

  on(name: string, callback: () => void): () => void {
    const all = this.listeners.get(name) ?? new Set();
    this.listeners.set(name, all.add(callback));
    return () => all.delete(callback);
  }

  alive(): boolean {
    return this.living;
  }

  onAlive(callback: () => void): () => void {
    this.watchers.add(callback);
    return () => this.watchers.delete(callback);
  }

  /** The kernel dies, or comes back. */
  live(living: boolean): void {
    this.living = living;
    for (const callback of this.watchers) callback();
  }

  send(command: Command): void {
    this.commands.push(command);
  }

  /** The kernel sets a value. */
  answer(name: string, value: unknown): void {
    this.values.set(name, value);
    for (const callback of this.listeners.get(name) ?? []) callback();
  }
}

const nextFrame = () => vi.advanceTimersByTime(20);
const sparsity = (value: number) => (recipe: ReturnType<typeof parseRecipe>) => withFields(recipe, { sparsity: value });

it("says of memory without channels what is certain, and the measured peak once the kernel ran what is left", () => {
  const { sketch } = JSON.parse(readFileSync(join(import.meta.dirname, "../../tests/vectors/channels.json"), "utf8"));
  const host = new Recorder();
  const whole = { weights: 50_000, activations: 24_832 };
  const recipe = withFields(parseRecipe(START), { sparsity: 0, channels: 0.5 });
  const start = { sketch_data: Uint8Array.from(Buffer.from(sketch, "base64")), memory: whole };
  for (const [name, value] of Object.entries({ ...start, recipe_json: recipeJson(recipe) })) host.set(name, value);
  const state = createState(host);
  const { weights, ...rest } = memoryOf(state);
  expect(rest).toEqual({ activations: 24_832, exact: false });
  expect(weights).toBeLessThan(50_000);
  const estimate = new Estimator(decodeSketch(start.sketch_data)).estimate(recipe);
  const measured = { weights: 20_000, activations: 12_480 };
  host.answer("exact", { ...estimate, memory: measured });
  expect(memoryOf(state)).toEqual({ ...measured, exact: true });
  state.dispose();
});

describe("the shared state", () => {
  let model: Recorder;
  let state: ReturnType<typeof createState>;

  beforeEach(() => {
    vi.useFakeTimers({
      toFake: ["setTimeout", "clearTimeout", "requestAnimationFrame", "cancelAnimationFrame", "performance"],
    });
    model = new Recorder();
    state = createState(model);
    vi.advanceTimersByTime(1000);
  });

  afterEach(() => {
    state.dispose();
    vi.useRealTimers();
  });

  function drag(...values: number[]): void {
    for (const value of values) state.edit(sparsity(value), "sparsity");
    nextFrame();
  }

  it("says how far a sketch is whose layers still come, and estimates those that are there", () => {
    const layers = [1, 2, 3].map((i) => ({ name: `${i}.weight`, shape: [8, 16], values: gaussian(128, i, i) }));
    model.answer("sketch_data", encode(layers, 1));
    nextFrame();
    expect(state.sketching.value).toEqual({ done: 1, all: 3 });
    drag(0.9);
    expect(state.plans.value.map(({ keep }) => keep)).toEqual([false, true, true]);
    expect(Array.from(state.figures.value.layers.kept)).toEqual([128 - 115, 128, 128]);
    model.answer("sketch_data", encode(layers));
    nextFrame();
    expect(state.sketching.value).toBeNull();
    expect(state.figures.value.nbytes).toBe(new Estimator(sketchOf(layers)).estimate(state.recipe.value).nbytes);
  });

  it("shows of each sketch that comes its layers, plans and figures together, and never those of two", () => {
    const layers = [1, 2, 3].map((i) => ({ name: `${i}.weight`, shape: [8, 16], values: gaussian(128, i, i) }));
    const seen: boolean[][][] = [];
    for (const asked of [{ sparsity: 0.5, bits: 4 }, { importance: { kind: "mine" } }, { structure: "mine" }]) {
      model.answer("sketch_data", encode(layers, 0));
      state.edit((recipe) => withFields(recipe, asked as Partial<Recipe>));
      nextFrame();
      const stop = effect(() => {
        const pending = state.sketch.value.layers.map((layer) => layer.pending ?? false);
        const unplanned = state.plans.value.map((plan) => plan.keep);
        seen.push([pending, unplanned, state.figures.value.left.layers.map((layer) => layer.pending ?? false)]);
      });
      for (const sketched of [1, 2, 3]) {
        model.answer("sketch_data", encode(layers, sketched)); // and no frame passes
        expect(seen.at(-1)?.[0]).toEqual([1, 2, 3].map((i) => i > sketched));
      }
      stop();
    }
    for (const [pending, unplanned, left] of seen) expect([unplanned, left]).toEqual([pending, pending]);
    state.edit(() => parseRecipe(START));
    nextFrame();
    expect(state.figures.value.nbytes).toBe(new Estimator(sketchOf(layers)).estimate(parseRecipe(START)).nbytes);
  });

  it("outlives a reader that fails: the next sketch is taken as ever", () => {
    const layers = [1, 2].map((i) => ({ name: `${i}.weight`, shape: [8, 16], values: gaussian(128, i, i) }));
    const stop = effect(() => {
      if (state.sketching.value?.done === 1) throw new Error("cannot be drawn");
    });
    expect(() => model.answer("sketch_data", encode(layers, 1))).toThrow("cannot be drawn");
    expect(state.figures.value.left).toBe(state.sketch.value);
    model.answer("sketch_data", encode(layers));
    expect(state.figures.value.left.layers.map((layer) => layer.pending)).toEqual([undefined, undefined]);
    stop();
  });

  it("shows what is asked for as soon as figures come, or a slider drawn again would fall back", () => {
    state.edit(sparsity(0.9), "sparsity");
    const exact = { ...state.figures.value, exact: true };
    model.answer("exact", exact);
    expect(state.recipe.value.sparsity).toBe(0.9);
    expect(state.figures.value.exact).toBe(false);
    nextFrame();
    expect(state.recipe.value.sparsity).toBe(0.9);
  });

  it("previews in the next frame, without the kernel", () => {
    drag(0.6, 0.7, 0.8);
    const estimate = new Estimator(decodeSketch(BLOB)).estimate(state.recipe.value);
    expect(state.recipe.value.sparsity).toBe(0.8);
    expect(state.figures.value.nbytes).toBe(estimate.nbytes);
    expect(state.figures.value.exact).toBe(false);
  });

  it("tells the kernel once a second while a drag moves, and at its end", () => {
    for (let i = 0; i < 150; i++) drag(0.5 + i / 500);
    expect(model.told.length).toBe(3);
    expect(model.told.every(([, moving]) => moving)).toBe(true);
    state.settle();
    expect(model.told.slice(3)).toEqual([[recipeJson(state.recipe.value), false]]);
    vi.advanceTimersByTime(1000);
    expect(model.told.length).toBe(4);
  });

  it("tells the kernel when a drag is held, and again when it goes on", () => {
    drag(0.6, 0.7);
    expect(model.told.map(([, moving]) => moving)).toEqual([true]);
    vi.advanceTimersByTime(200);
    expect(model.told.at(-1)).toEqual([recipeJson(state.recipe.value), false]);
    vi.advanceTimersByTime(1000);
    drag(0.8);
    expect(model.told.length).toBe(3);
    expect(model.told.at(-1)).toEqual([recipeJson(state.recipe.value), true]);
    expect(state.dragging.value).toBe(true);
  });

  it("lets what is linked in the page follow every frame of a drag", () => {
    for (const value of [0.6, 0.7, 0.8]) {
      drag(value);
      expect(parseRecipe(String(model.get("recipe_json"))).sparsity).toBe(value);
    }
    expect(model.told.length).toBe(1);
  });

  it("undoes a drag in one step and tells the kernel so", () => {
    drag(0.6, 0.7, 0.8);
    state.settle();
    state.undo();
    nextFrame();
    expect(state.recipeText.value).toBe(START);
    expect(model.told.at(-1)).toEqual([START, false]);
    expect(state.canUndo.value).toBe(false);
    state.redo();
    nextFrame();
    expect(state.recipe.value.sparsity).toBe(0.8);
  });

  it("shows the kernel's figures for this recipe, and the preview for any other", () => {
    const exact = {
      ...new Estimator(decodeSketch(BLOB)).estimate(parseRecipe(START)),
      exact: true,
      header: 4242,
      seconds: 0.07,
    };
    model.answer("exact", exact);
    expect(state.figures.value.exact).toBe(true);
    expect(state.figures.value.header).toBe(4242);
    drag(0.6);
    expect(state.figures.value.exact).toBe(false);
  });

  it("follows a recipe that comes from the kernel, and can undo it", () => {
    const other = START.replace("0.5", "0.9");
    model.answer("recipe_json", other);
    nextFrame();
    expect(state.recipeText.value).toBe(other);
    expect(model.told).toEqual([]);
    state.undo();
    nextFrame();
    expect(state.recipeText.value).toBe(START);
  });

  describe("with predictions first", () => {
    const other = START.replace("0.5", "0.9");
    const score = { ...VISIT, total: 360, state: "done", metric: "accuracy" };
    const sensitivity = { state: "done", kind: "bits", amounts: [4], dense: 0.9, layers: [], pending: 0 };

    beforeEach(() => {
      model.answer("metric", { name: "accuracy", higher: true, percent: true, has_data: true });
      model.answer("score", score);
      model.answer("history", [VISIT, { ...VISIT, recipe: other }]);
      model.answer("by_class", { recipe: START, recalibrated: false, n: 360, classes: [] });
      model.answer("sensitivity", sensitivity);
    });

    it("covers a score and all that hints at it until it is predicted, and then that of this recipe alone", () => {
      expect(state.shownScore.value?.value).toBe(0.35);
      state.setPredictFirst(true);
      expect(model.get("predict_first")).toBe(true);
      expect(state.covered.value).toBe(true);
      expect([state.shownScore, state.byClass, state.sensitivity].map((one) => one.value)).toEqual([null, null, null]);
      expect(state.history.value).toEqual([]);
      state.predict(0.8);
      expect(model.get("predictions")).toEqual([{ recipe: START, recalibrated: false, predicted: 0.8 }]);
      expect(state.covered.value).toBe(false);
      expect(state.shownScore.value?.value).toBe(0.35);
      expect(state.byClass.value?.n).toBe(360);
      expect(state.sensitivity.value).toEqual(sensitivity);
      expect(state.history.value).toEqual([VISIT]);
      state.predict(0.4); // too late
      expect(state.prediction.value?.predicted).toBe(0.8);
    });

    it("covers with batch norm re-estimated what was predicted without", () => {
      state.setPredictFirst(true);
      state.predict(0.8);
      state.setRecalibrate(true);
      expect(state.covered.value).toBe(true);
    });

    it("covers neither the dense model's score nor a retrained one", () => {
      state.setPredictFirst(true);
      model.answer("result", "1");
      expect(state.covered.value).toBe(false);
      model.answer("result", "");
      state.edit(() => parseRecipe('{"format":"shrinkwidget-recipe","version":2}'));
      nextFrame();
      expect(state.covered.value).toBe(false);
    });

    it("says why there is no score where the evaluation failed, as there is nothing to predict", () => {
      state.setPredictFirst(true);
      model.answer("score", { recipe: START, state: "failed", text: "the metric failed" });
      expect(state.covered.value).toBe(false);
      expect(state.shownScore.value?.text).toBe("the metric failed");
    });
  });

  it("says so when the kernel does not answer, until it does", () => {
    drag(0.6);
    state.settle();
    vi.advanceTimersByTime(3000);
    expect(state.notice.value).toBe("busy");
    model.answer("exact", { ...new Estimator(decodeSketch(BLOB)).estimate(state.recipe.value), exact: true });
    expect(state.notice.value).toBe("");
  });

  it("keeps the news of how a command went until the recipe changes", () => {
    model.answer("status", { state: "failed", what: "save", text: "the disk is full", id: 1 });
    expect(state.status.value.text).toBe("the disk is full");
    drag(0.6);
    expect(state.status.value.state).toBe("idle");
  });

  it("says so when the kernel is disconnected", () => {
    model.living = false;
    state.send({ do: "compress", name: "small" });
    expect(state.notice.value).toBe("gone");
  });

  it("says so at once when the kernel goes and nobody asks, and believes no late word of it", () => {
    model.live(false);
    expect(state.notice.value).toBe("gone");
    model.answer("exact", { ...new Estimator(decodeSketch(BLOB)).estimate(state.recipe.value), exact: true });
    expect(state.notice.value).toBe("gone");
    model.live(true);
    expect(state.notice.value).toBe("");
  });

  it("tells nothing while nobody hears it, then what is there, whose echo is no step to undo", () => {
    model.open = false;
    drag(0.6);
    vi.advanceTimersByTime(3000);
    drag(0.7);
    nextFrame();
    expect(model.told).toEqual([]);
    model.open = true;
    for (const opened of model.openers) opened();
    const told = START.replace("0.5", "0.7");
    expect(model.told).toEqual([[told, true]]);
    drag(0.8);
    nextFrame();
    model.answer("recipe_json", told);
    state.settle();
    nextFrame();
    expect(state.recipe.value.sparsity).toBe(0.8);
    state.undo();
    nextFrame();
    expect(state.recipeText.value).toBe(START);
  });

  it("undoes a drag that was held for seconds in one step", () => {
    drag(0.6);
    vi.advanceTimersByTime(3000);
    drag(0.7, 0.8);
    state.settle();
    state.undo();
    nextFrame();
    expect(state.recipeText.value).toBe(START);
    expect(state.canUndo.value).toBe(false);
  });

  it("asks for a retrained model by its name, and leaves the recipe to the kernel", () => {
    const retrained = { ...VISIT, provenance: "fine-tuned 2 epochs", result: "1" };
    state.goTo(retrained);
    nextFrame();
    expect(model.commands).toEqual([{ do: "goto", result: "1" }]);
    expect(state.recipeText.value).toBe(START);
  });

  it("leaves a retrained model for the weights as they came, also where the recipe is the same", () => {
    model.answer("result", "1");
    state.goTo({ ...VISIT, result: null });
    expect(model.commands).toEqual([{ do: "goto", result: null }]);
    model.answer("result", "");
    state.goTo({ ...VISIT, recipe: START.replace("0.5", "0.9"), result: null });
    nextFrame();
    expect(model.commands).toHaveLength(1);
    expect(state.recipe.value.sparsity).toBe(0.9);
  });

  it("shows the score of the retrained model it shows, and never that of the other", () => {
    const retrained = { ...VISIT, value: 0.99, provenance: "fine-tuned 2 epochs", result: "1" };
    model.answer("history", [VISIT, retrained]);
    expect(state.shownScore.value?.value).toBe(VISIT.value);
    model.answer("result", "1");
    expect(state.shownScore.value).toMatchObject({ value: 0.99, provenance: "fine-tuned 2 epochs", state: "done" });
    model.answer("result", "2");
    expect(state.shownScore.value).toBe(null);
  });

  it("takes figures and scores of the same recipe for those of the model that they are of", () => {
    const { figures } = state;
    const counted = { ...new Estimator(decodeSketch(BLOB)).estimate(parseRecipe(START)), exact: true, header: 7 };
    const found: Score = { ...VISIT, total: 360, state: "done", metric: "accuracy" };
    model.answer("exact", counted);
    model.answer("score", found);
    expect([figures.value.exact, state.shownScore.value?.value]).toEqual([true, VISIT.value]);
    model.answer("result", "1");
    expect([figures.value.exact, state.shownScore.value]).toEqual([false, null]);
    model.answer("exact", { ...counted, result: "1" });
    model.answer("score", { ...found, result: "1", value: 0.9 });
    expect([figures.value.exact, state.shownScore.value?.value]).toEqual([true, 0.9]);
    model.answer("result", "");
    expect([figures.value.exact, state.shownScore.value]).toEqual([false, null]);
  });

  it("puts a question of the kernel's until it is answered, left, or the recipe changes", () => {
    const again: Command = { do: "save", path: "a.safetensors", entropy: false, replace: true };
    const status = { state: "exists", what: "save", text: "a.safetensors is there", id: 7, again };
    model.answer("status", status);
    expect(state.status.value).toEqual(status);
    state.dismiss();
    expect(state.status.value.state).toBe("idle");
    model.answer("status", { ...status, id: 8 });
    expect(state.status.value.state).toBe("exists");
    drag(0.6);
    expect(state.status.value.state).toBe("idle");
  });

  it("suggests names of its own only where the kernel suggests none", () => {
    model.answer("title", "Digit Net");
    expect(state.keeps.value).toEqual({
      provenance: "no retraining",
      variable: "small",
      file: "digit-net-small.safetensors",
    });
    model.answer("keeps", { provenance: "fine-tuned", variable: "retrained", file: "r.safetensors" });
    expect(state.keeps.value.variable).toBe("retrained");
  });

  it("tells the kernel the recipe before it asks for anything", () => {
    state.edit(sparsity(0.7), "sparsity");
    state.send({ do: "compress", name: "small" });
    expect(parseRecipe(model.told.at(-1)?.[0] ?? "").sparsity).toBe(0.7);
    expect(model.commands).toEqual([{ do: "compress", name: "small" }]);
  });

  it("listens to nothing once it is disposed of", () => {
    state.dispose();
    expect([...model.listeners.values()].every((callbacks) => callbacks.size === 0)).toBe(true);
  });
});

describe("a recipe that only the kernel can count", () => {
  let model: Recorder;
  let state: ReturnType<typeof createState>;
  const nf4 = (sparsity: number) =>
    `{"format":"shrinkwidget-recipe","version":2,"sparsity":${sparsity},"bits":4,"quantizer":"nf4"}`;
  /** Figures as the kernel would send them; `kept` of each layer tells them apart. */
  const counted = (recipe: string, share: number) => {
    const figures = new Estimator(decodeSketch(BLOB)).estimate(parseRecipe(START));
    const lists = Object.entries(figures.layers).map(([name, values]) => [name, Array.from(values as Float64Array)]);
    const layers = { ...Object.fromEntries(lists), kept: decodeSketch(BLOB).layers.map((layer) => share * layer.n) };
    return { ...figures, recipe, exact: true, layers, seconds: 0.1 };
  };

  beforeEach(() => {
    vi.useFakeTimers({
      toFake: ["setTimeout", "clearTimeout", "requestAnimationFrame", "cancelAnimationFrame", "performance"],
    });
    model = new Recorder();
    model.values.set("kinds", { quantizer: [{ kind: "nf4", label: "NF4", title: "", bits: [4], controls: [] }] });
    state = createState(model);
    vi.advanceTimersByTime(1000);
  });

  afterEach(() => {
    state.dispose();
    vi.useRealTimers();
  });

  it("shows the last figures that were counted until its own are, and says that it waits", () => {
    model.answer("exact", counted(START, 0.25));
    state.edit(() => parseRecipe(nf4(0.7)));
    nextFrame();
    expect(state.exactOnly.value).toEqual({ name: "NF4", waiting: true });
    expect(state.figures.value.sparsity).toBeCloseTo(0.75, 9);
    expect(state.seconds.value).toBeNull();
    model.answer("exact", counted(nf4(0.7), 0.5));
    expect(state.exactOnly.value).toEqual({ name: "NF4", waiting: false });
    expect([state.figures.value.exact, state.seconds.value]).toEqual([true, 0.1]);
    expect(state.figures.value.sparsity).toBeCloseTo(0.5, 9);
  });

  it("waits while a drag moves on, with the figures of before", () => {
    model.answer("exact", counted(START, 0.25));
    state.edit(() => parseRecipe(nf4(0.7)));
    nextFrame();
    model.answer("exact", counted(nf4(0.7), 0.5));
    state.edit(() => parseRecipe(nf4(0.8)), "sparsity");
    nextFrame();
    expect(state.recipe.value.sparsity).toBe(0.8);
    expect(state.exactOnly.value.waiting).toBe(true);
    expect(state.figures.value.sparsity).toBeCloseTo(0.5, 9);
    state.edit(() => parseRecipe(START));
    nextFrame();
    expect(state.exactOnly.value).toEqual({ name: "", waiting: false });
    expect(state.figures.value.exact).toBe(false);
  });

  it("opens with it before anything was counted", () => {
    model.values.set("recipe_json", nf4(0.7));
    const opened = createState(model);
    expect(opened.exactOnly.value).toEqual({ name: "NF4", waiting: true });
    expect(opened.figures.value.sparsity).toBe(0);
    opened.dispose();
  });

  describe("with batch norm re-estimated", () => {
    const RECALIBRATED: Visit = { ...VISIT, value: 0.9, provenance: "batch norm recalibrated", recalibrated: true };
    const score = (visit: Visit) => ({ ...visit, state: "done", total: 360, metric: "accuracy" });

    it("shows the score of the switch, not of the recipe alone", () => {
      model.answer("score", score(VISIT));
      expect(state.shownScore.value?.value).toBe(0.35);
      state.setRecalibrate(true);
      expect(model.get("recalibrate")).toBe(true);
      expect(model.told.length).toBeGreaterThan(0);
      expect(state.shownScore.value).toBeNull();
      model.answer("score", score(RECALIBRATED));
      expect(state.shownScore.value?.value).toBe(0.9);
      model.answer("history", [VISIT, RECALIBRATED]);
      state.setRecalibrate(false);
      expect(state.shownScore.value?.value).toBe(0.35);
    });

    it("comes back with the points of the history", () => {
      state.goTo(RECALIBRATED);
      expect(state.recalibrate.value).toBe(true);
      state.goTo({ ...VISIT, recipe: START.replace("0.5", "0.7") });
      expect(state.recalibrate.value).toBe(false);
    });

    it("knows of what the changes by class are", () => {
      const found = { recipe: START, recalibrated: false, classes: [] };
      model.answer("by_class", found);
      expect(state.byClassIsCurrent.value).toBe(true);
      state.setRecalibrate(true);
      expect(state.byClassIsCurrent.value).toBe(false);
      model.answer("by_class", { ...found, recalibrated: true });
      expect(state.byClassIsCurrent.value).toBe(true);
      model.answer("result", "1");
      expect(state.byClassIsCurrent.value).toBe(false);
      model.answer("by_class", { ...found, result: "1" });
      expect(state.byClassIsCurrent.value).toBe(true);
    });
  });
});
