// @vitest-environment happy-dom
// What a screen reader is told is the state that has settled, with what the numbers hide.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Estimator } from "../core/estimate";
import { parseRecipe } from "../core/recipe";
import { decodeSketch } from "../core/sketch-decoder";
import { progressWords } from "./accuracy-panel-and-stats";
import { createState, type State } from "./explorer-state";
import { deadWords } from "./layer-and-file-figures";
import { screenReaderText } from "./screen-reader";

const { sketch } = JSON.parse(readFileSync(join(import.meta.dirname, "../../tests/vectors/conv.json"), "utf8"));
const BLOB = Uint8Array.from(Buffer.from(sketch, "base64"));
const START = '{"format":"shrinkwidget-recipe","version":2,"sparsity":0.5,"bits":4}';
const METRIC = { name: "accuracy", higher: true, percent: true, has_data: true };
const SCORE = { recipe: START, value: 0.35, low: 0.3, high: 0.4, n: 360, total: 360, provenance: "no retraining" };
const plain = (text: string) => text.replaceAll("\u00a0", " ");

const estimate = (recipe: string) => new Estimator(decodeSketch(BLOB)).estimate(parseRecipe(recipe));

describe("what is said", () => {
  let state: State;
  let alive = true;
  const values = new Map<string, unknown>();
  const listeners = new Map<string, () => void>();
  const answer = (name: string, value: unknown) => {
    values.set(name, value);
    listeners.get(name)?.();
  };

  beforeEach(() => {
    alive = true;
    values.clear();
    for (const [name, value] of Object.entries({ sketch_data: BLOB, recipe_json: START, metric: METRIC }))
      values.set(name, value);
    state = createState({
      get: (name) => values.get(name),
      set: (name, value) => values.set(name, value),
      on: (name, callback) => {
        listeners.set(name, callback);
        return () => {};
      },
      save: () => {},
      send: () => {},
      alive: () => alive,
    });
  });

  afterEach(() => state.dispose());

  it("nothing of what has not settled", () => {
    expect(screenReaderText(state)).toBe("");
    expect(progressWords(state)).toBe("evaluated next: the kernel counts bytes first");
    answer("exact", { ...estimate(START), exact: true });
    expect(progressWords(state)).toBe("measuring…");
    answer("score", { ...SCORE, n: 100, state: "running" });
    expect(progressWords(state)).toBe("100 of 360 examples, still counting · 95 % interval");
    expect(screenReaderText(state)).toBe("");
  });

  it("the score with its interval, then the size, then what they hide", () => {
    answer("exact", { ...estimate(START), exact: true });
    answer("score", { ...SCORE, state: "done", warnings: ["class 3 is never predicted"] });
    expect(plain(screenReaderText(state))).toMatch(
      /^accuracy 35\.0 %, 95 % interval 30\.0–40\.0 %, 360 examples\. .*SQNR [\d.]+ dB\. class 3 is never predicted$/,
    );
  });

  it("how the score was obtained where the switch is on, and what suffers where that is unfolded", () => {
    answer("exact", { ...estimate(START), exact: true });
    state.setRecalibrate(true);
    answer("score", { ...SCORE, state: "done", recalibrated: true, provenance: "batch norm recalibrated" });
    const classes = [[20, 20, 0, 20, 0]];
    answer("by_class", { recipe: START, recalibrated: true, classes, only_classes: "", misread: 20, fixed: 0 });
    expect(plain(screenReaderText(state))).toMatch(/360 examples, batch norm recalibrated\. .*dB$/);
    state.remember({ classes: true });
    expect(plain(screenReaderText(state))).toMatch(/\. lost: class 0 \(100 → 0 %\) · 20 misread that were right$/);
  });

  it("what was taken for granted of the model", () => {
    const warning = "'W' is read as out × in";
    Object.assign(state.sketch.value, { warnings: [warning] });
    answer("exact", { ...estimate(START), exact: true });
    answer("score", { ...SCORE, state: "done" });
    expect(screenReaderText(state)).toMatch(new RegExp(`dB\\. ${warning}$`));
  });

  it("trouble before all else", () => {
    answer("status", { state: "failed", what: "save", text: "the disk is full", id: 1 });
    expect(screenReaderText(state)).toBe("the disk is full");
    alive = false;
    state.send({ do: "evaluate" });
    expect(screenReaderText(state)).toContain("kernel disconnected");
    expect(progressWords(state)).toBe("not evaluated: the kernel is disconnected");
  });

  it("which layers have nothing left", () => {
    const found = decodeSketch(BLOB);
    const whole = estimate(START);
    expect(deadWords(found, whole)).toBe("");
    const kept = Array.from(whole.layers.kept, (n, i) => (i === 1 ? 0 : n));
    const dead = { ...whole, layers: { ...whole.layers, kept } };
    expect(deadWords(found, dead)).toBe(`${found.layers[1].label}: all weights pruned`);
  });
});
