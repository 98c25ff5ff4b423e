// Holds the distributions of pictures to tests/vectors: the same bins, the same counts as Python's.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { effective, original, survivors } from "./chart-distribution";
import { Estimator } from "./estimate";
import { isRandom } from "./method-settings";
import { layerLabel, parseRecipe, resolve } from "./recipe";
import { decodeSketch } from "./sketch-decoder";

interface Picture {
  recipe: string;
  layer: string;
  span: number;
  original: number[];
  survivors: number[];
  effective: number[];
}

const FOLDER = join(import.meta.dirname, "../../tests/vectors");
const TOLERANCE = 1e-8;

describe.each(readdirSync(FOLDER).filter((name) => name.endsWith(".json")))("%s", (file) => {
  const vector: { sketch: string; pictures: Picture[] } = JSON.parse(readFileSync(join(FOLDER, file), "utf8"));
  const sketch = decodeSketch(Uint8Array.from(Buffer.from(vector.sketch, "base64")));
  const estimator = new Estimator(sketch);
  const labels = sketch.layers.map((layer) => layerLabel(layer.name));

  it.each(vector.pictures)("$layer under $recipe", (picture) => {
    const recipe = parseRecipe(picture.recipe);
    const index = sketch.layers.findIndex((layer) => layer.name === picture.layer);
    const layer = sketch.layers[index];
    const left = estimator.narrowed(recipe).sketch.layers[index];
    const plan = resolve(recipe, labels)[index];
    const { kept, threshold } = estimator.estimate(recipe).layers;
    const outcome = { kept: kept[index], threshold: threshold[index], random: isRandom(recipe) };
    const bins = picture.original.length;
    const edges = Float64Array.from({ length: bins + 1 }, (_, i) => picture.span * ((2 * i) / bins - 1));
    const near = (found: Float64Array, expected: number[]) => {
      expected.forEach((count, bin) => {
        expect(Math.abs(found[bin] - count), `bin ${bin}: ${found[bin]}, not ${count}`).toBeLessThan(
          TOLERANCE * layer.n,
        );
      });
    };
    near(original(layer, edges), picture.original);
    near(survivors(sketch, left, plan, outcome, edges), picture.survivors);
    near(effective(sketch, left, plan, outcome, edges), picture.effective);
  });
});
