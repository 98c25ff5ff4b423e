// The line between the explorer and whatever hosts it: a handful of named values, and commands for the kernel.

import type { Metric as ScoreMetric } from "../charts/score-format";
import type { Frontier } from "../core/recipe-for-budget";
import type { FigureRequest } from "../ui/figure-prompt";
import type { Observable } from "../ui/signal-that-follows-a-trait";

/**
 * What the host offers. `js/widget` makes one of anywidget's model; a plain page can make one of an object. Its
 * "sketch_data" are the bytes of a sketch, or a sketch that was put together already.
 */
export interface ExplorerModel extends Observable {
  /** Set a value here; whatever is linked to it in the page follows. */
  set(name: string, value: unknown): void;
  /** Tell the kernel what was set since last told. */
  save(): void;
  send(command: Command): void;
  /** False once nobody answers any more (the kernel is disconnected, or there never was one); left out: always true. */
  alive?(): boolean;
  /** Call back when that may have changed; returns what stops it. */
  onAlive?(callback: () => void): () => void;
  /** False while what is said has to wait, as right after a widget was made; left out: it never has. */
  readonly open?: boolean;
  /** Call back when that is over, before what has waited is said. */
  onOpen?(callback: () => void): void;
  /** False where there never is a kernel, as on a page that was saved to stand alone; left out: there is one. */
  readonly kernel?: boolean;
  /** Whether the recipe cannot be changed, as long as the weights are not all known, say; left out: it can. */
  locked?(): boolean;
  /** Whether another widget, such as the monitor of a training, can be shown inside; left out: yes. */
  readonly nests?: boolean;
}

export type Command =
  | { do: "compress"; name: string; replace?: boolean }
  | { do: "save"; path: string; entropy: boolean; replace?: boolean }
  | ({ do: "figure"; replace?: boolean } & FigureRequest)
  | { do: "retrain" }
  | { do: "plan" }
  | { do: "export"; path: string; target: string; replace?: boolean }
  | { do: "stop_export" }
  | { do: "recover" }
  | { do: "stop_recovery" }
  | { do: "goto"; result: string | null }
  | { do: "look" }
  | { do: "sensitivity"; kind: Sensitivity["kind"] }
  | { do: "stop_sensitivity" }
  | { do: "race" }
  | { do: "stop_race" }
  | { do: "evaluate" };

/** One measured (or still running) score of one recipe. */
export interface Score {
  recipe: string;
  value: number;
  /** Ends of the 95 % interval; null where too few examples can tell them. */
  low: number | null;
  high: number | null;
  n: number;
  total: number | null;
  state: "running" | "done" | "failed" | "cancelled";
  metric: string;
  provenance: string;
  text?: string;
  /** Which retrained or recovered model was scored; none for weights as they came. */
  result?: string | null;
  /** Whether batch norm was re-estimated before it. */
  recalibrated?: boolean;
  /** Sentences about what the value hides: a class that is never predicted, an interval that covers chance. */
  warnings?: readonly string[];
}

export interface Metric extends ScoreMetric {
  has_data: boolean;
  /** Whether there is something to train on. */
  has_train?: boolean;
}

/** One recipe that was evaluated to the end, or retrained or recovered and scored. */
export interface Visit {
  recipe: string;
  nbytes: number;
  value: number;
  /** Ends of the 95 % interval; null where too few examples can tell them. */
  low: number | null;
  high: number | null;
  n: number;
  provenance: string;
  /** Which retrained or recovered model this is, for the way back to it; null for weights as they came. */
  result?: string | null;
  /** Whether batch norm was re-estimated before the score. */
  recalibrated?: boolean;
  /** Whether it was recovered, without retraining. */
  recovered?: boolean;
}

/** What somebody said that a recipe's score would be, before it was shown. */
export interface Prediction {
  recipe: string;
  recalibrated: boolean;
  /** In the metric's own unit; a share is 0…1. */
  predicted: number;
}

/** What a recipe, or a retrained model, gets wrong that the dense model got right. */
export interface ByClass {
  recipe: string;
  recalibrated: boolean;
  /** Which retrained model it is about; left out for weights as they came. */
  result?: string;
  /** Examples compared. */
  n: number;
  /** Why there are no examples beside the counts, "" where there are. */
  only_classes: string;
  /** By class: how many labels, how many predicted rightly before and after, how many predictions before and after. */
  classes: readonly (readonly [labels: number, before: number, after: number, predicted: number, now: number])[];
  /** How many were right before and are wrong now, and the other way round. */
  misread: number;
  fixed: number;
  /** What is taken for what, and how often before and after, those that grew most first. */
  confusions: readonly (readonly [label: number, predicted: number, before: number, after: number])[];
  images: readonly MisreadImage[];
}

