// Hears from the server how another checkpoint differs from one, tensor by tensor (shrinkwidget/server/sketch_worker_program.py).

import { type ReadonlySignal, type Signal, signal } from "@preact/signals";
import { type Connection, LOST } from "./sketch-client";

/** How long tensors are gathered before the page is drawn again. */
const GATHER_MS = 200;

/** One tensor that both hold in the same shape; what is measured is null until it has come. */
export interface TensorRow {
  readonly name: string;
  readonly shape: readonly number[];
  readonly dtypes: readonly [string, string];
  readonly nbytes: number;
  readonly found: TensorChange | null;
  /** Why it cannot be compared, or "". */
  readonly message: string;
}

export interface TensorChange {
  readonly n: number;
  /** ‖a − b‖ / ‖a‖; infinite where a is all zero and b is not, NaN where one of them is not finite. */
  readonly change: number;
  /** How many elements differ. */
  readonly changed: number;
  /** How many are zero, in a and in b. */
  readonly zeros: readonly [number, number];
  /** Both distributions, in equal bins from -span to span. */
  readonly span: number;
  readonly counts: readonly [readonly number[], readonly number[]];
}

export interface Comparison {
  readonly phase: "running" | "done" | "failed";
  readonly place: number;
  readonly message: string;
  readonly titles: readonly [string, string];
  readonly rows: readonly TensorRow[];
  /** Names that one of both lacks. */
  readonly only: readonly [readonly string[], readonly string[]];
  /** Name and both shapes. */
  readonly reshaped: readonly (readonly [string, readonly number[], readonly number[]])[];
  /** Bytes compared, of all that will be. */
  readonly bytes: number;
  readonly total: number;
}

const BEGUN: Comparison = {
  phase: "running",
  place: 0,
  message: "",
  titles: ["", ""],
  rows: [],
  only: [[], []],
  reshaped: [],
  bytes: 0,
  total: 0,
};

export class ComparisonClient {
  readonly #found: Signal<Comparison> = signal(BEGUN);
  readonly #connection: Connection;
  #header: Omit<Comparison, "rows"> = BEGUN;
  #rows: TensorRow[] = [];
  #at: ReadonlyMap<string, number> = new Map();
  #gathering: ReturnType<typeof setTimeout> | undefined;

  constructor(connection: Connection) {
    this.#connection = connection;
    connection.onmessage = ({ data }) => this.#hear(JSON.parse(String(data)));
    connection.onclose = () => this.#ended({ phase: "failed", message: LOST });
  }

  get found(): ReadonlySignal<Comparison> {
    return this.#found;
  }

  dispose(): void {
    clearTimeout(this.#gathering);
    this.#connection.onmessage = null;
    this.#connection.onclose = null;
    this.#connection.close();
  }

  #hear(message: Record<string, never> & { state: string }): void {
    const { state, titles, tensors, only, reshaped, name, ...found } = message;
    if (state === "queued") {
      this.#header = { ...this.#header, place: message.place };
      this.#publish();
    } else if (state === "comparison") {
      this.#rows = (tensors as TensorRow[]).map((tensor) => ({ ...tensor, found: null, message: "" }));
      this.#at = new Map(this.#rows.map((row, i) => [row.name, i]));
      const total = this.#rows.reduce((sum, row) => sum + row.nbytes, 0);
      this.#header = { ...this.#header, place: 0, titles, only, reshaped, total };
      this.#publish();
    } else if (state === "tensor") {
      // JSON has no such numbers: they come as the texts "inf" and "nan"
      const change = found.change === "inf" ? Number.POSITIVE_INFINITY : Number(found.change);
      this.#set(name, { found: { ...(found as unknown as TensorChange), change } });
    } else if (state === "tensor_failed") this.#set(name, { message: message.message });
    else if (state === "done") this.#ended({ phase: "done" });
    else if (state === "failed") this.#ended({ phase: "failed", message: message.message });
  }

  #set(name: string, changes: Partial<TensorRow>): void {
    const i = this.#at.get(name);
    if (i === undefined) return;
    this.#rows[i] = { ...this.#rows[i], ...changes };
    this.#header = { ...this.#header, bytes: this.#header.bytes + this.#rows[i].nbytes };
    this.#gathering ??= setTimeout(() => this.#publish(), GATHER_MS);
  }

  #publish(): void {
    clearTimeout(this.#gathering);
    this.#gathering = undefined;
    this.#found.value = { ...this.#header, rows: [...this.#rows] };
  }

  #ended(how: Pick<Comparison, "phase"> & Partial<Comparison>): void {
    this.dispose();
    this.#header = { ...this.#header, ...how };
    this.#publish();
  }
}

export type SortKey = "name" | "change" | "changed" | "zeros";

/** The rows in the order of a column; what cannot be compared comes last, what has not come yet before it. */
export function sortedRows(rows: readonly TensorRow[], key: SortKey, down: boolean): TensorRow[] {
  const value = ({ found }: TensorRow): number => {
    if (!found) return Number.NEGATIVE_INFINITY;
    if (key === "change") return Number.isNaN(found.change) ? Number.POSITIVE_INFINITY : found.change;
    if (key === "changed") return found.changed / Math.max(found.n, 1);
    return (found.zeros[1] - found.zeros[0]) / Math.max(found.n, 1);
  };
  const sign = down ? -1 : 1;
  const rank = (row: TensorRow) => (row.message ? 2 : row.found ? 0 : 1);
  return [...rows].sort((a, b) => {
    if (key === "name") return sign * (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
    return rank(a) - rank(b) || sign * compare(value(a), value(b));
  });
}

/** Unlike a difference, this takes infinities. */
function compare(a: number, b: number): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
