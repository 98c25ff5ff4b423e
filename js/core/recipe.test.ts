// The recipe says the same as Python's: texts, plans, patterns of names, code, and what it refuses.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { BUILT_IN, pythonClasses } from "./control-schema";
import { compileGlob, globMatches } from "./glob";
import { parseOrdered, plainNumber } from "./ordered-json";
import {
  DEFAULTS,
  layerMatches,
  parseRecipe,
  planOf,
  RecipeError,
  recipeCode,
  recipeJson,
  resolve,
  withFields,
  withLayer,
} from "./recipe";

const HEAD = '"format":"shrinkwidget-recipe","version":2';

describe("canonical JSON", () => {
  it("leaves defaults out", () => {
    expect(recipeJson(DEFAULTS)).toBe(`{${HEAD}}`);
    expect(recipeJson(withFields(DEFAULTS, { structure: "2:4", bits: 4 }))).toBe(
      `{${HEAD},"bits":4,"structure":"2:4"}`,
    );
  });

  it("survives a round trip, overrides in their order even where keys look like numbers", () => {
    const text = `{${HEAD},"sparsity":0.9,"layers":{"10":{"bits":8},"fc":"keep","2":{"sparsity":0.5,"quantizer":{"kind":"uniform","clipping":99.9}}}}`;
    expect(recipeJson(parseRecipe(text))).toBe(text);
  });

  it("writes an override's fields in one order however they were given", () => {
    const recipe = withLayer(DEFAULTS, "fc", {
      quantizer: { kind: "uniform", clipping: "mse" },
      bits: 4,
      sparsity: 0.25,
    });
    const quantizer = '{"kind":"uniform","clipping":"mse"}';
    expect(recipeJson(recipe)).toBe(`{${HEAD},"layers":{"fc":{"sparsity":0.25,"bits":4,"quantizer":${quantizer}}}}`);
  });

  it.each([
    [1e-7, "0.0000001"],
    [1.25e-9, "0.00000000125"],
    [-2.5e-8, "-0.000000025"],
    [1e21, "1000000000000000000000"],
    [1.5e22, "15000000000000000000000"],
    [0.1, "0.1"],
    [99, "99"],
    [-0, "0"],
  ])("writes %d without an exponent", (x, text) => expect(plainNumber(x)).toBe(text));

  it("keeps what is inside strings as it is", () => {
    const text = '{"a,b":["x\\"}", 1, [], {}], "ü{": null, "10": true, "9": -1.5e3}';
    const found = parseOrdered(text) as Map<string, unknown>;
    expect([...found.keys()]).toEqual(["a,b", "ü{", "10", "9"]);
    expect(found.get("a,b")).toEqual(['x"}', 1, [], new Map()]);
    expect(found.get("9")).toBe(-1500);
  });
});

describe("name patterns", () => {
  it.each([
    ["layer3.*", "layer3.0.conv1.weight", true],
    ["conv?", "conv1", true],
    ["conv?", "conv", false],
    ["*conv1", "layer1.conv1.0.conv1", true],
    ["[a-c]x", "bx", true],
    ["[!a-c]x", "bx", false],
    ["[]]", "]", true],
    ["[!]]", "]", false],
    ["[", "[", true],
    ["[a-", "[a-", true],
    ["[z-a]", "m", false],
    ["[!z-a]", "m", true],
    ["[a-]", "-", true],
    ["[a-c-e]", "d", false],
    ["a.b", "axb", false],
    ["**b", "aab", true],
    ["*", "", true],
    ["?", "😀", true],
    ["Conv", "conv", false],
  ])("%s against %s: %s", (pattern, name, expected) => {
    expect(globMatches(compileGlob(pattern), [...name])).toBe(expected);
  });
});

describe("an override's key", () => {
  it.each([
    ["a[0]", "a[0].weight", true],
    ["a[0].weight", "a[0].weight", true],
    ["a[0]", "a0.weight", true],
    ["a[0]", "a1.weight", false],
  ])("%s names %s: %s", (key, name, expected) => expect(layerMatches(key, name)).toBe(expected));
});

describe("overrides", () => {
  interface Case {
    recipe: string;
    names: string[];
    bits: number[] | null;
  }
  const path = join(import.meta.dirname, "../../tests/vectors/overrides/cases.json");
  const cases: Case[] = JSON.parse(readFileSync(path, "utf8"));

  it("decide the same layers as in Python", () => {
    expect(cases.filter(({ bits }) => bits === null).length).toBeGreaterThan(50);
    for (const { recipe: text, names, bits } of cases) {
      const recipe = parseRecipe(text);
      if (bits === null) {
        expect(() => resolve(recipe, names)).toThrow("matches no layer");
      } else {
        expect(resolve(recipe, names).map((plan) => plan.bits)).toEqual(bits);
        expect(names.map((name) => planOf(recipe, name).bits)).toEqual(bits);
      }
    }
  });

  const names = Array.from({ length: 5000 }, (_, i) => `layers.${i}.weight`);

  it("of a thousand wildcards are refused, not tried for seconds", () => {
    const layers = Array.from({ length: 1000 }, (_, i) => [`*${i}*`, { bits: 2 }] as const);
    expect(() => resolve(withFields(DEFAULTS, { layers }), names)).toThrow("name the layers instead");
  });

  it("by name cost as much for thousands of layers as for each alone", () => {
    let read = 0;
    const layers = names.map(
      (name) =>
        new Proxy([name, { bits: 2 }] as const, {
          get(target, key, receiver) {
            read++;
            return Reflect.get(target, key, receiver) as unknown;
          },
        }),
    );
    resolve(withFields(DEFAULTS, { bits: 4, layers }), names);
    expect(read).toBeLessThan(20 * names.length); // pairs of them would be 25 million
  });

  it("are asked for with a key that stands twice in no recipe", () => {
    const text = '{"format":"shrinkwidget-recipe","version":2,"layers":{"a":"keep","a":{"bits":2}}}';
    expect(() => parseRecipe(text)).toThrow('it has the key "a" twice');
  });

  it("are quoted with nothing hidden when they are refused", () => {
    const name = `fc\u202e\u009b${"x".repeat(5000)}`;
    const layers = [[name, { bits: 2 }]] as const;
    expect(() => resolve(withFields(DEFAULTS, { layers }), names)).toThrow(/"fc\\u202e\\u009bx{80,} … x+"/);
  });
});

