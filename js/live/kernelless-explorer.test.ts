// @vitest-environment happy-dom
// Hosted without a kernel: what was known is told, all else is an estimate, and the way back leads to retrained models.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { Estimator } from "../core/estimate";
import { parseRecipe, withFields } from "../core/recipe";
import { decodeSketch } from "../core/sketch-decoder";
import { encode, gaussian } from "../core/test-sketches";
import { createState, type State } from "../explorer/explorer-state";
import type { ByClass, Score, Visit } from "../explorer/host-interface";
import { type ExplorerData, KernellessExplorer } from "./kernelless-explorer";

const { sketch } = JSON.parse(readFileSync(join(import.meta.dirname, "../../tests/vectors/conv.json"), "utf8"));
const BLOB = Uint8Array.from(Buffer.from(sketch, "base64"));
const SKETCH = decodeSketch(BLOB);
const START = '{"format":"shrinkwidget-recipe","version":2,"sparsity":0.5,"bits":4}';
const TRIED = '{"format":"shrinkwidget-recipe","version":2,"sparsity":0.9}';

const score = (recipe: string, value: number, provenance = "no retraining"): Score => ({
  ...{ recipe, value, provenance, low: null, high: null, n: 360, total: 360, state: "done", metric: "accuracy" },
});
const trained = (recipe: string): Score => ({ ...score(recipe, 0.9, "fine-tuned 3 epochs"), result: "1" });
const visit = (recipe: string, value: number, result: string | null = null): Visit => ({
  ...{ recipe, value, result, nbytes: 900, low: null, high: null, n: 360 },
  provenance: result ? "fine-tuned 3 epochs" : "no retraining",
});
const exact = (recipe: string) => ({ ...new Estimator(SKETCH).estimate(parseRecipe(recipe)), exact: true, header: 7 });

const DATA: ExplorerData = {
  recipe: START,
  values: {
    title: "net",
    metric: { name: "accuracy", higher: true, percent: true, has_data: true, has_train: true },
    history: [visit(START, 0.4), visit(TRIED, 0.7), visit(TRIED, 0.9, "1")],
  },
  known: { [START]: { exact: exact(START), score: score(START, 0.4) }, [TRIED]: { score: score(TRIED, 0.7) } },
  results: { "1": { recipe: TRIED, exact: { ...exact(TRIED), result: "1" }, score: trained(TRIED) } },
};

describe("an explorer without a kernel", () => {
  const changed = vi.fn();
  let host: KernellessExplorer;
  let state: State;
  const nextFrame = () => vi.advanceTimersByTime(2000);

  beforeEach(() => {
    vi.useFakeTimers();
    changed.mockClear();
    host = new KernellessExplorer(DATA, BLOB, changed);
    state = createState(host);
  });

  it("begins with what was known, and offers nothing that needs a kernel", () => {
    expect(state.kernel).toBe(false);
    expect(state.nests).toBe(false);
    expect(state.figures.value).toMatchObject({ exact: true, header: 7 });
    expect(state.shownScore.value?.value).toBe(0.4);
  });

  it("says how far a sketch is whose layers still come: figures of the whole would be untrue", () => {
    expect(state.sketching.value).toBeNull();
    const layers = [1, 2, 3].map((i) => ({ name: `${i}.weight`, shape: [8, 16], values: gaussian(128, i, i) }));
    host.show(decodeSketch(encode(layers, 1)), true);
    nextFrame();
    expect(state.sketching.value).toEqual({ done: 1, all: 3 });
    host.show(decodeSketch(encode(layers)), false);
    nextFrame();
    expect(state.sketching.value).toBeNull();
  });

  it("estimates what it does not know, has no score of it, and waits for nobody", () => {
    state.edit((recipe) => withFields(recipe, { sparsity: 0.6 }), "sparsity");
    state.settle();
    nextFrame();
    expect(state.figures.value.exact).toBe(false);
    expect(state.shownScore.value).toBeNull();
    expect(state.notice.value).toBe("");
    expect(changed).toHaveBeenLastCalledWith(state.recipeText.value);
    state.undo();
    nextFrame();
    expect(state.figures.value).toMatchObject({ exact: true, header: 7 });
    expect(state.shownScore.value?.value).toBe(0.4);
  });

  it("says nothing new while a drag moves", () => {
    state.edit((recipe) => withFields(recipe, { sparsity: 0.6 }), "sparsity");
    vi.advanceTimersByTime(17);
    expect(changed).not.toHaveBeenCalled();
  });

  it("goes to a retrained model and back to what only was compressed by the same recipe", () => {
    const [, plain, retrained] = state.history.value;
    state.goTo(retrained);
    nextFrame();
    expect([state.recipeText.value, state.result.value]).toEqual([TRIED, "1"]);
    expect(state.shownScore.value).toMatchObject({ value: 0.9, provenance: "fine-tuned 3 epochs" });
    expect(state.figures.value.exact).toBe(true);
    state.goTo(plain);
    nextFrame();
    expect([state.recipeText.value, state.result.value]).toEqual([TRIED, ""]);
    expect(state.shownScore.value?.value).toBe(0.7);
    expect(state.figures.value.exact).toBe(false);
  });

  it("leaves a retrained model when the recipe changes", () => {
    state.goTo(state.history.value[2]);
    nextFrame();
    state.edit((recipe) => withFields(recipe, { bits: 8 }));
    nextFrame();
    expect(state.result.value).toBe("");
    expect(state.shownScore.value).toBeNull();
  });

  it("takes a recipe from elsewhere as a step to undo, and says why it does not", () => {
    host.go(TRIED, SKETCH);
    nextFrame();
    expect(state.recipeText.value).toBe(TRIED);
    expect(state.canUndo.value).toBe(true);
    host.go('{"format":"shrinkwidget-recipe","version":2,"layers":{"nowhere":"keep"}}', SKETCH);
    nextFrame();
    expect(state.recipeText.value).toBe(TRIED);
    expect(state.status.value).toMatchObject({ state: "failed", text: expect.stringContaining("matches no layer") });
  });

  it("tells what was known with batch norm re-estimated, and what is got wrong of whatever is shown", () => {
    const found = (result?: string) =>
      ({ recipe: START, recalibrated: false, result, misread: 3 }) as unknown as ByClass;
    const again = { ...score(START, 0.95), recalibrated: true };
    host = new KernellessExplorer(
      {
        ...DATA,
        known: { [START]: { score: score(START, 0.4), by_class: found(), recalibrated: { score: again } } },
        results: { "1": { recipe: START, score: trained(START), by_class: found("1") } },
      },
      BLOB,
    );
    state = createState(host);
    expect([state.shownScore.value?.value, state.byClassIsCurrent.value]).toEqual([0.4, true]);
    state.setRecalibrate(true);
    expect(state.shownScore.value?.value).toBe(0.95);
    expect(state.byClass.value).toBeNull();
    state.goTo(visit(START, 0.9, "1"));
    expect([state.shownScore.value?.value, state.byClass.value?.result]).toEqual([0.9, "1"]);
    expect(state.byClassIsCurrent.value).toBe(true);
  });
});
