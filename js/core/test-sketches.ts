// For tests and benchmarks: sketches made from weights here, by the page (docs/estimate.md) and not by the codec's code.

import { BINS, binOf, HIGH, LOW, RANGES, RATIOS } from "./log-histogram-bins";
import type { UNIFORM } from "./method-settings";
import { decodeSketch } from "./sketch-decoder";
import type { Granularity, Kind, Sketch, Structure } from "./types";

const GRANULARITIES: Granularity[] = ["tensor", "channel", 32, 64, 128];
const PATTERNS: Structure[] = ["2:4", "1:4", "4:8"];

export interface Weights {
  readonly name: string;
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

/** Normally distributed numbers that are the same every time. */
export function gaussian(n: number, sigma = 1, seed = 1): Float32Array {
  let state = seed >>> 0;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  return Float32Array.from({ length: n }, () => {
    return sigma * Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  });
}

/** A uniform quantizer with some settings. */
export function uniform(settings: Partial<typeof UNIFORM>): Kind {
  return { kind: "uniform", ...settings };
}

/** The sketch of these weights, through its bytes. */
export function sketchOf(layers: readonly Weights[]): Sketch {
  return decodeSketch(encode(layers));
}

/** The bytes of a sketch, as the kernel would send them. */
export function encode(all: readonly Weights[], sketched = all.length): Uint8Array {
  const layers = all.slice(0, sketched);
  const tables = layers.map(valueTable);
  const starts = [0];
  for (const { buckets } of tables) starts.push(starts[starts.length - 1] + buckets.length);
  const relative = GRANULARITIES.map((g) => layers.map((layer) => relativeTable(layer, g)));
  const flat = (name: keyof ReturnType<typeof relativeTable>) => {
    return new Float32Array(relative.flatMap((row) => row.flatMap((table) => [...table[name]])));
  };
  return safetensors(modelText(layers, all.slice(sketched)), {
    value_buckets: new Uint16Array(tables.flatMap((t) => t.buckets)),
    value_counts: new Uint32Array(tables.flatMap((t) => t.counts)),
    value_starts: new Uint32Array(starts),
    bin_count: flat("count"),
    bin_energy: flat("energy"),
    range_value: flat("value"),
    range_energy: flat("rangeEnergy"),
    range_count: flat("rangeCount"),
    ratios: flat("ratios"),
    captured: flat("captured"),
    absmax: new Float32Array(layers.map((layer) => absmax(layer.values))),
    survival: new Float32Array(PATTERNS.flatMap((p) => layers.flatMap((layer) => survival(layer, p)))),
  });
}

function modelText(layers: readonly Weights[], pending: readonly Weights[]): string {
  const parameters = [...layers, ...pending].reduce((sum, layer) => sum + layer.values.length, 0);
  const header = ({ name, shape, values }: Weights) => ({
    name,
    label: name.replace(/\.weight$/, ""),
    shape,
    rows: shape[0],
    width: shape[0],
    n: values.length,
    dtype: "float32",
    itemsize: 4,
    lossless: false,
    aliases: [],
  });
  return JSON.stringify({
    title: "test",
    parameters,
    original_nbytes: 4 * parameters + 100,
    structure: 200,
    layers: layers.map((layer) => ({
      ...header(layer),
      half: "float16",
      zeros: layer.values.filter((w) => w === 0).length,
      negative_zeros: layer.values.filter((w) => Object.is(w, -0)).length,
      blocks: PATTERNS.map((pattern) => blocks(layer.shape, layer.values, pattern)),
    })),
    ...(pending.length > 0 ? { pending: pending.map(header) } : {}),
    uncompressed: [
      { name: "bias", shape: [10], dtype: "float32", nbytes: 40, itemsize: 4, floating: true, role: "", why: "" },
    ],
    granularities: GRANULARITIES,
    patterns: PATTERNS,
  });
}

function safetensors(model: string, tables: Record<string, Uint16Array | Uint32Array | Float32Array>): Uint8Array {
  const names = { Uint16Array: "U16", Uint32Array: "U32", Float32Array: "F32" } as Record<string, string>;
  const header: Record<string, unknown> = {
    __metadata__: { format: "shrinkwidget-sketch", version: "2", model },
  };
  let end = 0;
  for (const [name, table] of Object.entries(tables)) {
    const begin = end;
    end += table.byteLength;
    header[name] = { dtype: names[table.constructor.name], shape: [table.length], data_offsets: [begin, end] };
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const blob = new Uint8Array(8 + text.length + end);
  new DataView(blob.buffer).setBigUint64(0, BigInt(text.length), true);
  blob.set(text, 8);
  let at = 8 + text.length;
  for (const table of Object.values(tables)) {
    blob.set(new Uint8Array(table.buffer, table.byteOffset, table.byteLength), at);
    at += table.byteLength;
  }
  return blob;
}

function valueTable({ values }: Weights): { buckets: number[]; counts: number[] } {
  const counts = new Map<number, number>();
  for (const pattern of new Uint32Array(values.buffer, values.byteOffset, values.length)) {
    counts.set(pattern >>> 16, (counts.get(pattern >>> 16) ?? 0) + 1);
  }
  const all = [...counts.keys()].sort((a, b) => a - b);
  const buckets = [...all.filter((b) => b >= 0x8000).reverse(), ...all.filter((b) => b < 0x8000)];
  return { buckets, counts: buckets.map((b) => counts.get(b)!) };
}

function absmax(values: ArrayLike<number>): number {
  let most = 0;
  for (let i = 0; i < values.length; i++) most = Math.max(most, Math.abs(values[i]));
  return most;
}

function groupsOf({ shape, values }: Weights, granularity: Granularity): Float32Array[] {
  const row = values.length / shape[0];
  const size = granularity === "tensor" ? values.length : granularity === "channel" ? row : granularity;
  const span = granularity === "tensor" ? values.length : row;
  const groups: Float32Array[] = [];
  for (let start = 0; start < values.length; start += span) {
    for (let at = 0; at < span; at += size) groups.push(values.subarray(start + at, start + Math.min(span, at + size)));
  }
  return groups;
}

function relativeTable(layer: Weights, granularity: Granularity) {
  const groups = groupsOf(layer, granularity);
  const count = new Float64Array(BINS);
  const energy = new Float64Array(BINS);
  const ratios = new Float64Array(RATIOS);
  let [meanSquares, all] = [0, 0];
  for (const group of groups) {
    const range = absmax(group);
    let [low, high, sum] = [0, 0, 0];
    for (const w of group) {
      const bin = range > 0 ? binOf(Math.fround(Math.abs(w) / range)) : 0;
      count[bin]++;
      energy[bin] += w * w;
      all += w * w;
      sum += Math.abs(w);
      [low, high] = [Math.min(low, w), Math.max(high, w)];
    }
    const place = (range > 0 ? Math.min(-low, high) / range : 0) * (RATIOS - 1);
    const node = Math.min(Math.floor(place), RATIOS - 2);
    ratios[node] += (1 - (place - node)) * range ** 2;
    ratios[node + 1] += (place - node) * range ** 2;
    meanSquares += sum ** 2 / group.length;
  }
  const ranges = Float64Array.from(groups, absmax).sort();
  const squares = ranges.reduce((sum, a) => sum + a * a, 0);
  return {
    count,
    energy: energy.map((part) => part / all),
    ...runs(ranges, squares),
    ratios: ratios.map((part) => part / squares),
    captured: [meanSquares / all],
  };
}

function runs(ranges: Float64Array, squares: number) {
  const used = Math.min(RANGES, ranges.length);
  const value = new Float64Array(RANGES);
  const rangeEnergy = new Float64Array(RANGES);
  const rangeCount = new Float64Array(RANGES);
  for (let run = 0; run < used; run++) {
    const from = Math.floor((run * ranges.length) / used);
    const members = ranges.subarray(from, Math.floor(((run + 1) * ranges.length) / used));
    const energy = members.reduce((sum, a) => sum + a * a, 0);
    value[run] = Math.sqrt(energy / members.length);
    rangeEnergy[run] = energy / squares;
    rangeCount[run] = members.length / ranges.length;
  }
  return { value, rangeEnergy, rangeCount };
}

/** How many weights that are not zero a pattern keeps. */
function blocks(shape: readonly number[], values: Float32Array, pattern: Structure): number {
  const [n, m] = pattern.split(":").map(Number);
  const row = values.length / shape[0];
  let kept = 0;
  for (let start = 0; start < values.length; start += row) {
    for (let at = 0; at < row; at += m) {
      const block = values.subarray(start + at, start + Math.min(row, at + m));
      kept += Math.min(n, block.filter((w) => w !== 0).length);
    }
  }
  return kept;
}

/** A plausible curve: what independent weights of this distribution would show. */
function survival({ values }: Weights, pattern: Structure): number[] {
  const [n, m] = pattern.split(":").map(Number);
  const most = absmax(values);
  const sorted = values.map(Math.abs).sort();
  return Array.from({ length: BINS }, (_, bin) => {
    const at = (most * (LOW[bin] + HIGH[bin])) / 2;
    const rank = sorted.findIndex((x) => x >= at);
    return ((rank < 0 ? sorted.length : rank) / sorted.length) ** (m / n - 1);
  });
}
