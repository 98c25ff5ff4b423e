// Says in words what the ridge shows: of a row, and of the place in a row the pointer is at.

import type { DistributionPlot } from "../charts/distribution-canvas";
import type { BlockRow, Row } from "../charts/layer-tree-rows";
import { bytes, count, estimated, estimatedDecibels, share, weight } from "../charts/number-format";
import type { RidgeScene } from "../charts/ridge-canvas";
import { layerTotal } from "../core/estimate";
import { heldBits, layerSqnr, ownOverride, shapeWords, zeroWords } from "./layer-and-file-figures";
import { shownSensitivity } from "./ridge-data-and-cache";
import { sensitivityLines } from "./sensitivity-words";
import type { View } from "./view-state";

interface Words {
  title: string;
  lines: string[];
}

/** One sentence about a row, for screen readers. */
export function describeRow(view: View, row: Row): string {
  if (row.kind === "block") return `${row.key}, block of ${row.layers.length} layers`;
  const { title, lines } = layerWords(view, row.layer);
  const sensitivity = shownSensitivity(view);
  const more = sensitivity ? sensitivityLines(view.state.metric.value, sensitivity, row.layer) : [];
  return [title, ...lines, ...more].join(", ");
}

/** What to say at a place in the ridge; null where there is nothing. */
export function ridgeTip(view: View, scene: RidgeScene, index: number, x: number): Words | null {
  const row = scene.rows[index];
  if (!row) return null;
  if (row.kind === "block") return blockWords(scene, row);
  const { plot, spark } = scene.columns;
  const words = layerWords(view, row.layer);
  const sensitivity = shownSensitivity(view);
  if (sensitivity && x >= spark.x && x <= spark.x + spark.width) {
    return { title: words.title, lines: sensitivityLines(view.state.metric.value, sensitivity, row.layer) };
  }
  if (x < plot.x || x > plot.x + plot.width) return words;
  return { title: words.title, lines: binWords(scene.picture(row.layer), (x - plot.x) / plot.width) };
}

function layerWords(view: View, index: number): Words {
  const { sketch, figures, plans, recipe } = view.state;
  const layer = sketch.value.layers[index];
  const plan = plans.value[index];
  const kept = figures.value.layers.kept[index];
  const { exact, sized, left, layers } = figures.value;
  const rest = left.layers[index];
  const about = (text: string) => estimated(sized || plan.keep, text);
  const now = `${bytes(layer.n * layer.itemsize)} → ${about(bytes(layerTotal(layers, index)))}`;
  const tensor = [`${shapeWords(layer, rest)}, ${layer.dtype}`];
  if (layer.zeros > 0) tensor.push(zeroWords(layer.zeros, layer.n));
  if (layer.pending) return { title: layer.label, lines: [...tensor, "not sketched yet"] };
  if (plan.keep) return { title: layer.label, lines: [...tensor, "uncompressed", now] };
  const own = ownOverride(recipe.value, layer) ? " (per-layer values)" : "";
  const bits = heldBits(plan, layer.itemsize);
  return {
    title: layer.label,
    lines: [
      ...tensor,
      `${about(count(kept))} of ${count(rest.n)} weights kept, ${about(share(1 - kept / rest.n))} pruned`,
      `${bits} ${bits === 1 ? "bit" : "bits"}${own}, SQNR ${estimatedDecibels(exact, layerSqnr(layers, index))}`,
      now,
    ],
  };
}

function blockWords(scene: RidgeScene, row: BlockRow): Words {
  const sum = row.layers.reduce((total, layer) => total + scene.figures(layer).nbytes, 0);
  return {
    title: row.key,
    lines: [
      `${row.layers.length} layers, ${estimated(scene.sized, bytes(sum))}`,
      `click to ${row.folded ? "unfold" : "fold"}`,
    ],
  };
}

/** What a picture holds at a place given as a fraction of its width. */
export function binWords(picture: DistributionPlot, place: number): string[] {
  const { edges, outline, survivors, threshold, span, unknown } = picture;
  const bin = Math.max(0, Math.min(outline.length - 1, Math.floor(place * outline.length)));
  const from = `from ${weight(edges[bin])} to ${weight(edges[bin + 1])}`;
  if (unknown) return [from, `≈ ${count(outline[bin])} weights`, unknown];
  const lines = [from, `≈ ${count(outline[bin])} weights, ≈ ${count(survivors[bin])} kept`];
  if (threshold > 0 && threshold < span) lines.push(`pruned within ≈ ±${weight(threshold)}`);
  return lines;
}
