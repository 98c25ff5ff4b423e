// Keeps what was predicted on a page without a kernel in the tab, so that it is there after a reload.

import type { Prediction } from "../explorer/host-interface";

const keyOf = (title: string) => `shrinkwidget predictions ${location.pathname} ${title}`;

/** What was predicted on the page of this title; null if nothing was, or the browser keeps nothing. */
export function keptPredictions(title: string): readonly Prediction[] | null {
  try {
    return JSON.parse(sessionStorage.getItem(keyOf(title)) ?? "null");
  } catch {
    return null; // a page without an origin, in a frame say, has no storage
  }
}

export function keepPredictions(title: string, predictions: readonly Prediction[]): void {
  try {
    sessionStorage.setItem(keyOf(title), JSON.stringify(predictions));
  } catch {
    // as above
  }
}
