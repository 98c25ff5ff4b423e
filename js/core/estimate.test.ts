// The estimate against weights that were really pruned and rounded, and what must hold for any recipe.
import { describe, expect, it } from "vitest";
import { CODED_BITS, Estimator, totals } from "./estimate";
import { DEFAULTS, withFields, withLayer } from "./recipe";
import { decodeSketch } from "./sketch-decoder";
import { encode, gaussian, sketchOf, uniform, type Weights } from "./test-sketches";
import type { Estimate, Recipe } from "./types";

const layers: Weights[] = [
  { name: "a.weight", shape: [32, 64], values: gaussian(2048, 0.1, 1) },
  { name: "b.weight", shape: [64, 16, 3, 3], values: gaussian(9216, 0.02, 2) },
  { name: "c.weight", shape: [10, 70], values: gaussian(700, 0.3, 3) },
];
const sketch = sketchOf(layers);
const estimator = new Estimator(sketch);

function recipe(changes: Partial<Recipe>): Recipe {
  return withFields(DEFAULTS, changes);
}

type Rounding = (kept: Float32Array, bits: number) => (w: number) => number;

/** As many levels on either side of zero. */
const even: Rounding = (kept, bits) => {
  const scale = Math.max(...kept.map(Math.abs)) / (2 ** (bits - 1) - 1) || 1;
  return (w) => Math.round(w / scale) * scale;
};

/** All levels from the smallest weight or zero to the largest or zero. */
const spread: Rounding = (kept, bits) => {
  const scale = (Math.max(0, ...kept) - Math.min(0, ...kept)) / (2 ** bits - 1) || 1;
  return (w) => Math.round(w / scale) * scale;
};

/** Prune the smallest magnitudes of each layer and round the rest, one scale per row. */
function sqnrByHand({ shape, values }: Weights, sparsity: number, bits: number, rounding: Rounding): number {
  const k = Math.round(sparsity * values.length);
  const threshold = values.map(Math.abs).sort()[k];
  const row = values.length / shape[0];
  let [signal, noise] = [0, 0];
  for (let start = 0; start < values.length; start += row) {
    const kept = values.subarray(start, start + row).map((w) => (Math.abs(w) >= threshold ? w : 0));
    const rounded = rounding(kept, bits);
    kept.forEach((w, i) => {
      signal += values[start + i] ** 2;
      noise += (values[start + i] - rounded(w)) ** 2;
    });
  }
  return 10 * Math.log10(signal / noise);
}

describe("against real rounding", () => {
  it.each([
    [0, 2],
    [0, 4],
    [0, 8],
    [0.5, 3],
    [0.8, 4],
    [0.95, 2],
  ])("sparsity %d at %d bits: within 0.3 dB in every layer", (sparsity, bits) => {
    for (const [symmetric, rounding] of [
      [true, even],
      [false, spread],
    ] as const) {
      const quantizer = uniform({ symmetric, clipping: "absmax" });
      const changes = { sparsity, bits, quantizer, scope: "layer" } as const;
      const { layers: figures } = estimator.estimate(recipe(changes));
      layers.forEach((layer, i) => {
        const expected = sqnrByHand(layer, sparsity, bits, rounding);
        expect(Math.abs(10 * Math.log10(figures.signal[i] / figures.noise[i]) - expected)).toBeLessThan(0.3);
      });
    }
  });
});

describe("weights too small to square in float32", () => {
  it("have figures", () => {
    const tiny = sketchOf([{ name: "w", shape: [8, 40], values: gaussian(320, 1e-30, 1) }]);
    for (const clipping of ["auto", "absmax", "mse", 99] as const) {
      const quantizer = uniform({ clipping });
      const { layers: figures } = new Estimator(tiny).estimate(recipe({ sparsity: 0.5, bits: 4, quantizer }));
      expect(Number.isFinite(figures.noise[0])).toBe(true);
    }
  });
});

describe("counts", () => {
  it("are round(s·n) of every layer in scope layer", () => {
    const { layers: figures } = estimator.estimate(recipe({ sparsity: 0.37, scope: "layer" }));
    expect([...(figures.kept as Float64Array)]).toEqual(
      layers.map(({ values: { length: n } }) => n - Math.round(0.37 * n)),
    );
  });

  it("follow one threshold in scope global, close to the exact one", () => {
    const { layers: figures, kept } = estimator.estimate(recipe({ sparsity: 0.9 }));
    const all = layers.flatMap((layer) => [...layer.values].map(Math.abs)).sort((a, b) => a - b);
    const threshold = all[Math.round(0.9 * all.length)];
    layers.forEach(({ values }, i) => {
      const exact = values.filter((w) => Math.abs(w) >= threshold).length;
      expect(Math.abs(figures.kept[i] - exact)).toBeLessThanOrEqual(0.01 * values.length);
    });
    expect(Math.abs(kept - 0.1 * all.length)).toBeLessThanOrEqual(2);
    expect(figures.threshold[0] / threshold).toBeCloseTo(1, 2);
  });

  it("follow a pattern's blocks, a shorter one at the end of a row keeping its share", () => {
    const { layers: figures } = estimator.estimate(recipe({ structure: "4:8" }));
    expect(figures.kept[2]).toBe(10 * (8 * 4 + 4));
  });
});

