// What one view of an explorer keeps for itself: what is open, folded, hovered, and the colors it is drawn in.

import { type Signal, signal } from "@preact/signals";
import { createContext } from "preact";
import { useContext } from "preact/hooks";
import { blocks } from "../charts/layer-tree-rows";
import type { Colors } from "../charts/theme";
import type { Tip } from "../ui/tooltip";
import type { State } from "./explorer-state";

/** `shared`: one axis of weight values; `own`: each row spans its layer's largest weight; `spread`: four RMS values. */
export type Axis = "shared" | "own" | "spread";
export type Table = "layers" | "size" | "history" | "classes";

export interface View {
  readonly state: State;
  readonly root: HTMLElement;
  readonly colors: Signal<Colors>;
  /** Pixels of the screen for one of the page: canvases are drawn again when it changes. */
  readonly pixelRatio: Signal<number>;
  /** Index of the layer that is open large, or -1. */
  readonly selected: Signal<number>;
  readonly grouped: Signal<boolean>;
  readonly folded: Signal<ReadonlySet<string>>;
  /** Keys of the blocks of two and more layers. */
  readonly blocks: readonly string[];
  readonly log: Signal<boolean>;
  readonly axis: Signal<Axis>;
  readonly tables: Signal<ReadonlySet<Table>>;
  readonly tip: Signal<Tip | null>;
  /** Whether the rows show their sensitivity, once it is asked for. */
  readonly sparklines: Signal<boolean>;
  /** Hears the indices of the layers whose rows are in sight, whenever the ridge is drawn. */
  readonly seen: ((layers: readonly number[]) => void) | undefined;
}

const MANY_LAYERS = 40;
/** So few that one of them is open from the start: its rows and it fit beside the figures. */
const FEW_LAYERS = 3;

export function createView(state: State, root: HTMLElement, colors: Colors, seen?: View["seen"]): View {
  const layers = state.sketch.value.layers;
  const largest = layers.reduce((best, layer, i) => (layer.n > layers[best].n ? i : best), 0);
  return {
    state,
    root,
    colors: signal(colors),
    pixelRatio: signal(devicePixelRatio),
    selected: signal(layers.length <= FEW_LAYERS ? largest : -1),
    grouped: signal(layers.length > MANY_LAYERS),
    folded: signal(new Set<string>()),
    blocks: blocks(
      layers.map((layer) => layer.label),
      state.order.value,
    )
      .filter((block) => block.layers.length > 1)
      .map((block) => block.key),
    log: signal(false),
    axis: signal<Axis>("shared"),
    tables: signal(new Set<Table>()),
    tip: signal(null),
    sparklines: signal(true),
    seen,
  };
}

const Context = createContext<View | null>(null);
export const ViewProvider = Context.Provider;

/** The view a component is part of. */
export function useView(): View {
  const view = useContext(Context);
  if (!view) throw new Error("this component belongs inside an explorer");
  return view;
}

/** A copy of a set with one member switched. */
export function toggled<T>(set: ReadonlySet<T>, member: T): ReadonlySet<T> {
  const next = new Set(set);
  if (!next.delete(member)) next.add(member);
  return next;
}
