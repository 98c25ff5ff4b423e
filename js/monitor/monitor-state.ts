// What every view of one monitor shares: where the training is, what it has done, and what it is told.

import { computed, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import type { Metric } from "../charts/score-format";
import type { SavedFigure } from "../ui/figure-prompt";
import { type Keeps, suggestions } from "../ui/save-names";
import { modelSignal } from "../ui/signal-that-follows-a-trait";
import type {
  Curves,
  Kept,
  MonitorModel,
  Point,
  Progress,
  RunCommand,
  RunState,
  Settings,
  TestScore,
} from "./host-interface";

const ACCURACY: Metric = { name: "accuracy", higher: true, percent: true };
const NOTHING: Curves = { at: [], loss: [], train: [], test: [], low: [], high: [], lr: [], sparsity: [] };
const NAMES = Object.keys(NOTHING) as (keyof Curves)[];

/** Make the state of a model; `mount` any number of views on it, and dispose of it when the model goes. */
export class MonitorState {
  readonly title: ReadonlySignal<string>;
  /** How the training goes about it, in words. */
  readonly method: ReadonlySignal<string>;
  readonly metric: ReadonlySignal<Metric>;
  readonly run: Signal<RunState>;
  readonly progress: ReadonlySignal<Progress | null>;
  readonly curves: ReadonlySignal<Curves>;
  readonly points: ReadonlySignal<readonly Point[]>;
  /** The score before training. */
  readonly baseline: ReadonlySignal<TestScore | null>;
  /** What the training failed with. */
  readonly error: ReadonlySignal<string>;
  /** Settings of a training that is offered and has not begun. */
  readonly offer: ReadonlySignal<Settings | null>;
  readonly kept: Signal<Kept>;
  /** The names the buttons suggest. */
  readonly keeps: ReadonlySignal<Keeps>;
  readonly figure: ReadonlySignal<SavedFigure | null>;
  /** Address of the glossary; "" where none is known. */
  readonly glossary: string;
  readonly gone = signal(false);
  /** What is drawn: the score before the first step, the complete epochs, and the one under way as far as it is. */
  readonly shown: ReadonlySignal<Curves>;
  /** Epochs through all rounds, as far as they are complete, and in all. */
  readonly at: ReadonlySignal<number>;
  readonly all: ReadonlySignal<number>;
  readonly over: ReadonlySignal<boolean>;
  readonly #stops: (() => void)[] = [];

  constructor(private readonly model: MonitorModel) {
    const followed = <T>(name: string, missing: T) => modelSignal(model, name, missing, this.#stops);
    this.glossary = String(model.get("glossary") ?? "");
    this.title = followed("title", "");
    this.method = followed("method", "");
    this.metric = followed("metric", ACCURACY);
    this.run = followed<RunState>("state", "ready");
    this.progress = followed<Progress | null>("progress", null);
    this.curves = followed("curves", NOTHING);
    this.points = followed<readonly Point[]>("points", []);
    this.baseline = followed<TestScore | null>("baseline", null);
    this.error = followed("error", "");
    this.offer = followed<Settings | null>("offer", null);
    this.kept = followed<Kept>("kept", { failed: false, text: "" });
    this.figure = followed<SavedFigure | null>("figure", null);
    const keeps = followed<Partial<Keeps>>("keeps", {});
    this.keeps = computed(() => ({ ...suggestions(this.title.value, "retrained"), ...keeps.value }));
    this.at = computed(() => epochsDone(this.progress.value));
    this.all = computed(() => (this.progress.value ? (roundEnds(this.progress.value).at(-1) ?? 0) : 0));
    this.shown = computed(() =>
      withNow(withStart(this.curves.value, this.baseline.value), this.progress.value, this.at.value),
    );
    this.over = computed(() => ["done", "stopped", "failed"].includes(this.run.value));
    this.#stops.push(model.onAlive?.(() => this.#checkAlive()) ?? (() => {}));
    this.#checkAlive();
  }

  /** False on a page that stands alone: it shows the training as it was when the page was written. */
  get kernel(): boolean {
    return this.model.kernel ?? true;
  }

  /** Leave a question of the kernel unanswered. */
  dismiss(): void {
    this.kept.value = { failed: false, text: "" };
  }

  #checkAlive(): void {
    this.gone.value = !(this.model.alive?.() ?? true);
  }

  /** Ask for something, and show at once that it was asked. */
  ask(command: RunCommand): void {
    this.#checkAlive();
    if (this.gone.value) return;
    // the kernel's own word comes after the step under way
    if (command.do === "stop") this.run.value = "stopping";
    this.model.send(command);
  }

  dispose(): void {
    for (const stop of this.#stops) stop();
  }
}

/** The epoch, counted through all rounds, with which each of them ends. */
export function roundEnds({ rounds, epochs, epochs_by_round }: Progress): number[] {
  let end = 0;
  return Array.from({ length: rounds }, (_, i) => (end += epochs_by_round?.[i] ?? epochs));
}

/** How many epochs of all rounds are behind a training, with the part of the one it is in. */
export function epochsDone(now: Progress | null): number {
  if (!now) return 0;
  const before = now.round > 1 ? roundEnds(now)[now.round - 2] : 0;
  if (now.phase === "prune" || now.epoch === 0) return before + now.epoch;
  // of a stream nobody knows how many steps an epoch has: half of it, so that the point moves at all
  return before + now.epoch - 1 + (now.phase === "train" ? (now.steps ? now.step / now.steps : 0.5) : 1);
}

/** The complete epochs, after the score the model came with: an epoch of training that takes no step. */
export function withStart(curves: Curves, baseline: TestScore | null): Curves {
  if (!baseline || curves.at[0] === 0) return curves;
  const { value, low, high } = baseline;
  const start = { at: 0, loss: null, train: null, test: value, low, high, lr: null, sparsity: null };
  return joined((name) => [start[name], ...curves[name]]);
}

/** The complete epochs, and the one under way as far as it is. */
export function withNow(curves: Curves, now: Progress | null, at: number): Curves {
  const last = curves.at.at(-1) ?? 0;
  if (!now || now.loss === null || at <= last || now.phase !== "train") return curves;
  const { loss, train, lr, sparsity } = now;
  const more = { at, loss, train, test: null, low: null, high: null, lr, sparsity };
  return joined((name) => [...curves[name], more[name]]);
}

function joined(column: (name: keyof Curves) => (number | null)[]): Curves {
  return Object.fromEntries(NAMES.map((name) => [name, column(name)])) as unknown as Curves;
}
