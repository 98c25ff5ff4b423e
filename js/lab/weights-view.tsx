// The weights of a checkpoint in its tab: how far the server has come, and the explorer, which fills in meanwhile.

import { effect, untracked } from "@preact/signals";
import { render } from "preact";
import { count } from "../charts/number-format";
import { watchTheme } from "../charts/theme";
import { DEFAULTS, recipeJson, withFields } from "../core/recipe";
import type { Recipe, Sketch } from "../core/types";
import { createState, mount } from "../explorer/mount";
import { KernellessExplorer } from "../live/kernelless-explorer";
import type { Translate } from "./checkpoint-view";
import type { TabMemory } from "./restore-tab-state";
import { LOST, type SketchClient } from "./sketch-client";

export interface WeightsOptions {
  translate: Translate;
  /** Bytes in the unit that the user has chosen. */
  bytes: (value: number) => string;
  memory: TabMemory;
  /** Bytes of the files. */
  nbytes: number;
  /** Up to so many bytes the weights are looked at without being asked. */
  unasked: number;
  /** Where the sliders stand at first. */
  start: Pick<Recipe, "sparsity" | "bits">;
  /** Ask for another checkpoint, and compare it with this one. */
  compare: () => void;
}

/** Show the weights in `element`; returns what takes them away again. */
export function mountWeights(element: HTMLElement, client: SketchClient, options: WeightsOptions): () => void {
  const root = element.appendChild(document.createElement("div"));
  root.className = "sw-explorer sw-weights";
  root.dataset.lmSuppressShortcuts = "true";
  const place = element.appendChild(document.createElement("div"));
  place.className = "sw-weights-explorer";
  const unwatch = watchTheme(root, () => {});
  render(<Progress client={client} options={options} />, root);
  const explorer = new FillingExplorer(place, client, options);
  const stop = effect(() => explorer.update());
  if (options.nbytes <= options.unasked) client.start();
  return () => {
    stop();
    client.dispose();
    explorer.dispose();
    unwatch();
    render(null, root);
    root.remove();
    place.remove();
  };
}

/** An explorer of what is known so far, whose controls wait until all is. */
class FillingExplorer {
  #host: KernellessExplorer | null = null;
  #layers = 0;
  #unmount = () => {};

  constructor(
    private readonly place: HTMLElement,
    private readonly client: SketchClient,
    private readonly options: WeightsOptions,
  ) {}

  update(): void {
    const sketch = this.client.sketch.value;
    const done = this.client.progress.value.phase === "done";
    const quantized = this.client.stored.value.size > 0;
    untracked(() => this.#update(sketch, done, quantized));
  }

  #update(sketch: Sketch | null, done: boolean, quantized: boolean): void {
    if (!sketch?.layers.length) {
      this.dispose();
      return;
    }
    // rows are gone of which there is no sketch
    if (sketch.layers.length !== this.#layers) this.dispose();
    this.#layers = sketch.layers.length;
    const locked = !done || quantized;
    if (this.#host) this.#host.show(sketch, locked);
    else this.#show(sketch, locked, quantized);
    for (const controls of this.place.querySelectorAll<HTMLElement>(".sw-controls")) controls.inert = locked;
    this.place.dataset.locked = String(locked);
    if (done && !quantized && !this.place.dataset.ready) {
      const { memory, start } = this.options;
      this.#host?.go(memory.get().recipe ?? recipeJson(withFields(DEFAULTS, start)), sketch);
      this.place.dataset.ready = "true";
    }
  }

  dispose(): void {
    this.#unmount();
    this.#unmount = () => {};
    this.#host = null;
    delete this.place.dataset.ready;
  }

  #show(sketch: Sketch, locked: boolean, quantized: boolean): void {
    const recipe = quantized ? withFields(DEFAULTS, { layers: [["*", "keep"]] }) : DEFAULTS;
    const values = { title: sketch.title, order: naturalOrder(sketch.layers) };
    const data = { recipe: recipeJson(recipe), values, known: {}, results: {} };
    const host = new KernellessExplorer(data, sketch, (chosen) => {
      if (!host.locked()) this.options.memory.set({ recipe: chosen });
    });
    host.show(sketch, locked);
    const state = createState(host);
    const unmount = mount(this.place, state, (seen) => {
      const { layers } = state.sketch.peek();
      this.client.first(seen.map((i) => layers[i]?.name ?? "").filter(Boolean));
    });
    this.#host = host;
    this.#unmount = () => {
      unmount();
      state.dispose();
    };
  }
}