describe("what must hold", () => {
  it("32 bits without pruning cost nothing but the file's frame", () => {
    const found = estimator.estimate(DEFAULTS);
    expect(found.sqnr).toBe(Number.POSITIVE_INFINITY);
    expect(found.codes).toBe(4 * sketch.parameters);
    expect(found.uncompressed_bytes).toBe(40);
  });

  it.each(["tensor", "channel", 32] as const)("more bits, less noise: scale per %s", (granularity) => {
    const sqnr = [2, 3, 4, 5, 6, 7, 8].map(
      (bits) => estimator.estimate(recipe({ bits, granularity, sparsity: 0.3 })).sqnr,
    );
    expect([...sqnr].sort((a, b) => a - b)).toEqual(sqnr);
  });

  it.each(["uniform", "kmeans"] as const)("more sparsity, fewer bytes and more noise: %s", (quantizer) => {
    const steps = [0, 0.2, 0.4, 0.6, 0.8, 0.95].map((sparsity) =>
      estimator.estimate(recipe({ sparsity, bits: 16, quantizer })),
    );
    for (let i = 1; i < steps.length; i++) {
      expect(steps[i].nbytes).toBeLessThanOrEqual(steps[i - 1].nbytes);
      expect(steps[i].sqnr).toBeLessThan(steps[i - 1].sqnr);
    }
  });

  it("the least squared error beats the whole range, and a codebook beats both, in one tensor", () => {
    const noise = (changes: Partial<Recipe>) =>
      estimator.estimate(recipe({ bits: 3, granularity: "tensor", ...changes })).sqnr;
    expect(noise({ quantizer: uniform({ clipping: "mse" }) })).toBeGreaterThan(noise({}));
    expect(noise({ quantizer: "kmeans" })).toBeGreaterThan(noise({ quantizer: uniform({ clipping: "mse" }) }));
  });

  it("a recipe's figures do not depend on what was estimated before", () => {
    const recipes = (["auto", "mse", "absmax", 99] as const).flatMap((clipping) =>
      [true, false].flatMap((symmetric) =>
        [{ sparsity: 0.6 }, {}, { structure: "2:4" as const }, { importance: "random", sparsity: 0.6 }].flatMap(
          (rest) => [2, 4].map((bits) => recipe({ bits, quantizer: uniform({ clipping, symmetric }), ...rest })),
        ),
      ),
    );
    const bytes = encode(layers);
    const figures = ({ left: _, ...rest }: Estimate) => rest; // the sketch itself is compared elsewhere
    const fresh = recipes.map((r) => figures(new Estimator(decodeSketch(bytes)).estimate(r)));
    for (const r of recipes) estimator.estimate(withLayer(r, "a", { bits: 2, granularity: 64 }));
    expect(recipes.map((r) => figures(estimator.estimate(r)))).toEqual(fresh);
  });

  it("a layer under keep has no noise and its own bytes, and takes no part in the ranking", () => {
    const found = estimator.estimate(withLayer(recipe({ sparsity: 0.9, bits: 4 }), "b", "keep"));
    expect([found.layers.noise[1], found.layers.as_is[1], found.layers.kept[1]]).toEqual([0, 4 * 9216, 9216]);
    expect(found.layers.kept[0] + found.layers.kept[2]).toBeCloseTo(0.1 * (2048 + 700), -1);
  });
});

it("of a sketch that is not complete, the layers that are there are estimated as if they were all", () => {
  const part = decodeSketch(encode(layers, 2));
  expect(part.layers.map(({ name, index, pending }) => [name, index, pending ?? false])).toEqual([
    ["a.weight", 0, false],
    ["b.weight", 1, false],
    ["c.weight", 2, true],
  ]);
  for (const changes of [
    { sparsity: 0.9, bits: 4 },
    { structure: "2:4" },
    { scope: "layer", sparsity: 0.5, bits: 1 },
  ]) {
    const asked = recipe(changes as Partial<Recipe>);
    const found = new Estimator(part).estimate(withLayer(asked, "c", { bits: 2 })).layers;
    const alone = new Estimator(sketchOf(layers.slice(0, 2))).estimate(asked).layers;
    for (const [name, column] of Object.entries(alone)) {
      expect(Array.from(found[name as keyof typeof found]).slice(0, 2)).toEqual(Array.from(column));
    }
    expect([found.kept[2], found.as_is[2], found.codes[2], found.noise[2]]).toEqual([700, 2800, 0, 0]);
  }
  expect(() => new Estimator(part).estimate(withLayer(recipe({}), "d", { bits: 2 }))).toThrow("matches no layer");
});

it("a layer's SQNR by bits is what an estimate with those bits says", () => {
  const base = recipe({ sparsity: 0.7, bits: 4 });
  const byBits = estimator.layerSqnr(base, 1);
  CODED_BITS.forEach((bits, i) => {
    const { signal, noise } = estimator.estimate(withFields(base, { bits })).layers;
    expect(byBits[i]).toBeCloseTo(10 * Math.log10(signal[1] / noise[1]), 9);
  });
});

it("totals of plain lists, as the kernel sends them, are those of the preview", () => {
  const found = estimator.estimate(recipe({ sparsity: 0.5, bits: 4 }));
  const sent = JSON.parse(JSON.stringify({ ...found, layers: lists(found.layers) }));
  expect(totals(sent, sketch)).toEqual(totals(found, sketch));
});

function lists(columns: object): Record<string, number[]> {
  return Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, Array.from(values as number[])]));
}
