// What a screen reader is told: one sentence for every state that has come to rest, and trouble as it comes.

import { useSignal, useSignalEffect } from "@preact/signals";
import { bytes, comparedSize, decibels } from "../charts/number-format";
import { predictionWords, scoreWords } from "../charts/score-format";
import { summary } from "./by-class";
import type { State } from "./explorer-state";
import { deadWords, isKnown } from "./layer-and-file-figures";
import { COVERED } from "./predict-before-score";
import { useView } from "./view-state";

/** Keys in a burst settle one after the other; only what stays for so long is read out. */
const REST_MS = 600;

/** The present state in a sentence; "" while it has not settled, or is not worth interrupting for. */
export function screenReaderText(state: State): string {
  const status = state.status.value;
  if (state.notice.value === "gone") return GONE;
  if (["failed", "done", "exists"].includes(status.state) && status.text) return status.text;
  const figures = state.figures.value;
  const metric = state.metric.value;
  const score = state.shownScore.value;
  const settled = figures.exact || !state.kernel;
  if (state.dragging.value || !settled || state.exactOnly.value.waiting) return ""; // the page says that it waits
  const about = figures.exact ? "" : "about ";
  const size = `${about}${bytes(figures.nbytes)}, ${comparedSize(figures.ratio)}, SQNR ${decibels(figures.sqnr)}`;
  const sketch = state.sketch.value;
  const hidden = [...(score?.warnings ?? []), deadWords(sketch, figures), ...sketch.warnings].filter(Boolean);
  const rest = [size, ...hidden].join(". ");
  if (!metric.has_data) return rest;
  if (state.covered.value) return `${metric.name} ${COVERED}. ${rest}`;
  if (score?.state === "failed") return `The evaluation failed: ${score.text}. ${rest}`;
  if (!score && !state.kernel) return `${metric.name} not evaluated. ${rest}`;
  if (score?.state !== "done" || !isKnown(score)) return "";
  const how = score.recalibrated ? `, ${score.provenance}` : "";
  const found = state.byClassIsCurrent.value && state.page.value.classes ? state.byClass.value : null;
  const predicted = state.prediction.value;
  const held = predicted ? [predictionWords(metric, predicted.predicted, score)] : [];
  return [`${metric.name} ${scoreWords(metric, score)}${how}`, ...held, rest, ...(found ? [summary(found)] : [])].join(
    ". ",
  );
}

/** What is said once nobody answers any more. */
export const GONE = "kernel disconnected: preview only, run the cell again";

/** A live region of the words above. */
export function ScreenReaderStatus() {
  const { state } = useView();
  const said = useSignal("");
  useSignalEffect(() => {
    const words = screenReaderText(state);
    if (!words) return;
    const timer = setTimeout(() => {
      said.value = words;
    }, REST_MS);
    return () => clearTimeout(timer);
  });
  return (
    <p class="sw-unseen" role="status" data-testid="spoken">
      {said.value}
    </p>
  );
}
