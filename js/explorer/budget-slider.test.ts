// @vitest-environment happy-dom
// The budget: places of the slider are bytes and back, and what is dragged is the kernel's recipe, its locks, its undo.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { h, render } from "preact";
import { act } from "preact/test-utils";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { parseRecipe, recipeJson, withFields, withLayer } from "../core/recipe";
import { type Frontier, recipeAt, stepsWithin } from "../core/recipe-for-budget";
import { BudgetSlider, budgetAt, placeOf, whyRefused } from "./budget-slider";
import { createState, type State } from "./explorer-state";
import type { Command, ExplorerModel } from "./host-interface";
import { byLayer } from "./layer-and-file-figures";
import { unfolds } from "./recipe-controls";
import { type View, ViewProvider } from "./view-state";

const VECTORS = join(import.meta.dirname, "../../tests/vectors");
const read = (name: string) => JSON.parse(readFileSync(join(VECTORS, name), "utf8"));
const frontier: Frontier = read("frontiers/cases.json")[0].frontier;
const START = '{"format":"shrinkwidget-recipe","version":2,"sparsity":0.5,"bits":4}';
const SETTINGS = '{"format":"shrinkwidget-recipe","version":2,"scope":"layer"}';
const [least, most] = [frontier.nbytes[0], frontier.nbytes[frontier.nbytes.length - 1]];

class Host implements ExplorerModel {
  readonly values = new Map<string, unknown>([
    ["sketch_data", Uint8Array.from(Buffer.from(read("conv.json").sketch, "base64"))],
    ["recipe_json", START],
  ]);
  readonly told: [recipe: string, budget: unknown][] = [];
  readonly commands: Command[] = [];
  readonly listeners = new Map<string, Set<() => void>>();
  get(name: string): unknown {
    return this.values.get(name);
  }
  set(name: string, value: unknown): void {
    this.values.set(name, value);
  }
  save(): void {
    this.told.push([String(this.get("recipe_json")), this.get("budget")]);
  }
  on(name: string, callback: () => void): () => void {
    const all = this.listeners.get(name) ?? new Set();
    this.listeners.set(name, all.add(callback));
    return () => all.delete(callback);
  }
  send(command: Command): void {
    this.commands.push(command);
  }
  answer(values: Record<string, unknown>): void {
    for (const [name, value] of Object.entries(values)) this.values.set(name, value);
    for (const name of Object.keys(values)) for (const callback of this.listeners.get(name) ?? []) callback();
  }
}

let host: Host;
let state: State;
const frames: (() => void)[] = [];
const paint = () => {
  for (const frame of frames.splice(0)) frame();
};

beforeEach(() => {
  vi.stubGlobal("requestAnimationFrame", (callback: () => void) => frames.push(callback));
  host = new Host();
  state = createState(host);
});
afterEach(() => {
  state.dispose();
  vi.unstubAllGlobals();
});

const planned = (of = START, settings = SETTINGS) => host.answer({ frontier: { of, settings, why: "", frontier } });
const best = (budget: number) => recipeJson(recipeAt(frontier, stepsWithin(frontier, budget) ?? []));

it("finds every place again by its bytes, which only grow", () => {
  const range = { least: 24_581, most: 693_111 };
  const bytes = Array.from({ length: 1001 }, (_, place) => budgetAt(range, place));
  expect([bytes[0], bytes[1000]]).toEqual([range.least, range.most]);
  expect(bytes.map((nbytes) => placeOf(range, nbytes))).toEqual(bytes.map((_, place) => place));
  expect(bytes.every((nbytes, place) => place === 0 || nbytes > bytes[place - 1])).toBe(true);
});

it("shows the bytes of a recipe that came of no budget, and asks once for a plan", () => {
  expect(state.budget.value).toMatchObject({ asked: false, ready: false, nbytes: state.figures.value.nbytes });
  state.plan();
  state.plan();
  expect(host.commands).toEqual([{ do: "plan" }]);
  planned();
  expect(state.budget.value).toMatchObject({ asked: false, ready: true, least });
});

it("paints the best recipe in the next frame, never larger than asked, and tells the kernel both at the end", () => {
  planned();
  for (const budget of [least, least + 500, least + 1500, least + 700]) {
    state.setBudget(budget);
    paint();
    expect(state.recipeText.value).toBe(best(budget));
    expect(state.figures.value.nbytes).toBeLessThanOrEqual(budget);
    expect(state.budget.value).toMatchObject({ asked: true, nbytes: budget, ready: true });
  }
  state.settle();
  expect(host.told.at(-1)).toEqual([best(least + 700), least + 700]);
  state.undo();
  paint();
  expect(state.recipeText.value).toBe(START);
  expect(state.budget.value.asked).toBe(false);
  expect(host.told.at(-1)).toEqual([START, null]);
  state.redo();
  paint();
  expect(state.budget.value).toMatchObject({ asked: true, nbytes: least + 700 });
  expect(host.told.at(-1)).toEqual([best(least + 700), least + 700]);
});

it("takes no budget that is smaller than the smallest file", () => {
  planned();
  state.setBudget(least - 1);
  paint();
  expect(state.recipeText.value).toBe(START);
});

