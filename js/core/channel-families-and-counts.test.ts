// What a recipe leaves of a network's channels: what the vectors do not say, or say only for one model.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { ChannelPruning, denseMacs, familiesOf } from "./channel-families-and-counts";
import { Estimator } from "./estimate";
import { DEFAULTS, parseRecipe, RecipeError, recipeJson, withFields, withLayer } from "./recipe";
import { decodeSketch } from "./sketch-decoder";
import type { Recipe, Sketch } from "./types";

const vector = JSON.parse(readFileSync(join(import.meta.dirname, "../../tests/vectors/channels.json"), "utf8"));
const sketch = decodeSketch(Uint8Array.from(Buffer.from(vector.sketch, "base64")));
const pruning = new ChannelPruning(sketch);
const recipe = (fields: Partial<Recipe>) => withFields(DEFAULTS, fields);
const families = sketch.channels?.families ?? [];
const full = families.map(({ channels }) => channels);

it("removes the wanted share of every width, and leaves one channel of each", () => {
  expect(pruning.widths(DEFAULTS)).toEqual(full);
  expect(pruning.widths(recipe({ channels: 0.5 }))).toEqual([6, 12, 8, 3]); // 2.5 of 5 go: half to even, 2
  expect(pruning.widths(recipe({ channels: 0.999 }))).toEqual([1, 1, 1, 1]);
});

it("keeps widths at multiples of outputs, not of channels", () => {
  // a head has 4 outputs: 8 of them are 2 heads; of 12 channels at half there are 8 or none
  expect(pruning.widths(recipe({ channels: 0.5, multiple: 8 }))).toEqual([8, 16, 8, 4]);
  expect(pruning.widths(recipe({ channels: 0.5, multiple: 32 }))).toEqual([12, 24, 16, 5]);
  expect(pruning.widths(recipe({ multiple: 8 }))).toEqual(full);
});

it("ranks all channels together, the least score first", () => {
  const scores = families.flatMap(({ scores }, f) => [...scores].map((score) => ({ score, f })));
  const gone = scores.sort((a, b) => a.score - b.score).slice(0, Math.round(0.25 * scores.length));
  const left = full.map((n, f) => Math.max(1, n - gone.filter((one) => one.f === f).length));
  expect(pruning.widths(recipe({ channels: 0.25, channel_scope: "global" }))).toEqual(left);
});

it("lets the layer decide that keeps the most of a shared width", () => {
  const shared = withLayer(recipe({ channels: 0.75 }), "stem", { channels: 0.25 });
  expect(pruning.widths(shared)[0]).toBe(9);
  expect(pruning.widths(withLayer(shared, "größe", { channels: 0 }))[0]).toBe(12);
  expect(pruning.widths(withLayer(recipe({ channels: 0.75 }), "out", "keep"))[2]).toBe(16); // it reads that width
});

it("makes the same sketch as long as the same number is left, and the dense one of none", () => {
  const half = new Estimator(sketch).narrowed(recipe({ channels: 0.5 }));
  expect(pruning.narrowed(full).sketch).toBe(sketch);
  expect(pruning.narrowed([6, 12, 8, 3])).toBe(pruning.narrowed([6, 12, 8, 3]));
  expect(half.sketch.layers[0].shape).toEqual([6, 3, 3, 3]);
  expect(half.sketch.layers[0].energy).toBeCloseTo(sketch.layers[0].energy / 2, 9);
  expect(half.macs).toBeLessThan(denseMacs(sketch.channels!) / 2);
});

it("says when bytes are exact: they are where sizes alone decide, and zlib is that of the kernel", () => {
  const other: Sketch = { ...sketch, structure: sketch.structure + 4 };
  const sized = (fields: Partial<Recipe>, of = sketch) => new Estimator(of).estimate(recipe(fields)).sized;
  const keepFlat = withLayer(recipe({ channels: 0.5, bits: 4 }), "flat", "keep"); // of its weights some are zero
  expect(new Estimator(sketch).estimate(keepFlat).sized).toBe(true);
  expect(new Estimator(other).estimate(keepFlat).sized).toBe(false);
  expect(sized({ bits: 4 })).toBe(true);
  expect(sized({ bits: 4, channels: 0.5 })).toBe(false);
  expect(sized({ bits: 4, sparsity: 0.5 })).toBe(false);
});

it("has no estimate of channels where the sketch knows of none, or ranks them by more than magnitude", () => {
  const without = new Estimator({ ...sketch, channels: null });
  expect(() => without.estimate(recipe({ channels: 0.5 }))).toThrow(RecipeError);
  expect(without.estimate(recipe({ bits: 4 })).widths).toBeNull();
  const random = recipe({ channels: 0.5, importance: "random" });
  expect(new Estimator(sketch).estimate(random).widths).toEqual([6, 12, 8, 3]);
  expect(() => new Estimator(sketch).estimate(withFields(random, { channel_scope: "global" }))).toThrow("random");
});

it("knows the families that a layer makes", () => {
  expect(familiesOf(sketch.channels, "qkv.1").map(({ place }) => place)).toEqual([3]);
  expect(familiesOf(sketch.channels, "out")).toEqual([]);
  expect(familiesOf(null, "stem")).toEqual([]);
});

it("refuses fields that cannot be", () => {
  const text = (fields: string) => `{"format":"shrinkwidget-recipe","version":2,${fields}}`;
  for (const fields of [
    '"channels":1',
    '"multiple":0',
    '"multiple":1.5',
    '"channel_scope":"layer"',
    '"channels":"a"',
  ]) {
    expect(() => parseRecipe(text(fields)), fields).toThrow(RecipeError);
  }
  const good = text('"channels":0.5,"multiple":8,"channel_scope":"global","layers":{"stem":{"channels":0.25}}');
  expect(recipeJson(parseRecipe(good))).toBe(good);
});
