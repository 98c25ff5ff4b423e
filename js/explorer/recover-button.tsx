// The button "Recover": accuracy won back without retraining, in the bytes there are; and how far that is.

import { WorkLine } from "../ui/progress-line";
import { COVERED } from "./predict-before-score";
import { useView } from "./view-state";

const TITLE =
  "chooses the weights again, within this mask and these bits, so that every layer computes what it did before, and " +
  "recalibrates batch norm: in seconds, from unlabelled examples, in the same bytes";

/** Recovers the recipe that is shown; where that cannot be, the kernel says why, and what to do. */
export function RecoverButton() {
  const { state } = useView();
  const { state: now, why } = state.recovery.value;
  return (
    <button
      type="button"
      class="sw-button"
      disabled={state.notice.value === "gone" || state.covered.value || now === "running"}
      title={state.covered.value ? COVERED : why || TITLE}
      data-testid="recover"
      onClick={() => state.send({ do: "recover" })}
    >
      Recover
    </button>
  );
}

/** How far a recovery is, with the way to stop it; or why that of the present recipe failed. */
export function RecoveryLine() {
  const { state } = useView();
  const { state: now, text, done, recipe } = state.recovery.value;
  if (state.notice.value === "gone") return null;
  if (now === "failed" && recipe === state.recipeText.value) {
    return (
      <div class="sw-work" data-testid="recovery">
        <p class="sw-hint sw-failed" role="alert">
          {text}
        </p>
      </div>
    );
  }
  if (now !== "running") return null;
  const stop = () => state.send({ do: "stop_recovery" });
  return <WorkLine words={`recovering: ${text}`} done={done} stop={stop} testid="recovery" stopId="stop-recovery" />;
}