/**
 * The order in which layers are shown. safetensors sorts the names of each type as text, which puts layer 10 before
 * layer 2; any other order of a file is somebody's own, and stays.
 */
export function naturalOrder(layers: readonly { readonly name: string; readonly dtype: string }[]): number[] {
  const last = new Map<string, string>();
  const alphabetical = layers.every(({ name, dtype }) => {
    const before = last.get(dtype) ?? "";
    last.set(dtype, name);
    return before <= name;
  });
  const order = layers.map((_, i) => i);
  const { compare } = new Intl.Collator("en", { numeric: true });
  return alphabetical ? order.sort((a, b) => compare(layers[a].name, layers[b].name)) : order;
}

function Progress({ client, options }: { client: SketchClient; options: WeightsOptions }) {
  const t = options.translate;
  const { phase, bytes: read, total, failures } = client.progress.value;
  const stored = [...client.stored.value];
  const running = phase === "running" || phase === "paused" || phase === "waiting";
  return (
    <section class="sw-weights-progress" aria-label={t("Weights")} data-testid="weights" data-phase={phase}>
      <div class="sw-weights-line">
        {running && <progress aria-label={t("Weights read")} value={total ? read / total : undefined} />}
        {phase !== "done" && (
          <span role={phase === "failed" ? "alert" : "status"} data-testid="weights-status">
            {words(client, options)}
          </span>
        )}
        {phase === "running" && <Button press={() => client.pause()}>{t("Pause")}</Button>}
        {phase === "paused" && <Button press={() => client.resume()}>{t("Go on")}</Button>}
        {running && <Button press={() => client.cancel()}>{t("Cancel")}</Button>}
        {!running && phase !== "done" && (
          <Button press={() => client.start()}>{phase === "idle" ? t("Look at the weights") : t("Look again")}</Button>
        )}
        <Button press={options.compare}>{t("Compare with…")}</Button>
      </div>
      {stored.length > 0 && (
        <p class="sw-hint" data-testid="weights-quantized">
          {t(
            "Quantized already (%1): drawn are the values that are stored. Recipes start from the model as it was before.",
            stored.join(", "),
          )}
        </p>
      )}
      {failures.slice(0, 5).map((message) => (
        <p key={message} class="sw-hint" role="alert" data-testid="weights-failure">
          {message}
        </p>
      ))}
      {failures.length > 5 && (
        <p class="sw-hint">{t("%1 more layers could not be read.", count(failures.length - 5))}</p>
      )}
    </section>
  );
}

function Button({ press, children }: { press: () => void; children: string }) {
  return (
    <button type="button" class="sw-button" onClick={press}>
      {children}
    </button>
  );
}

function words(client: SketchClient, { translate: t, bytes, nbytes }: WeightsOptions): string {
  const { phase, place, bytes: read, total, seconds, message } = client.progress.value;
  if (phase === "idle") return t("%1 to read for the distributions.", bytes(nbytes));
  if (phase === "failed") return message === LOST ? lostWords(t) : message;
  if (phase === "cancelled") {
    return t("Cancelled: %1 of %2 were read, and the controls wait until all are.", bytes(read), bytes(total));
  }
  if (phase === "waiting") {
    return place > 0 ? t("Waits for other checkpoints: number %1 in the queue.", count(place)) : t("Begins to read.");
  }
  const far = t("%1 of %2 read", bytes(read), bytes(total));
  if (phase === "paused") return `${far} · ${t("paused")}`;
  return seconds === null ? far : `${far} · ${t("about %1 left", roughly(seconds))}`;
}

/** What is said when the server no longer answers. */
export function lostWords(t: Translate): string {
  return t("The connection to the Jupyter server was lost: look again, or reload the page and log in.");
}

/** How long about, in words: in seconds up to two minutes, in minutes up to two hours. */
function roughly(seconds: number): string {
  if (seconds < 120) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}
