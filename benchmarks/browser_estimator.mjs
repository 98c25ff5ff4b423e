// What one move of a slider costs in the browser's core, without drawing: `npm run bench [-- figures.json]`.
// With `--once` every row runs once, to see that it does.
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";

const CHANNELS = 256;
const ROW = 288;
const ONCE = process.argv.includes("--once");
const LAYERS = ONCE ? 3 : 300;
const ROWS = ONCE ? 3 : 30;
const WARM_UP = ONCE ? 0 : 40;
const STEPS = ONCE ? 1 : 120;

const { DEFAULTS, Estimator, decodeSketch, effective, encode, gaussian, original, planOf, survivors, withFields } =
  await core();

/** The core as it is shipped: bundled and minified. */
async function core() {
  const modules = ["chart-distribution", "estimate", "recipe", "sketch-decoder", "test-sketches"];
  const contents = modules.map((name) => `export * from "./js/core/${name}";`).join("\n");
  const resolveDir = dirname(dirname(fileURLToPath(import.meta.url)));
  const outfile = join(mkdtempSync(join(tmpdir(), "shrinkwidget-")), "core.mjs");
  const stdin = { contents, resolveDir, loader: "ts" };
  await build({ stdin, outfile, bundle: true, minify: true, format: "esm", target: "es2022" });
  return import(pathToFileURL(outfile).href);
}

/** Ten different layers of 73,728 weights, about 3,000 buckets each, thirty times over. */
function manyLayers() {
  const some = Array.from({ length: 10 }, (_, i) => gaussian(CHANNELS * ROW, 0.02 * (1 + i / 10), i + 1));
  const name = (i) => `layer.${i}.weight`;
  return Array.from({ length: LAYERS }, (_, i) => ({ name: name(i), shape: [CHANNELS, ROW], values: some[i % 10] }));
}

/** The median and the 95th percentile of the time of `work(step)`, in milliseconds. */
function time(what, work, steps = STEPS) {
  const times = [];
  for (let step = -Math.min(steps, WARM_UP); step < steps; step++) {
    const start = performance.now();
    work(step + WARM_UP);
    if (step >= 0) times.push(performance.now() - start);
  }
  times.sort((a, b) => a - b);
  const [median, p95] = [0.5, 0.95].map((share) => times[Math.floor(share * (times.length - 1))]);
  console.log(`${what.padEnd(48)} ${median.toFixed(2).padStart(8)} ${p95.toFixed(2).padStart(8)}`);
  return { what, times: times.map((ms) => Number(ms.toFixed(4))) };
}

/** Another sparsity at every step, as a drag gives. */
function dragged(step, changes) {
  return withFields(DEFAULTS, changes.structure ? changes : { ...changes, sparsity: 0.02 + (step % 100) / 105 });
}

const blob = encode(manyLayers());
const sketch = decodeSketch(blob);
const estimator = new Estimator(sketch);
const buckets = sketch.layers.reduce((sum, layer) => sum + layer.values.count.length, 0);

const NAMED = sketch.layers.map((layer, i) => [layer.name, { bits: 3 + (i % 5) }]);
const uniform = (settings) => ({ bits: 4, quantizer: { kind: "uniform", ...settings } });
const RECIPES = {
  "4 bits per channel": { bits: 4 },
  "4 bits per channel, scope layer": { bits: 4, scope: "layer" },
  "32 bits": {},
  "1 bit": { bits: 1 },
  "2 bits": { bits: 2 },
  "8 bits, 2:4": { bits: 8, structure: "2:4" },
  "4 bits, groups of 32": { bits: 4, granularity: 32 },
  "4 bits, symmetric": uniform({ symmetric: true, clipping: "absmax" }),
  "4 bits, symmetric, groups of 32": { ...uniform({ symmetric: true, clipping: "absmax" }), granularity: 32 },
  "4 bits, asymmetric, largest magnitude": uniform({ clipping: "absmax" }),
  "4 bits, symmetric, least squared error": uniform({ symmetric: true, clipping: "mse" }),
  "4 bits, least squared error": uniform({ clipping: "mse" }),
  "4 bits, symmetric, 99th percentile": uniform({ symmetric: true, clipping: 99 }),
  "codebook of 4 bits": { bits: 4, quantizer: "kmeans" },
  "codebook of 8 bits": { bits: 8, quantizer: "kmeans" },
  "2:4, 4 bits": { bits: 4, structure: "2:4" },
  "4 bits, an override for every layer": { bits: 4, layers: NAMED },
};

console.log(`one step of a drag, ${LAYERS} layers, ${buckets} buckets`.padEnd(48), "median ms", "  p95");
const figures = Object.entries(RECIPES).map(([name, changes]) => {
  return time(name, (step) => estimator.estimate(dragged(step, changes)));
});
figures.push(time("bits changed", (step) => estimator.estimate(dragged(step, { bits: 2 + (step % 7) }))));
figures.push(
  time(
    "decode the sketch, first estimate",
    () => new Estimator(decodeSketch(blob)).estimate(DEFAULTS),
    Math.min(STEPS, 12),
  ),
);

const edges = Float64Array.from({ length: 122 }, (_, i) => -0.1 + i / 605);
const rows = sketch.layers.slice(0, ROWS);
const sets = {
  "4 bits per channel": { bits: 4 },
  "8 bits per channel": { bits: 8 },
  codebook: { bits: 4, quantizer: "kmeans" },
};
figures.push(time(`pictures of ${ROWS} layers as they were`, () => rows.map((layer) => original(layer, edges))));
for (const [name, changes] of Object.entries(sets)) {
  figures.push(
    time(`pictures of ${ROWS} layers, ${name}`, (step) => {
      const recipe = dragged(step, changes);
      const { kept, threshold } = estimator.estimate(recipe).layers;
      rows.forEach((layer, i) => {
        const plan = planOf(recipe, layer.name);
        const outcome = { kept: kept[i], threshold: threshold[i] };
        survivors(sketch, layer, plan, outcome, edges);
        effective(sketch, layer, plan, outcome, edges);
      });
    }),
  );
}
if (process.argv[2] && !ONCE)
  writeFileSync(process.argv[2], `${JSON.stringify({ layers: LAYERS, buckets, figures }, null, 2)}\n`);
