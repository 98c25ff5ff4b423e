// A plain page with the explorer on it, and a stand-in for the kernel that makes scores up.

import { Estimator } from "../core/estimate";
import { parseRecipe } from "../core/recipe";
import { decodeSketch } from "../core/sketch-decoder";
import type { Sketch } from "../core/types";
import type { Command, ExplorerModel, Visit } from "../explorer/host-interface";
import { createState, mount } from "../explorer/mount";

const START = '{"format":"shrinkwidget-recipe","version":2,"sparsity":0.8,"bits":4}';
const query = new URLSearchParams(location.search);

/** The kernel's side of the model, played by timers. */
class Pretender implements ExplorerModel {
  private readonly values = new Map<string, unknown>();
  private readonly listeners = new Map<string, Set<() => void>>();
  private readonly estimator: Estimator;
  private timers: ReturnType<typeof setTimeout>[] = [];

  constructor(
    sketch: Sketch,
    blob: Uint8Array,
    private readonly hasData: boolean,
  ) {
    this.estimator = new Estimator(sketch);
    const metric = { name: "accuracy", higher: true, percent: true, has_data: hasData };
    const start = { sketch_data: blob, recipe_json: query.get("recipe") ?? START, title: sketch.title, metric };
    for (const [name, value] of Object.entries(start)) this.values.set(name, value);
    const baseline = { ...this.score("", 0.917, 10_000), provenance: "dense" };
    this.values.set("baseline", hasData ? baseline : null);
    if (query.has("trail"))
      this.values.set(
        "history",
        [0.3, 0.5, 0.7, 0.9, 0.95].map((s) => this.visit(s)),
      );
    this.work();
  }

  get(name: string): unknown {
    return this.values.get(name);
  }

  set(name: string, value: unknown): void {
    this.values.set(name, value);
  }

  save(): void {
    if (!query.has("busy")) this.work();
  }

  on(name: string, callback: () => void): () => void {
    if (!this.listeners.has(name)) this.listeners.set(name, new Set());
    this.listeners.get(name)?.add(callback);
    return () => this.listeners.get(name)?.delete(callback);
  }

  alive(): boolean {
    return !query.has("gone");
  }

  send(command: Command): void {
    const what = command.do;
    this.tell("status", { state: "busy", what, text: `${what}…`, id: 1 });
    const failed = query.has("fail");
    const text = failed
      ? "cannot write '/data/small.safetensors': the disk is full; the old file is intact"
      : `${what}: done`;
    setTimeout(() => this.tell("status", { state: failed ? "failed" : "done", what, text, id: 1 }), 900);
  }

  private tell(name: string, value: unknown): void {
    this.values.set(name, value);
    for (const callback of this.listeners.get(name) ?? []) callback();
  }

  private work(): void {
    for (const timer of this.timers) clearTimeout(timer);
    const recipe = String(this.values.get("recipe_json"));
    const estimate = { ...this.estimator.estimate(parseRecipe(recipe)), exact: true, seconds: 0.071 };
    this.timers = [
      setTimeout(
        () => this.tell("exact", { ...estimate, nbytes_entropy_coded: Math.round(0.6 * estimate.nbytes) }),
        150,
      ),
    ];
    if (!this.hasData) return;
    const value = this.madeUp(estimate.sqnr);
    for (let step = 1; step <= 8; step++)
      this.timers.push(setTimeout(() => this.count(recipe, value, step), 200 + 150 * step));
  }

  private count(recipe: string, value: number, step: number): void {
    const score = { ...this.score(recipe, value, 1250 * step), state: step === 8 ? "done" : "running" };
    this.tell("score", score);
    if (step < 8) return;
    const { nbytes } = this.estimator.estimate(parseRecipe(recipe));
    this.tell("history", [...((this.values.get("history") as Visit[]) ?? []), { ...score, nbytes }]);
  }

  private madeUp(sqnr: number): number {
    return 0.1 + 0.817 / (1 + Math.exp(-(Math.min(sqnr, 40) - 5) / 1.6));
  }

  private score(recipe: string, value: number, n: number) {
    const half = 1.96 * Math.sqrt((value * (1 - value)) / n);
    const [low, high] = [value - half, value + half];
    return {
      recipe,
      value,
      low,
      high,
      n,
      total: 10_000,
      state: "done",
      metric: "accuracy",
      provenance: "no retraining",
    };
  }

  private visit(sparsity: number): Visit {
    const recipe = START.replace("0.8", String(sparsity));
    const { nbytes, sqnr } = this.estimator.estimate(parseRecipe(recipe));
    return { ...this.score(recipe, this.madeUp(sqnr), 10_000), nbytes };
  }
}

if (query.get("theme") === "dark") document.body.dataset.jpThemeLight = "false";
const here = document.getElementById("here") as HTMLElement;
if (query.has("width")) here.style.width = `${query.get("width")}px`;
const blob = new Uint8Array(await (await fetch(`${query.get("sketch") ?? "resnet20"}.sketch`)).arrayBuffer());
const state = createState(new Pretender(decodeSketch(blob), blob, query.get("data") !== "0"));
for (let views = Number(query.get("views") ?? 1); views > 0; views--) mount(here, state);