/** A misread input as a small picture; `pixels` are base64 of its bytes, row by row, channel by channel in each pixel. */
export interface MisreadImage {
  example: number;
  label: number;
  predicted: number;
  width: number;
  height: number;
  channels: number;
  pixels: string;
}

/** The score with one layer at a time pruned or quantized, all others dense. */
export interface Sensitivity {
  state: "running" | "done" | "stopped" | "failed";
  /** Why it failed. */
  text: string;
  kind: "sparsity" | "bits";
  amounts: readonly number[];
  /** The dense model's score on the same examples; null before it is known. */
  dense: number | null;
  n: number;
  /** Which examples, in words. */
  examples: string;
  /** By layer: a score for each amount; null while it is not measured, or not to be. */
  layers: readonly (readonly number[] | null)[];
  /** Layers still to be measured; null before that is known. */
  pending: number | null;
}

/** A race of the dense model against what is shown: the one under way or just over, and all that were run. */
export interface Race {
  state: "running" | "done" | "stopped" | "failed";
  /** What it does, or why it failed. */
  text: string;
  /** The share that is done. */
  done: number;
  found: readonly Raced[];
}

/** What a race found, and of which recipe. */
export interface Raced {
  recipe: string;
  /** Which retrained model it is of; null for weights as they came. */
  result: string | null;
  recalibrated: boolean;
  /** How many times faster than the dense model, with its interval, in words. */
  ratios: readonly { batch: number; text: string }[];
  /** Runtime, threads, machine and time, without which a ratio must not be told. */
  conditions: string;
  /** Why this machine was too busy to tell. */
  warnings: readonly string[];
}

/** What is planned for every budget, around what a recipe says beside sparsity and bits. */
export interface Planned {
  /** The recipe it was asked for. */
  of: string;
  /** What that says beside what is planned: it holds for all recipes that say the same, too. */
  settings: string;
  /** Why nothing can be planned, "" if it can. */
  why: string;
  frontier: Frontier | null;
}

/** A runtime that files are written for. */
export interface ExportTarget {
  target: string;
  suffix: string;
  /** What is not installed, and how to install it; "" if nothing is missing. */
  missing: string;
}

/** What an export made: the file, how it holds the weights, and the score in its runtime. */
export interface Exported {
  path: string;
  nbytes: number;
  /** By what share it is larger than the packed file. */
  more: number;
  /** How many tensors the runtime computes with bit for bit, in words. */
  exact: string;
  runtime: string;
  score: Score | null;
  torch_score: Score | null;
  notes: readonly string[];
}

/** The export under way or just over, and the runtimes there are. */
export interface Exporting {
  state: "idle" | "running" | "done" | "stopped" | "failed";
  /** What it does. */
  text: string;
  /** The share that is done. */
  done: number;
  exported: Exported | null;
  targets: readonly ExportTarget[];
}

/** A recovery without retraining: the one under way or just over, and whether there can be one. */
export interface Recovery {
  state: "idle" | "running" | "done" | "stopped" | "failed";
  /** Of what. */
  recipe: string;
  /** How far it is, or why it failed. */
  text: string;
  /** The share of the layers that is done. */
  done: number;
  /** Why there can be none, and what to do about it; "" if there can. */
  why: string;
}

/** Whether batch norm can be re-estimated before every score: why not, or "". */
export interface Recalibration {
  why: string;
}

/** What the page remembers of itself, from one view to the next and over a reload. */
export interface Page {
  /** Whether the options are unfolded; left out until somebody folds or unfolds them. */
  options?: boolean;
  /** Whether it was shown before: only what is new scrolls itself into sight. */
  shown?: boolean;
  /** Whether the changes by class are unfolded. */
  classes?: boolean;
}

/** What the kernel is doing, or how the last thing asked of it went. */
export interface Status {
  /** `exists`: something stands under the name asked for; `again` is what to send if it is to be replaced. */
  state: "idle" | "busy" | "done" | "failed" | "exists";
  what:
    | "compress"
    | "save"
    | "export"
    | "figure"
    | "retrain"
    | "race"
    | "evaluate"
    | "estimate"
    | "recipe"
    | "look"
    | "goto"
    | "";
  text: string;
  id: number;
  again?: Command;
}
