// Signals that follow the values of whatever hosts a component.

import { batch, type Signal, signal } from "@preact/signals";

/** What can be followed. */
export interface Observable {
  get(name: string): unknown;
  /** Call back when a value changes from outside; returns what stops it. */
  on(name: string, callback: () => void): () => void;
}

/**
 * A signal that follows one value, `missing` while there is none; what stops it is added to `stops`. Whoever reads the
 * signal sees with a new value all that `changed` makes of it.
 */
export function modelSignal<T>(
  model: Observable,
  name: string,
  missing: T,
  stops: (() => void)[],
  changed: () => void = () => {},
): Signal<T> {
  const read = () => (model.get(name) ?? missing) as T;
  const value = signal(read());
  stops.push(
    model.on(name, () =>
      batch(() => {
        value.value = read();
        changed();
      }),
    ),
  );
  return value;
}
