// Holds the live charts to tests/vectors: the same axes, ticks, bins, places and words as in Python's snapshots.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { deviceRows, fitWords as devicesThatFit } from "./charts/device-fit";
import {
  binCount,
  bodyHeight,
  combFactor,
  distributionPlot,
  outlineOf,
  sharedSpan,
} from "./charts/distribution-geometry";
import { fitText, placeLabel, thin } from "./charts/fit-and-place-labels";
import { blockOf } from "./charts/layer-tree-rows";
import { lineScales, lossDomain, rateDomain, scoreDomain } from "./charts/line-scales-paths-and-domains";
import { silhouette, stages } from "./charts/model-silhouette";
import * as format from "./charts/number-format";
import { axisTicks, type RidgeFrame } from "./charts/ridge-layout-header-and-axis";
import { byteDomain, paretoFront, scatterScales, valueDomain } from "./charts/scatter-scales-and-pareto-front";
import { directionWords, holdsUp, intervalText, metricTick, metricValue, predictionWords } from "./charts/score-format";
import { linearTicks, logTicks, mirroredTicks, niceBelow, sizeMarks, wholeTicks } from "./charts/ticks-and-size-marks";
import { Estimator } from "./core/estimate";
import { isRandom } from "./core/method-settings";
import { layerLabel, parseRecipe, resolve } from "./core/recipe";
import { decodeSketch } from "./core/sketch-decoder";
import type { Estimate, Sketch } from "./core/types";
import { deadWords } from "./explorer/layer-and-file-figures";
import { epochsDone, withNow, withStart } from "./monitor/monitor-state";

const FOLDER = join(import.meta.dirname, "../tests/vectors");
const TOLERANCE = 1e-8;
// biome-ignore lint/suspicious/noExplicitAny: what a case holds is seen below
type Case = any;
const cases: Record<string, Case[]> = JSON.parse(readFileSync(join(FOLDER, "charts/cases.json"), "utf8"));

const plain = (text: string) => text.replaceAll(/[\u00a0\u202f]/g, " ");

/** Compare numbers within a tolerance, in whatever they are nested. */
function near(found: unknown, expected: unknown, where: string): void {
  if (typeof expected !== "number" || typeof found !== "number") {
    if (!Array.isArray(expected)) {
      expect(found, where).toEqual(expected);
      return;
    }
    expect(Array.from(found as ArrayLike<unknown>).length, `${where}: how many`).toBe(expected.length);
    expected.forEach((one, i) => {
      near((found as ArrayLike<unknown>)[i], one, `${where}, ${i}`);
    });
    return;
  }
  expect(Math.abs(found - expected), `${where}: ${found}, not ${expected}`).toBeLessThanOrEqual(
    TOLERANCE * Math.max(1e-6, Math.abs(expected)),
  );
}

it.each(cases.devices)("devices for a model of $needs bytes", ({ needs, fits, over, texts, words }) => {
  const [file, weights, activations] = needs;
  const rows = deviceRows({ file, weights, activations });
  expect(rows.map((row) => [row.fits, row.flash.fits, row.ram.fits, row.activations.fits])).toEqual(fits);
  expect(rows.map((row) => [row.flash.over, row.ram.over, row.activations.over])).toEqual(over);
  expect(rows.map((row) => [row.flash, row.ram, row.activations].map(({ text }) => plain(text)))).toEqual(texts);
  expect(devicesThatFit(rows)).toBe(words);
});

it.each(cases.numbers)("the number $value in words", (one) => {
  const { value } = one;
  const size = Math.abs(value);
  const whole = Math.abs(Number(value));
  const found = {
    share: format.share(value),
    percent: format.percent(value, 1),
    weight: format.weight(value),
    decibels: format.decibels(value),
    times: format.times(size),
    compared: value === 0 ? null : format.comparedSize(size),
    typed: format.withoutNoise(value),
    estimated: format.estimated(value > 1, format.weight(value)),
  };
  for (const [name, text] of Object.entries(found)) {
    expect(text && plain(text), `${name} of ${value}`).toBe(one[name] && plain(one[name]));
  }
  if (!Number.isInteger(whole)) return; // there are no halves of bytes
  expect(plain(format.bytes(whole))).toBe(plain(one.bytes));
  expect(plain(format.bytes(whole)).replace(/\.0+(?=\D)/, "")).toBe(plain(one.bytes_tick));
});

