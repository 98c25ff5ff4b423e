import { beforeEach, expect, it, vi } from "vitest";
import { Estimator } from "../core/estimate";
import { DEFAULTS, withFields } from "../core/recipe";
import { decodeSketch } from "../core/sketch-decoder";
import { encode, gaussian, sketchOf, type Weights } from "../core/test-sketches";
import { type Connection, LOST, SketchClient } from "./sketch-client";

const LAYERS: Weights[] = [
  { name: "a.weight", shape: [8, 16], values: gaussian(128, 1, 1) },
  { name: "b.weight", shape: [4, 64], values: gaussian(256, 0.1, 2) },
  { name: "c.weight", shape: [16, 4], values: gaussian(64, 3, 3) },
];
const WHOLE = sketchOf(LAYERS);

/** A connection that a test speaks through. */
class Wire implements Connection {
  binaryType: BinaryType = "blob";
  onopen = null;
  onclose: Connection["onclose"] = null;
  onmessage: Connection["onmessage"] = null;
  readonly readyState = 1;
  readonly sent: unknown[] = [];
  send = (text: unknown) => this.sent.push(JSON.parse(String(text)));
  close = vi.fn();

  say(message: object): void {
    this.onmessage?.call(this as never, { data: JSON.stringify(message) } as MessageEvent);
  }

  layer(i: number): void {
    const { buffer, byteOffset, byteLength } = encode([LAYERS[i]]);
    this.onmessage?.call(this as never, { data: buffer.slice(byteOffset, byteOffset + byteLength) } as MessageEvent);
  }

  model(stored: string[] = ["", "", ""]): void {
    const layers = WHOLE.layers.map((layer, i) => {
      const { name, label, shape, rows, width, n, dtype, itemsize, lossless, aliases } = layer;
      const nbytes = stored[i] ? n / 2 : n * itemsize;
      return { name, label, shape, rows, width, n, dtype, itemsize, lossless, aliases, nbytes, stored: stored[i] };
    });
    this.say({ state: "model", model: { ...WHOLE, structure: 0, layers: [] }, layers });
  }
}

let wire: Wire;
let time: number;
let client: SketchClient;

beforeEach(() => {
  vi.useFakeTimers();
  time = 0;
  client = new SketchClient(
    () => {
      wire = new Wire();
      return wire;
    },
    () => time,
  );
  client.start();
});

const progress = () => client.progress.value;
const sketch = () => client.sketch.value!;

it("puts layers together into the sketch of the file, in whatever order they come", () => {
  wire.model();
  for (const i of [2, 0, 1]) wire.layer(i);
  wire.say({ state: "done", structure: WHOLE.structure });
  expect(progress().phase).toBe("done");
  expect(wire.close).toHaveBeenCalled();
  const recipe = withFields(DEFAULTS, { sparsity: 0.5, bits: 4 });
  expect(new Estimator(sketch()).estimate(recipe)).toEqual(new Estimator(WHOLE).estimate(recipe));
  expect(sketch().layers.map((layer) => [layer.index, layer.name])).toEqual([
    [0, "a.weight"],
    [1, "b.weight"],
    [2, "c.weight"],
  ]);
});

it("shows layers that have not come as empty ones that take the bytes they have", () => {
  wire.model();
  wire.layer(1);
  vi.advanceTimersByTime(300);
  expect(sketch().layers.map((layer) => layer.energy > 0)).toEqual([false, true, false]);
  const estimate = new Estimator(sketch()).estimate(DEFAULTS);
  const { codes, as_is } = estimate.layers;
  expect(Array.from(codes, (nbytes, i) => nbytes + as_is[i])).toEqual(
    WHOLE.layers.map((layer) => layer.n * layer.itemsize),
  );
  expect(Object.values(estimate.layers).every((column) => Array.from(column).every(Number.isFinite))).toBe(true);
});

it("tells how much is read, and how long the rest takes", () => {
  wire.model();
  const [a, b, c] = WHOLE.layers.map((layer) => layer.n * layer.itemsize);
  expect(progress()).toMatchObject({ bytes: 0, total: a + b + c, seconds: null });
  time = 1000;
  wire.layer(0);
  expect(progress()).toMatchObject({ bytes: a, seconds: (b + c) / a });
  client.pause();
  time = 100_000;
  client.resume();
  time = 101_000;
  wire.layer(2);
  expect(progress().seconds).toBeCloseTo((2 * b) / (a + c)); // the pause does not count
  expect(wire.sent).toEqual([{ pause: true }, { pause: false }]);
});

it("asks for the rows in sight, once, and not for those that are there", () => {
  wire.model();
  wire.layer(0);
  client.first(["a.weight", "b.weight"]);
  client.first(["a.weight", "b.weight"]);
  client.first(["a.weight"]);
  expect(wire.sent).toEqual([{ first: ["b.weight"] }]);
});

it("keeps a layer that cannot be read as it is, and moves the others up", () => {
  wire.model();
  const tensor = { ...WHOLE.uncompressed[0], name: "a.weight", nbytes: 512, why: "NaN" };
  wire.say({ state: "layer_failed", name: "a.weight", message: "a.weight is NaN", tensor });
  wire.layer(1);
  wire.layer(2);
  expect(progress()).toMatchObject({ failures: ["a.weight is NaN"], bytes: progress().total });
  wire.say({ state: "done", structure: 7 });
  expect(sketch().layers.map((layer) => [layer.index, layer.name])).toEqual([
    [0, "b.weight"],
    [1, "c.weight"],
  ]);
  expect(sketch().uncompressed.at(-1)).toEqual(tensor);
  expect(sketch().structure).toBe(7);
});

it("counts quantized layers once, with the bytes they have in the file", () => {
  wire.model(["Q4_0", "", ""]);
  for (const i of [0, 1, 2]) wire.layer(i);
  wire.say({ state: "done", structure: 0 });
  expect([...client.stored.value]).toEqual(["Q4_0"]);
  const [layer] = sketch().layers;
  expect([layer.dtype, layer.itemsize, layer.energy]).toEqual([
    "Q4_0",
    0.5,
    decodeSketch(encode([LAYERS[0]])).layers[0].energy,
  ]);
});

it("tells its place in the queue, why it failed, and that the connection is lost", () => {
  wire.say({ state: "queued", place: 2 });
  expect(progress()).toMatchObject({ phase: "waiting", place: 2 });
  wire.say({ state: "failed", message: "there is no file" });
  expect(progress()).toMatchObject({ phase: "failed", message: "there is no file" });
  client.start();
  wire.model();
  wire.layer(0);
  wire.onclose?.call(wire as never, {} as CloseEvent);
  expect(progress().phase).toBe("failed");
  expect(progress().message).toBe(LOST);
  expect(sketch().layers[0].energy).toBeGreaterThan(0);
});

it("hangs up when it is cancelled, and begins anew when it is started again", () => {
  wire.model();
  wire.layer(0);
  client.cancel();
  expect(wire.close).toHaveBeenCalled();
  expect(progress().phase).toBe("cancelled");
  const before = wire;
  client.start();
  expect(wire).not.toBe(before);
  expect(progress()).toMatchObject({ phase: "waiting", bytes: 0, failures: [] });
});
