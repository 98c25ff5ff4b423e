// Hears the sketch of a checkpoint from the server, layer by layer (shrinkwidget/server/sketch_handler_and_process.py), and puts it together.

import { batch, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import { decodeSketch, type LayerHeader, pendingLayer } from "../core/sketch-decoder";
import type { LayerSketch, Sketch, UncompressedTensor } from "../core/types";

/** How long layers are gathered before the page is drawn again. */
const GATHER_MS = 200;
/** Nothing is said of the time that is left before so much has passed. */
const FIRST_GUESS_MS = 800;

/** In place of a message when the server no longer answers: the page says so in the user's language. */
export const LOST = "lost";

/** A layer as the header of the file has it; `stored` is its type there if it is quantized, else "". */
interface Layer extends LayerHeader {
  nbytes: number;
  stored: string;
}

export interface Progress {
  readonly phase: "idle" | "waiting" | "running" | "paused" | "done" | "failed" | "cancelled";
  /** Where in the queue this one stands; 0 once it is its turn. */
  readonly place: number;
  /** Bytes that were read, of all that will be. */
  readonly bytes: number;
  readonly total: number;
  /** How long it still takes, in seconds; null while nobody can tell. */
  readonly seconds: number | null;
  /** Why it failed, in a sentence. */
  readonly message: string;
  /** What could not be sketched, and why. */
  readonly failures: readonly string[];
}

const IDLE: Progress = { phase: "idle", place: 0, bytes: 0, total: 0, seconds: null, message: "", failures: [] };

/** What the client needs of a WebSocket. */
export type Connection = Pick<
  WebSocket,
  "binaryType" | "close" | "onclose" | "onmessage" | "onopen" | "readyState" | "send"
>;

export class SketchClient {
  readonly #progress = signal<Progress>(IDLE);
  readonly #sketch: Signal<Sketch | null> = signal(null);
  readonly #stored = signal<ReadonlySet<string>>(new Set());
  #connection: Connection | null = null;
  #model: Sketch | null = null;
  #headers: readonly Layer[] = [];
  /** Of each layer that has come its bytes, as an index may still change, and what they say. */
  readonly #parts = new Map<string, { bytes: Uint8Array; layer: LayerSketch }>();
  readonly #failed = new Map<string, UncompressedTensor>();
  #nbytes: ReadonlyMap<string, number> = new Map();
  #first: readonly string[] = [];
  #gathering: ReturnType<typeof setTimeout> | undefined;
  #worked = 0;
  #since = 0;

  constructor(
    private readonly connect: () => Connection,
    private readonly now = () => performance.now(),
  ) {}

  get progress(): ReadonlySignal<Progress> {
    return this.#progress;
  }

  /** All that is known by now: layers that have not come are empty. Null before the header is known. */
  get sketch(): ReadonlySignal<Sketch | null> {
    return this.#sketch;
  }

  /** The types of the layers that are quantized in the file. */
  get stored(): ReadonlySignal<ReadonlySet<string>> {
    return this.#stored;
  }

  start(): void {
    this.#hangUp();
    this.#parts.clear();
    this.#failed.clear();
    this.#model = null;
    this.#worked = 0;
    this.#progress.value = { ...IDLE, phase: "waiting" };
    const connection = this.connect();
    connection.binaryType = "arraybuffer";
    connection.onmessage = ({ data }) => this.#hear(data);
    connection.onclose = () => this.#ended("failed", LOST);
    this.#connection = connection;
  }

  pause(): void {
    if (this.#progress.value.phase !== "running") return;
    this.#worked += this.now() - this.#since;
    this.#change({ phase: "paused", seconds: null });
    this.#send({ pause: true });
  }

  resume(): void {
    if (this.#progress.value.phase !== "paused") return;
    this.#since = this.now();
    this.#change({ phase: "running" });
    this.#send({ pause: false });
  }

  cancel(): void {
    this.#ended("cancelled", "");
  }

  /** Have these layers read before all others. */
  first(names: readonly string[]): void {
    const wanted = names.filter((name) => !this.#parts.has(name));
    if (wanted.join("\n") === this.#first.join("\n")) return;
    this.#first = wanted;
    if (wanted.length) this.#send({ first: wanted });
  }

  dispose(): void {
    this.#hangUp();
  }

  #hear(data: unknown): void {
    if (typeof data !== "string") {
      this.#hearLayer(new Uint8Array(data as ArrayBuffer));
      return;
    }
    const message = JSON.parse(data);
    if (message.state === "queued") this.#change({ place: message.place });
    else if (message.state === "model") this.#hearModel(message);
    else if (message.state === "layer_failed") {
      this.#failed.set(message.name, message.tensor);
      this.#change({ failures: [...this.#progress.value.failures, message.message], ...this.#advance(message.name) });
    } else if (message.state === "done") {
      if (this.#model) this.#model = { ...this.#model, structure: message.structure };
      this.#ended("done", "");
    } else if (message.state === "failed") this.#ended("failed", message.message);
  }

  #hearModel({ model, layers }: { model: Sketch; layers: Layer[] }): void {
    const quantized = new Set(layers.filter((layer) => layer.stored).map((layer) => layer.name));
    // those count as layers, with the bytes they have in the file
    const uncompressed = model.uncompressed.filter((tensor) => !quantized.has(tensor.name));
    this.#model = { ...model, uncompressed };
    this.#headers = layers.map((layer) => (layer.stored ? asStored(layer) : layer));
    this.#nbytes = new Map(layers.map((layer) => [layer.name, layer.nbytes]));
    this.#stored.value = new Set(layers.map((layer) => layer.stored).filter(Boolean));
    this.#since = this.now();
    this.#change({ phase: "running", place: 0, total: layers.reduce((sum, layer) => sum + layer.nbytes, 0) });
    this.#publish();
  }

  #hearLayer(bytes: Uint8Array): void {
    const [layer] = decodeSketch(bytes).layers;
    this.#parts.set(layer.name, { bytes, layer });
    this.#change(this.#advance(layer.name));
    this.#gathering ??= setTimeout(() => this.#publish(), GATHER_MS);
  }

  /** One more layer is read. */
  #advance(name: string): Pick<Progress, "bytes" | "seconds"> {
    const { phase, total, bytes: before } = this.#progress.value;
    const bytes = before + (this.#nbytes.get(name) ?? 0);
    const taken = this.#worked + this.now() - this.#since;
    const known = phase === "running" && taken >= FIRST_GUESS_MS && bytes > 0;
    return { bytes, seconds: known ? (taken * (total - bytes)) / bytes / 1000 : null };
  }

  /** Put together what is known. Layers without a sketch stay in their place until the end. */
  #publish(): void {
    clearTimeout(this.#gathering);
    this.#gathering = undefined;
    const model = this.#model;
    if (!model) return;
    const done = this.#progress.value.phase === "done";
    const headers = done ? this.#headers.filter(({ name }) => !this.#failed.has(name)) : this.#headers;
    const layers = headers.map((header, i) => {
      const part = this.#parts.get(header.name);
      if (!part) return pendingLayer(header, i, model.patterns);
      // Once the layers that failed are left out, those after them move up; a sketch knows its index, so it is read again.
      if (part.layer.index !== i) part.layer = decodeSketch(part.bytes, i).layers[0];
      return header.stored ? withBytesOf(header, part.layer) : part.layer;
    });
    const uncompressed = done ? [...model.uncompressed, ...this.#failed.values()] : model.uncompressed;
    this.#sketch.value = { ...model, layers, uncompressed };
  }

  #ended(phase: "done" | "failed" | "cancelled", message: string): void {
    if (["done", "failed", "cancelled"].includes(this.#progress.value.phase)) return;
    this.#hangUp();
    batch(() => {
      this.#change({ phase, message, seconds: null, place: 0 });
      this.#publish();
    });
  }

  #change(changes: Partial<Progress>): void {
    this.#progress.value = { ...this.#progress.value, ...changes };
  }

  #send(message: object): void {
    if (this.#connection?.readyState === 1) this.#connection.send(JSON.stringify(message));
  }

  #hangUp(): void {
    clearTimeout(this.#gathering);
    this.#gathering = undefined;
    const connection = this.#connection;
    this.#connection = null;
    if (!connection) return;
    connection.onmessage = null;
    connection.onclose = null;
    connection.close();
  }
}

/** A quantized layer with the type and the bytes it has in the file, rather than those of its values. */
function asStored(layer: Layer): Layer {
  return { ...layer, dtype: layer.stored, itemsize: layer.nbytes / layer.n };
}

function withBytesOf({ dtype, itemsize }: Layer, layer: LayerSketch): LayerSketch {
  // its tables are made when they are asked for: a copy would make all of them now
  return Object.create(layer, { dtype: { value: dtype }, itemsize: { value: itemsize } });
}