it.each(cases.scores)("a score of $score.value", ({ metric, score, ...one }) => {
  expect(plain(metricValue(metric, score.value))).toBe(plain(one.text));
  expect(plain(metricTick(metric, one.rounded))).toBe(plain(one.tick));
  expect(plain(intervalText(metric, score))).toBe(plain(one.interval));
  expect(holdsUp(metric, one.now, score)).toBe(one.holds);
  const state = one.running ? "running" : "done";
  expect(plain(predictionWords(metric, one.now, { ...score, state }))).toBe(plain(one.predicted));
  const unsaid = metric.percent && metric.higher; // the page leaves it out, too
  expect(unsaid ? "" : directionWords(metric)).toBe(one.direction);
});

it.each(cases.ticks)("ticks of a span of $span", (one) => {
  near(mirroredTicks(one.span, one.wanted), one.mirrored, "mirrored");
  near(linearTicks(one.low, one.high, one.wanted), one.linear, "linear");
  near(logTicks(one.small, one.large, one.wanted), one.log, "logarithmic");
  near(wholeTicks(0, Math.round(one.large), one.wanted), one.whole, "whole numbers");
  near(niceBelow(one.span), one.below, "a round number");
  const columns = { plot: { width: one.width } } as RidgeFrame["columns"];
  near(axisTicks({ span: one.span, columns }), one.axis, "of a ridge");
  expect(sizeMarks(one.dense).map((mark) => [mark.bytes, mark.label])).toEqual(one.marks);
});

it.each(cases.histograms)("a histogram of $n weights", (one) => {
  expect(binCount(one.n, one.sigma, one.span, one.pixels)).toBe(one.bins);
  near(bodyHeight(one.counts), one.top, "the height");
  near(combFactor(one.bars, one.counts), one.comb, "the comb");
});

it.each(cases.scatters)("a scatter beside $dense bytes", (one) => {
  const xs = byteDomain(one.trials, one.dense);
  const ys = valueDomain(one.trials, one.baseline, one.share);
  near(xs, one.xs, "bytes");
  near(ys, one.ys, "values");
  const scales = scatterScales(one.frame, xs, ys);
  near(scales.xTicks, one.x_ticks, "ticks across");
  near(scales.yTicks, one.y_ticks, "ticks upwards");
  near(
    one.trials.map(({ nbytes, value }: Case) => [scales.x(nbytes), scales.y(value)]),
    one.places,
    "places",
  );
  const pairs = (higher: boolean) => paretoFront<Case>(one.trials, higher).map(({ nbytes, value }) => [nbytes, value]);
  expect(pairs(true)).toEqual(one.front_higher);
  expect(pairs(false)).toEqual(one.front_lower);
});

it.each(cases.trainings)("a training that has done $done epochs", (one) => {
  const done = epochsDone(one.progress);
  near(done, one.done, "epochs done");
  const shown = withNow(withStart(one.curves, one.baseline), one.progress, done);
  for (const [name, column] of Object.entries(one.shown)) near(shown[name as keyof typeof shown], column, name);
  const scored = shown.test.map((value, i) => ({ value, low: shown.low[i], high: shown.high[i] }));
  const trained = shown.train.map((value) => ({ value, low: null, high: null }));
  const scores = [...scored, ...trained].filter((score) => score.value !== null) as Case[];
  const domains = [scoreDomain(scores, one.n, one.share), lossDomain(shown.loss), rateDomain(shown.lr)];
  near(domains, one.domains, "axes");
  const xs: [number, number] = [0, one.epochs];
  const scales = domains.map((domain, i) => lineScales(one.frame, xs, domain, i === 2));
  near(scales[0].xTicks, one.x_ticks, "ticks across");
  near(
    scales.map((scale) => scale.yTicks),
    one.y_ticks,
    "ticks upwards",
  );
  const known = shown.at.map((at, i) => [at, shown.test[i]] as const).filter(([, value]) => value !== null);
  near(
    known.map(([at, value]) => [scales[0].x(at), scales[0].y(value as number)]),
    one.places,
    "places",
  );
  const rates = shown.lr.filter((rate) => rate !== null);
  near(
    rates.map((rate) => scales[2].y(rate)),
    one.rates,
    "rates",
  );
});

