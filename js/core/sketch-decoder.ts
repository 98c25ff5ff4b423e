// Decodes the sketch the kernel sends once, and prepares the running sums that make every later question cheap.
import { BINS, RANGES, RATIOS } from "./log-histogram-bins";
import { readSafetensors, type Table } from "./safetensors-reader";
import type {
  ChannelFamily,
  Channels,
  Granularity,
  LayerSketch,
  MagnitudeTable,
  RelativeTable,
  Sketch,
  Structure,
  UncompressedTensor,
  ValueTable,
} from "./types";

const FORMAT = "shrinkwidget-sketch";
const VERSION = "2";

type Decoded = "index" | "share" | "absmax" | "energy" | "values" | "magnitudes" | "relative" | "survival";
type LayerInfo = Omit<LayerSketch, Decoded | "pending">;
interface ChannelsInfo extends Omit<Channels, "families"> {
  families: readonly Omit<ChannelFamily, "scores">[];
}
interface ModelInfo extends Omit<Sketch, "layers" | "uncompressed" | "channels"> {
  layers: LayerInfo[];
  /** The layers that follow and are not sketched yet. */
  pending?: LayerHeader[];
  uncompressed: UncompressedTensor[];
  channels?: ChannelsInfo;
}

/**
 * Read a sketch; throws an Error with one sentence if the bytes are no sketch of this version. `first` is the index of
 * its first layer, where it is only a part of a sketch.
 */
export function decodeSketch(bytes: Uint8Array | DataView, first = 0): Sketch {
  const { metadata, tables } = readSafetensors(bytes);
  if (metadata.format !== FORMAT || metadata.version !== VERSION) {
    throw new Error(`this is not a shrinkwidget sketch of version ${VERSION}; make it again with the same version`);
  }
  const { pending = [], ...model }: ModelInfo = JSON.parse(metadata.model);
  const channels = model.channels ? decodedChannels(model.channels, tables) : null;
  const layers = model.layers.map((info, i) => decodedLayer(info, i, first, model, tables));
  const rest = pending.map((header, i) => pendingLayer(header, layers.length + i, model.patterns));
  return { ...model, channels, layers: [...layers, ...rest] };
}

function decodedChannels(info: ChannelsInfo, tables: ReadonlyMap<string, Table>): Channels {
  const scores = info.families.length > 0 ? (table(tables, "channel_scores") as Float32Array) : new Float32Array();
  let end = 0;
  const families = info.families.map((family) => {
    end += family.channels;
    return { ...family, scores: scores.subarray(end - family.channels, end) };
  });
  return { ...info, families };
}

/** What is known of a layer before its weights are read. */
export type LayerHeader = Omit<LayerInfo, "half" | "zeros" | "negative_zeros" | "blocks">;

/** A layer whose weights are not read yet: an empty distribution, which takes the bytes it has. */
export function pendingLayer(header: LayerHeader, index: number, patterns: readonly Structure[]): LayerSketch {
  const nothing = new Float64Array();
  const none = { lo: nothing, hi: nothing, count: nothing, countTo: new Float64Array(1) };
  return {
    ...header,
    index,
    pending: true,
    share: 1,
    absmax: 0,
    half: "float16",
    zeros: 0,
    negative_zeros: 0,
    blocks: patterns.map(() => header.n),
    energy: 0,
    values: { ...none, negatives: 0 },
    magnitudes: { ...none, bucket: new Uint16Array(), sumTo: new Float64Array(1), energyTo: new Float64Array(1) },
    relative: [],
    survival: [],
  };
}

/** A layer of a sketch; its tables are made when first asked for, so that unseen layers cost nothing. */
function decodedLayer(
  info: LayerInfo,
  index: number,
  first: number,
  model: ModelInfo,
  tables: ReadonlyMap<string, Table>,
): LayerSketch {
  const layers = model.layers.length;
  const [start, end] = table(tables, "value_starts").subarray(index, index + 2);
  const buckets = table(tables, "value_buckets").subarray(start, end) as Uint16Array;
  const counts = table(tables, "value_counts").subarray(start, end);
  let values: ValueTable | undefined;
  let magnitudes: MagnitudeTable | undefined;
  let energy: number | undefined;
  return {
    ...info,
    index: first + index,
    share: 1,
    absmax: table(tables, "absmax")[index],
    relative: model.granularities.map((_, g) => relativeTable(tables, g * layers + index)),
    survival: model.patterns.map((_, p) => row(tables, "survival", p * layers + index, BINS)),
    get values() {
      values ??= valueTable(buckets, counts);
      return values;
    },
    get magnitudes() {
      magnitudes ??= magnitudeTable(buckets, counts, info.lossless);
      return magnitudes;
    },
    get energy() {
      energy ??= this.magnitudes.energyTo.at(-1) ?? 0;
      return energy;
    },
  };
}

function table(tables: ReadonlyMap<string, Table>, name: string): Table {
  const found = tables.get(name);
  if (!found) throw new Error(`this sketch is damaged: it has no table ${name}; make a new one with sw.sketch(model)`);
  return found;
}

/** Row i of a table of float32 rows. */
function row(tables: ReadonlyMap<string, Table>, name: string, i: number, width: number): Float32Array {
  return (table(tables, name) as Float32Array).subarray(i * width, (i + 1) * width);
}

