// The label of a recipe: as Python writes it, and never that of another recipe.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { overrideLines, recipeLabel } from "./recipe-label";

const FOLDER = join(import.meta.dirname, "../../tests/vectors");
const HEAD = '{"format":"shrinkwidget-recipe","version":2';
const plain = (text: string) => text.replaceAll(/[\u00a0\u202f]/g, " ");

const cases = readdirSync(FOLDER)
  .filter((name) => name.endsWith(".json"))
  .flatMap((name) => JSON.parse(readFileSync(join(FOLDER, name), "utf8")).cases ?? [])
  .filter((one) => one.label !== undefined);

describe("a recipe in words", () => {
  it("is what Python calls it", () => {
    expect(cases.length).toBeGreaterThan(100);
    for (const { recipe, label } of cases) expect(plain(recipeLabel(recipe)), recipe).toBe(plain(label));
  });

  it("tells any two recipes apart", () => {
    const texts = [...new Set(cases.map((one) => one.recipe as string))];
    expect(new Set(texts.map(recipeLabel)).size).toBe(texts.length);
  });

  it.each([
    ['"sparsity":0.9925,"bits":4', "99.25 %, 4 bits"],
    ['"sparsity":0.99,"bits":4', "99 %, 4 bits"],
    ['"structure":"2:4","bits":1', "2:4, 1 bit"],
    ['"sparsity":0.5,"bits":4,"structure":"halves"', "50 % halves, 4 bits"],
    ['"bits":2,"layers":{"stem":"keep"}', "0 %, 2 bits, stem uncompressed"],
    ['"bits":2,"layers":{"stem":{"sparsity":0.5,"bits":8}}', "0 %, 2 bits, stem (50 %, 8 bits)"],
  ])("names what it sets: %s", (fields, words) => {
    expect(plain(recipeLabel(`${HEAD},${fields}}`))).toBe(words);
  });

  it("counts many overrides, and tells them apart all the same", () => {
    const many = (bits: number) => recipeLabel(`${HEAD},"layers":{"a":"keep","b":"keep","c":{"bits":${bits}}}}`);
    expect(plain(many(4))).toMatch(/^0 %, 4–32 bits, 3 layers \([0-9a-f]{4}\)$/);
    expect(many(4)).not.toBe(many(5));
  });

  it("tells what a planned recipe spans, and its layers in a tip", () => {
    const own = '"a":{"sparsity":0.9},"b":{"bits":8},"c":{"sparsity":0.25,"bits":2},"d":"keep"';
    const text = `${HEAD},"sparsity":0.5,"bits":4,"scope":"layer","channels":0.3,"layers":{${own}}}`;
    expect(plain(recipeLabel(text))).toMatch(/^25–90 %, 2–8 bits, 30 % of the channels, 4 layers \([0-9a-f]{4}\)$/);
    expect(overrideLines(text).map(plain)).toEqual(["a (90 %)", "b (8 bits)", "c (25 %, 2 bits)", "d uncompressed"]);
    expect(overrideLines(`${HEAD},"layers":{"a":"keep"}}`)).toEqual([]);
    const many = Array.from({ length: 30 }, (_, i) => `"l${i}":"keep"`).join();
    expect(overrideLines(`${HEAD},"layers":{${many}}}`).slice(-2)).toEqual(["l19 uncompressed", "… 10 more layers"]);
  });
});