describe("plans", () => {
  const recipe = withFields(DEFAULTS, { sparsity: 0.9, bits: 4 });

  it("go to the last override that matches, with or without .weight", () => {
    const some = withLayer(withLayer(recipe, "conv*", { bits: 8 }), "conv1", "keep");
    expect(planOf(some, "conv1.weight").keep).toBe(true);
    expect(planOf(some, "conv2.weight")).toMatchObject({ keep: false, bits: 8, sparsity: 0.9, scope: "global" });
  });

  it("take a layer with a sparsity or a pattern of its own out of the global ranking", () => {
    const some = withLayer(withLayer(recipe, "a", { sparsity: 0.9 }), "b", { structure: "1:4" });
    expect(planOf(some, "a").scope).toBe("layer");
    expect(planOf(some, "b")).toMatchObject({ scope: "layer", sparsity: 0.75 });
    expect(planOf(withFields(recipe, { scope: "layer" }), "a").scope).toBe("layer");
  });

  it("refuse an override that matches nothing", () => {
    expect(() => resolve(withLayer(recipe, "nosuch", { bits: 2 }), ["fc.weight"])).toThrow(RecipeError);
  });
});

describe("edits", () => {
  it("bring a new pattern's sparsity along", () => {
    expect(withFields(DEFAULTS, { structure: "1:4" }).sparsity).toBe(0.75);
    expect(withFields(withFields(DEFAULTS, { structure: "1:4" }), { structure: "unstructured" }).sparsity).toBe(0);
  });

  it("put the newest override last, and null takes it away", () => {
    const some = withLayer(withLayer(DEFAULTS, "a", "keep"), "*", { bits: 8 });
    expect(withLayer(some, "a", { bits: 2 }).layers.map(([name]) => name)).toEqual(["*", "a"]);
    expect(withLayer(some, "a", null).layers).toEqual([["*", { bits: 8 }]]);
  });

  it.each([
    [{ sparsity: 1 }],
    [{ sparsity: Number.NaN }],
    [{ bits: 9 }],
    [{ granularity: 1 }],
    [{ quantizer: 3 }],
    [{ importance: { seed: 1 } }],
    [{ symmetric: true }],
    [{ structure: "2:4", sparsity: 0.9 }],
    [{ scope: "model" }],
    [{ color: "red" }],
  ])("refuse %o", (changes) => expect(() => withFields(DEFAULTS, changes as object)).toThrow(RecipeError));
});

describe("reading", () => {
  it.each([
    "",
    "[]",
    '{"format":"other","version":1}',
    '{"format":"shrinkwidget-recipe","version":1}',
    '{"format":"shrinkwidget-recipe","version":3}',
    `{${HEAD},"layers":[]}`,
    `{${HEAD},"layers":{"fc":7}}`,
    `{${HEAD},"sparsity":"0.5"}`,
    `{${HEAD},"layers":{"fc":{"scope":"layer"}}}`,
  ])("refuses %s", (text) => expect(() => parseRecipe(text)).toThrow(RecipeError));
});

const CLASSES = pythonClasses(BUILT_IN);

it("the code is Python that rebuilds the recipe", () => {
  expect(recipeCode(DEFAULTS, CLASSES)).toBe("sw.Recipe()");
  const recipe = withFields(DEFAULTS, {
    sparsity: 0.9,
    bits: 4,
    granularity: 64,
    quantizer: { kind: "uniform", symmetric: true },
  });
  expect(recipeCode(recipe, CLASSES)).toBe(
    "sw.Recipe(sparsity=0.9, bits=4, granularity=64, quantizer=sw.methods.Uniform(symmetric=True))",
  );
  const other = withFields(DEFAULTS, { quantizer: { kind: "mine", values: [0, 0.5], on: false } });
  expect(recipeCode(other, CLASSES)).toBe('sw.Recipe(quantizer={"kind": "mine", "values": [0, 0.5], "on": False})');
  const layered = withLayer(withLayer(recipe, "conv1", "keep"), 'a"b', { bits: 8, quantizer: "kmeans" });
  expect(recipeCode(layered, CLASSES)).toContain(
    '"conv1": sw.Keep,\n        "a\\"b": dict(bits=8, quantizer="kmeans"),\n',
  );
});
