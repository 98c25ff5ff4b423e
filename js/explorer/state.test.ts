// @vitest-environment happy-dom
// The shared state: previews at once, tells the kernel seldom, believes the kernel where it speaks of this recipe.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Estimator } from "../core/estimate";
import { parseRecipe, recipeJson, withFields } from "../core/recipe";
import { decodeSketch } from "../core/sketch";
import type { Command, ExplorerModel } from "./model";
import { createState } from "./state";

const { sketch } = JSON.parse(readFileSync(join(import.meta.dirname, "../../tests/vectors/conv.json"), "utf8"));
const BLOB = Uint8Array.from(Buffer.from(sketch, "base64"));
const START = '{"format":"shrinkwidget-recipe","version":1,"sparsity":0.5,"bits":4}';

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
  living = true;

  get(name: string): unknown {
    return this.values.get(name);
  }

  set(name: string, value: unknown): void {
    this.values.set(name, value);
  }

  save(): void {
    this.told.push([String(this.values.get("recipe_json")), Boolean(this.values.get("dragging"))]);
  }

  on(name: string, callback: () => void): () => void {
    const all = this.listeners.get(name) ?? new Set();
    this.listeners.set(name, all.add(callback));
    return () => all.delete(callback);
  }

  alive(): boolean {
    return this.living;
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

  it("says so when the kernel is gone", () => {
    model.living = false;
    state.send({ do: "compress", name: "small" });
    expect(state.notice.value).toBe("gone");
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
