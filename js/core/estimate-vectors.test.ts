// Holds this side to tests/vectors: what Python's recipe, sketch and estimate say, to the byte.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { Estimator } from "./estimate";
import { layerLabel, parseRecipe, recipeJson, resolve } from "./recipe";
import { decodeSketch } from "./sketch-decoder";
import type { Estimate, Figures, LayerFigures, Plan } from "./types";

interface Case {
  recipe: string;
  plans: Plan[];
  estimate: Figures;
  nbytes: number;
  sqnr: number | null;
  /** Of the model without the channels that go. */
  parameters?: number;
}

interface Vector {
  sketch: string;
  cases: Case[];
}

const FOLDER = join(import.meta.dirname, "../../tests/vectors");
const WHOLE = ["kept", "codes", "mask", "scales", "as_is"] as const;
const TOLERANCE = 1e-9;

const files = readdirSync(FOLDER).filter((name) => name.endsWith(".json"));

function read(name: string): Vector {
  return JSON.parse(readFileSync(join(FOLDER, name), "utf8"));
}

it("there are vectors to hold to", () => {
  expect(files.length).toBeGreaterThan(0);
});

describe.each(files)("%s", (name) => {
  const { sketch: base64, cases } = read(name);
  const sketch = decodeSketch(Uint8Array.from(Buffer.from(base64, "base64")));
  const estimator = new Estimator(sketch);

  it.each(cases)("$recipe", ({ recipe: text, plans, estimate: expected, nbytes, sqnr, parameters }) => {
    const recipe = parseRecipe(text);
    expect(recipeJson(recipe)).toBe(text);
    expect(
      resolve(
        recipe,
        sketch.layers.map((layer) => layerLabel(layer.name)),
      ),
    ).toEqual(plans);
    const found = estimator.estimate(recipe);
    expect(whole(found)).toEqual(whole(expected));
    expect(found.nbytes).toBe(nbytes);
    expectNear(found.layers, expected.layers);
    if (sqnr === null) expect(found.sqnr).toBe(Number.POSITIVE_INFINITY);
    else expect(found.sqnr).toBeCloseTo(sqnr, 6);
    expect(found.widths ?? undefined).toEqual(expected.widths);
    expect(found.macs ?? undefined).toBe(expected.macs);
    if (parameters !== undefined) expect(estimator.narrowed(recipe).sketch.parameters).toBe(parameters);
  });
});

/** The figures that must be equal to the byte. */
function whole({ recipe, uncompressed_bytes, header, original_nbytes, layers }: Estimate | Figures) {
  return {
    recipe,
    uncompressed_bytes,
    header,
    original_nbytes,
    ...Object.fromEntries(WHOLE.map((key) => [key, [...list(layers[key])]])),
  };
}

function list(values: ArrayLike<number>): number[] {
  return Array.from(values);
}

function expectNear(found: LayerFigures, expected: LayerFigures): void {
  list(expected.signal).forEach((signal, i) => {
    expect(Math.abs(found.signal[i] - signal)).toBeLessThanOrEqual(TOLERANCE * signal);
    expect(Math.abs(found.noise[i] - expected.noise[i])).toBeLessThanOrEqual(TOLERANCE * signal);
    expect(Math.abs(found.threshold[i] - expected.threshold[i])).toBeLessThanOrEqual(TOLERANCE * expected.threshold[i]);
  });
}