it.each(cases.silhouettes)("the silhouette of $labels", (one) => {
  const order = one.layers.map((_: Case, i: number) => i);
  const blocks = silhouette(one.layers, order, one.width, 1);
  near(
    blocks.map((block) => block.x),
    one.edges.slice(0, -1),
    "where layers begin",
  );
  near(
    blocks.map((block) => block.height),
    one.heights,
    "heights",
  );
  const named = stages(one.labels, blocks);
  expect(named.map((stage) => stage.text)).toEqual(one.stages.map(([text]: [string]) => text));
  near(
    named.map((stage) => stage.x),
    one.stages.map(([, x]: [string, number]) => x),
    "stages",
  );
  expect(one.labels.map(blockOf)).toEqual(one.blocks);
  const dead = one.labels.length >> 1;
  const sketch = { layers: one.labels.map((label: string) => ({ label, n: 10 })) } as unknown as Sketch;
  const kept = one.labels.map((_: string, i: number) => (i < dead ? 0 : 5));
  expect(deadWords(sketch, { layers: { kept } } as unknown as Estimate)).toBe(one.dead);
});

it.each(cases.labels)("labels: $text", (one) => {
  expect(fitText(one.text, one.room, (text) => text.length)).toBe(one.fitted);
  const points = one.points.map(([x, y]: [number, number]) => ({ x, y }));
  const [width, height] = one.size;
  const bounds = { x: 0, y: 0, width: 300, height: 150 };
  const box = placeLabel(points[0], { width, height }, bounds, points, one.levels, 10);
  near(box && [box.x, box.y, box.width, box.height], one.box, "the place");
  const row = one.row.map(([x, width]: [number, number], i: number) => ({ x, width, i }));
  expect(thin<Case>(row).map((label) => label.i)).toEqual(one.thin);
});

describe.each(readdirSync(FOLDER).filter((name) => name.endsWith(".json")))("a ridge of %s", (file) => {
  const vector: { sketch: string; rows: Case[] } = JSON.parse(readFileSync(join(FOLDER, file), "utf8"));
  const sketch = decodeSketch(Uint8Array.from(Buffer.from(vector.sketch, "base64")));
  const estimator = new Estimator(sketch);
  const labels = sketch.layers.map((layer) => layerLabel(layer.name));

  it.each(vector.rows)("$layer under $recipe", (row) => {
    const recipe = parseRecipe(row.recipe);
    const index = sketch.layers.findIndex((layer) => layer.name === row.layer);
    const layer = sketch.layers[index];
    const { kept, threshold } = estimator.estimate(recipe).layers;
    const outcome = { kept: kept[index], threshold: threshold[index], random: isRandom(recipe) };
    const span = sharedSpan(sketch.layers);
    near(span, row.span, "the axis");
    const outline = outlineOf(layer, span, row.pixels);
    const left = estimator.narrowed(recipe).sketch.layers[index];
    const picture = distributionPlot(sketch, left, resolve(recipe, labels)[index], outcome, outline);
    expect(picture.outline.length).toBe(row.bins);
    near(picture.top, row.top, "the height");
    near(picture.threshold, row.threshold, "the threshold");
    near(picture.barWidth, row.width, "the width of bars");
    const off = (found: ArrayLike<number>, expected: number[], unit: number) =>
      Math.max(0, ...expected.map((value, i) => Math.abs(found[i] - value))) / unit;
    expect(picture.barAt.length).toBe(row.at.length);
    expect(off(picture.barAt, row.at, span), "where bars are").toBeLessThan(TOLERANCE);
    expect(off(picture.barHeight, row.height, layer.n), "how high bars are").toBeLessThan(TOLERANCE);
    expect(picture.levels.length).toBe(row.levels.length);
    expect(off(picture.levels, row.levels, span), "levels").toBeLessThan(TOLERANCE);
  });
});
