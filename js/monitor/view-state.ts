// What one view of a monitor keeps for itself: the epoch under the pointer, and whether a table is shown.

import { type Signal, signal } from "@preact/signals";
import { createContext } from "preact";
import { useContext } from "preact/hooks";
import type { Tip } from "../ui/tooltip";
import type { MonitorState } from "./monitor-state";

export interface View {
  readonly state: MonitorState;
  readonly root: HTMLElement;
  readonly tip: Signal<Tip | null>;
  /** Index of the epoch under the pointer, or -1. */
  readonly pointed: Signal<number>;
  readonly table: Signal<boolean>;
}

export function createView(state: MonitorState, root: HTMLElement): View {
  return { state, root, tip: signal(null), pointed: signal(-1), table: signal(false) };
}

const Context = createContext<View | null>(null);
export const ViewProvider = Context.Provider;

/** The view a component is part of. */
export function useView(): View {
  const view = useContext(Context);
  if (!view) throw new Error("this component belongs inside a monitor");
  return view;
}