function relativeTable(tables: ReadonlyMap<string, Table>, i: number): RelativeTable {
  return {
    binCount: row(tables, "bin_count", i, BINS),
    binEnergy: row(tables, "bin_energy", i, BINS),
    rangeValue: row(tables, "range_value", i, RANGES),
    rangeEnergy: row(tables, "range_energy", i, RANGES),
    rangeCount: row(tables, "range_count", i, RANGES),
    ratios: row(tables, "ratios", i, RATIOS),
    captured: table(tables, "captured")[i],
  };
}

const LARGEST = 2 ** 128 - 2 ** 104; // of float32; the top bucket would end at infinity
let allEdges: Float64Array | undefined;

/** The lower (`next` = 0) or upper edges of buckets: their upper 16 bits, sign apart, read as a float32. */
function edgesOf(buckets: Uint16Array, next: 0 | 1): Float64Array {
  allEdges ??= Float64Array.from(
    new Float32Array(Uint32Array.from({ length: 0x8001 }, (_, b) => b << 16).buffer),
    (edge) => Math.min(edge, LARGEST),
  );
  const edges = new Float64Array(buckets.length);
  for (let i = 0; i < edges.length; i++) {
    const bucket = magnitude(buckets[i]);
    edges[i] = bucket ? allEdges[bucket + next] : 0; // bucket 0 is zero, not an interval
  }
  return edges;
}

function valueTable(buckets: Uint16Array, counts: ArrayLike<number>): ValueTable {
  const near = edgesOf(buckets, 0);
  const far = edgesOf(buckets, 1);
  const length = buckets.length;
  const countTo = new Float64Array(length + 1);
  let negatives = 0;
  for (let i = 0; i < length; i++) {
    countTo[i + 1] = countTo[i] + counts[i];
    if (buckets[i] & 0x8000) {
      [near[i], far[i]] = [-far[i], -near[i]];
      negatives++;
    }
  }
  return { lo: near, hi: far, count: Float64Array.from(counts), countTo, negatives };
}

function magnitude(bucket: number): number {
  return bucket & 0x7fff;
}

function magnitudeTable(buckets: Uint16Array, counts: ArrayLike<number>, lossless: boolean): MagnitudeTable {
  const { bucket, count } = bothSigns(buckets, counts);
  const lo = edgesOf(bucket, 0);
  const hi = edgesOf(bucket, 1);
  const length = bucket.length;
  const countTo = new Float64Array(length + 1);
  const sumTo = new Float64Array(length + 1);
  const energyTo = new Float64Array(length + 1);
  for (let i = 0; i < length; i++) {
    const end = lossless ? lo[i] : hi[i];
    countTo[i + 1] = countTo[i] + count[i];
    sumTo[i + 1] = sumTo[i] + count[i] * ((lo[i] + end) / 2);
    energyTo[i + 1] = energyTo[i] + count[i] * meanSquare(lo[i], end);
  }
  return { bucket, lo, hi, count, countTo, sumTo, energyTo };
}

/** Mean of x² over [lo, hi], x uniform. */
export function meanSquare(lo: number, hi: number): number {
  return lo === hi ? lo * lo : (lo * lo + lo * hi + hi * hi) / 3;
}

/** Merge the two halves of a value table (negatives come first, from the largest magnitude down) by magnitude. */
function bothSigns(buckets: Uint16Array, counts: ArrayLike<number>) {
  const bucket = new Uint16Array(buckets.length);
  const count = new Float64Array(buckets.length);
  const positives = buckets.findIndex((b) => b < 0x8000);
  let plus = positives < 0 ? buckets.length : positives;
  let minus = plus - 1;
  let length = 0;
  while (minus >= 0 || plus < buckets.length) {
    const a = minus >= 0 ? magnitude(buckets[minus]) : 0x8000;
    const b = plus < buckets.length ? buckets[plus] : 0x8000;
    bucket[length] = Math.min(a, b);
    if (a <= b) count[length] += counts[minus--];
    if (b <= a) count[length] += counts[plus++];
    length++;
  }
  return { bucket: bucket.slice(0, length), count: count.slice(0, length) };
}

/** The sketch's table for a granularity: its own, the nearest group size (in log g), or channel for shorter rows. */
export function tableFor(sketch: Sketch, layer: LayerSketch, granularity: Granularity): RelativeTable {
  return layer.relative[tableIndex(sketch, layer, granularity)];
}

export function tableIndex(sketch: Sketch, layer: LayerSketch, granularity: Granularity): number {
  const rowLength = layer.n / layer.rows;
  const wanted = typeof granularity === "number" && granularity >= rowLength ? "channel" : granularity;
  const exact = sketch.granularities.indexOf(wanted);
  if (exact >= 0) return exact;
  let best = sketch.granularities.indexOf("channel");
  let distance = Number.POSITIVE_INFINITY;
  sketch.granularities.forEach((known, i) => {
    const far = typeof known === "number" ? Math.abs(Math.log(known / (wanted as number))) : Number.POSITIVE_INFINITY;
    if (far < distance) [best, distance] = [i, far];
  });
  return best;
}