it("waits for a plan around a layer's own values, and needs none where only sparsity or bits differ", () => {
  planned();
  state.edit((recipe) => withFields(recipe, { sparsity: 0.25, bits: 8 }));
  paint();
  expect(state.budget.value.ready).toBe(true);
  state.edit((recipe) => withLayer(recipe, "0", "keep"));
  paint();
  expect(state.budget.value.ready).toBe(false);
  state.plan();
  expect(host.commands.at(-1)).toEqual({ do: "plan" });
  planned(state.recipeText.value, recipeJson(withLayer(parseRecipe(SETTINGS), "0", "keep")));
  expect(state.budget.value.ready).toBe(true);
});

it("says why there is no plan, and does not ask again", () => {
  host.answer({ frontier: { of: START, settings: "", why: "importance 'wanda' has no estimate", frontier: null } });
  expect(state.budget.value).toMatchObject({ ready: false, why: "importance 'wanda' has no estimate" });
  state.plan();
  expect(host.commands).toEqual([]);
});

it("follows a budget that Python sets", () => {
  planned();
  const budget = Math.floor((least + most) / 2);
  host.answer({ budget });
  host.answer({ recipe_json: best(budget) });
  paint();
  expect(state.budget.value).toMatchObject({ asked: true, nbytes: budget });
});

it("says of every number that can be no budget what can be one", () => {
  const range = "the least is 24.581 kB, the dense file has 699.328 kB";
  const why = (typed: number) => whyRefused(typed, 24_581, 699_328);
  expect([24.581, 64, 699.328].map(why)).toEqual(["", "", ""]);
  expect(why(24.5809)).toBe(`24.5809 kB is not possible: ${range}`);
  expect(why(9999)).toBe(`9999 kB is not possible: ${range}`);
  expect(why(Number.NaN)).toBe(`that is no number: ${range}`);
  // 1.2 GB and 357 MB in the unit in which a budget is short; the ends can be typed as they are said
  const large = (typed: number) => whyRefused(typed, 147_599_401, 1_200_000_123);
  expect(large(1)).toBe("");
  expect(large(147_599)).toBe("147599 GB is not possible: the least is 0.148 GB, the dense file has 1.2 GB");
  expect([0.148, 1.2, 0.147599401, 1.200000123].map(large)).toEqual(["", "", "", ""]);
  expect([0.1475994, 1.200000124].map((typed) => large(typed) === "")).toEqual([false, false]);
  expect(whyRefused(29_525, 29_525_000, 357_000_000)).toContain("the least is 29.525 MB");
});

it("refuses a typed budget in words, and forgets it with the next good value, wherever that comes from", () => {
  planned();
  const root = document.body.appendChild(document.createElement("div"));
  act(() => render(h(ViewProvider, { value: { state } as View, children: h(BudgetSlider, null) }), root));
  const [box, hint] = ["budget-box", "budget-hint"].map((id) => root.querySelector(`[data-testid=${id}]`));
  const input = box as HTMLInputElement;
  const type = (text: string) => {
    act(() => {
      input.value = text;
      input.dispatchEvent(new Event("change"));
    });
    act(paint);
  };
  const shown = () => [input.getAttribute("aria-invalid"), input.value, hint?.getAttribute("role")];
  const before = input.value;
  for (const refused of ["1", "9999", ""]) {
    type(refused);
    expect(shown()).toEqual(["true", before, "alert"]);
    expect(hint?.textContent).toContain("the least is");
    expect(state.recipeText.value).toBe(START);
    const budget = most - 200;
    act(() => state.setBudget(budget)); // as the slider does
    act(paint);
    expect(shown()).toEqual(["false", String(budget / 1000), null]);
    act(() => state.undo());
    act(paint);
    expect(shown()).toEqual(["false", before, null]);
  }
  type("1");
  act(() => state.reset()); // to where it is already
  expect(shown()).toEqual(["false", before, null]);
  type(String((least + 1500) / 1000));
  expect(state.budget.value).toMatchObject({ asked: true, nbytes: least + 1500 });
  render(null, root);
  root.remove();
});

it("tells by layer what a budget made of sparsity and bits, and unfolds no options for it", () => {
  planned();
  state.setBudget(least + 30);
  paint();
  const words = (field: "sparsity" | "bits") => byLayer(state.plans.value, field, state.recipe.value[field]);
  const bits = state.plans.value.map((plan) => plan.bits);
  expect(new Set(bits).size).toBeGreaterThan(1);
  expect(words("bits")).toBe(`${Math.min(...bits)}–${Math.max(...bits)} by layer`);
  expect(unfolds(state.recipe.value)).toBe(false);
  state.edit((recipe) => withFields(recipe, { sparsity: 0.25 }));
  paint();
  expect(state.budget.value.asked).toBe(false);
  expect(unfolds(state.recipe.value)).toBe(false);
  expect(unfolds(withFields(state.recipe.value, { importance: "random" }))).toBe(true);
  expect(unfolds(parseRecipe(SETTINGS))).toBe(false); // all layers alike: a plan may come to that, too
  const plan = { ...state.plans.value[0], keep: false, sparsity: 0 };
  const plans = [plan, { ...plan, sparsity: 0.811 }, { ...plan, keep: true, sparsity: 0.9 }];
  expect(byLayer(plans, "sparsity", 0)).toBe("0–81\u00a0% by layer");
  expect(byLayer(plans.slice(0, 1), "sparsity", 0.5)).toBe("0\u00a0% by layer");
  expect(byLayer(plans.slice(0, 1), "sparsity", 0)).toBe("");
});
