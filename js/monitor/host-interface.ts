// The line between the monitor and whatever hosts it: a few named values, and a few commands.

import type { FigureRequest } from "../ui/figure-prompt";
import type { Observable } from "../ui/signal-that-follows-a-trait";

/** What the host offers. */
export interface MonitorModel extends Observable {
  send(command: RunCommand): void;
  /** False once nobody answers any more; left out: always true. */
  alive?(): boolean;
  /** Call back when that may have changed; returns what stops it. */
  onAlive?(callback: () => void): () => void;
  /** False where there never is a kernel, as on a page that was saved to stand alone; left out: there is one. */
  readonly kernel?: boolean;
}

export type RunCommand =
  | { do: "pause" }
  | { do: "resume" }
  | { do: "stop" }
  | ({ do: "start" } & Settings)
  | { do: "keep"; name: string; replace?: boolean }
  | { do: "save"; path: string; entropy: boolean; replace?: boolean }
  | ({ do: "figure"; replace?: boolean } & FigureRequest);

/**
 * How keeping or saving the result went: nothing yet, a sentence, or why it failed. With `again` it is a question:
 * something stands under that name, and `again` is what to send if it is to be replaced.
 */
export interface Kept {
  failed: boolean;
  text: string;
  again?: RunCommand | null;
}

/** How an offered training shall go about it; `lr` is its learning rate. */
export interface Settings {
  method: "fine-tune" | "rewind";
  epochs: number;
  lr: number;
  optimizer: "sgd" | "adam";
}

export type RunState = "ready" | "running" | "paused" | "stopping" | "done" | "stopped" | "failed";

/** A score on the validation data; `low` and `high` are the ends of its 95 % interval. */
export interface TestScore {
  value: number;
  low: number | null;
  high: number | null;
  n: number;
  done: boolean;
}

/** Where the training is; rounds, epochs and steps count from 1. */
export interface Progress {
  phase: "prune" | "features" | "train" | "test" | "checkpoint" | "norms" | "compensate";
  round: number;
  rounds: number;
  epoch: number;
  epochs: number;
  step: number;
  steps: number | null;
  loss: number | null;
  train: number | null;
  test: TestScore | null;
  lr: number | null;
  /** Fraction of the compressible weights that is pruned. */
  sparsity: number;
  nbytes: number | null;
  ratio: number | null;
  /** Examples per second. */
  rate: number | null;
  /** Seconds to the end. */
  eta: number | null;
  /** What the round is called, where it is a stage of a transfer. */
  stage?: string;
  /** Epochs of every round, where they differ; none where all have as many. */
  epochs_by_round?: readonly number[];
}

type Column = readonly (number | null)[];

/** One entry for every complete epoch; `at` counts epochs through all rounds, from 1. */
export interface Curves {
  readonly at: readonly number[];
  readonly loss: Column;
  readonly train: Column;
  readonly test: Column;
  readonly low: Column;
  readonly high: Column;
  readonly lr: Column;
  readonly sparsity: Column;
}

/** What a round has come to. */
export interface Point {
  round: number;
  nbytes: number;
  ratio: number;
  sparsity: number;
  test: TestScore | null;
}
