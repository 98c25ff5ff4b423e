// The line between the explorer and whatever hosts it: a handful of named values, and commands for the kernel.

/** What the host offers. `js/widget` makes one of anywidget's model; a plain page can make one of an object. */
export interface ExplorerModel {
  get(name: string): unknown;
  /** Set a value here; whatever is linked to it in the page follows. */
  set(name: string, value: unknown): void;
  /** Tell the kernel what was set since last told. */
  save(): void;
  /** Call back when a value changes from outside; returns what stops it. */
  on(name: string, callback: () => void): () => void;
  send(command: Command): void;
  /** False once nobody answers any more (the kernel is gone, or there never was one); left out: always true. */
  alive?(): boolean;
}

export type Command =
  | { do: "compress"; name: string }
  | { do: "save"; path: string; entropy: boolean }
  | { do: "evaluate" };

/** One measured (or still running) score of one recipe. */
export interface Score {
  recipe: string;
  value: number;
  low: number;
  high: number;
  n: number;
  total: number | null;
  state: "running" | "done" | "failed" | "cancelled";
  metric: string;
  regime: string;
  text?: string;
}

export interface Metric {
  name: string;
  higher: boolean;
  percent: boolean;
  has_data: boolean;
}

/** One recipe that was evaluated to the end. */
export interface Visit {
  recipe: string;
  nbytes: number;
  value: number;
  low: number;
  high: number;
  n: number;
  regime: string;
}

/** What the kernel is doing, or how the last thing asked of it went. */
export interface Status {
  state: "idle" | "busy" | "done" | "failed";
  what: "compress" | "save" | "evaluate" | "estimate" | "recipe" | "";
  text: string;
  id: number;
}
