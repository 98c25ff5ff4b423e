// Undo and redo, one step per gesture: a drag, or a burst of arrow keys, comes back in one piece.

const BURST_MS = 800;
const DEPTH = 200;

/** Remembers values before each gesture. */
export class UndoStack<T> {
  readonly #undone: T[] = [];
  readonly #done: T[] = [];
  #gesture = "";
  #last = Number.NEGATIVE_INFINITY;

  constructor(private readonly now: () => number = () => performance.now()) {}

  get canUndo(): boolean {
    return this.#done.length > 0;
  }

  get canRedo(): boolean {
    return this.#undone.length > 0;
  }

  /** Note the value as it was before an edit; edits of one gesture are one step, while it is `held` or goes on in time. */
  record(before: T, gesture: string, held = false): void {
    const time = this.now();
    const goesOn = gesture !== "" && gesture === this.#gesture && (held || time - this.#last < BURST_MS);
    if (!goesOn) this.#done.push(before);
    if (this.#done.length > DEPTH) this.#done.shift();
    this.#undone.length = 0;
    this.#gesture = gesture;
    this.#last = time;
  }

  /** End the gesture: the next edit is a step of its own. */
  pause(): void {
    this.#gesture = "";
  }

  /** The value before the last step, given the value now; undefined when there is none. */
  undo(current: T): T | undefined {
    return this.#step(this.#done, this.#undone, current);
  }

  redo(current: T): T | undefined {
    return this.#step(this.#undone, this.#done, current);
  }

  #step(from: T[], to: T[], current: T): T | undefined {
    const value = from.pop();
    if (value !== undefined) to.push(current);
    this.pause();
    return value;
  }
}
