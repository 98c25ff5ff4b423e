// Predict first: a marker to set on the axis of the score while that is covered, and both on one axis once it is not.

import { useSignal } from "@preact/signals";
import { withoutNoise } from "../charts/number-format";
import { metricTick, predictionWords } from "../charts/score-format";
import { isKnown } from "./layer-and-file-figures";
import { useView } from "./view-state";

/** Why nothing that hints at a score is shown. */
export const COVERED = "covered until you predict";

/** Asks for a prediction while the score is covered; holds it against the score from then on. */
export function PredictionRow() {
  const { state } = useView();
  if (state.covered.value) return <Guess />;
  return state.prediction.value ? <Revealed /> : null;
}

/** The switch that covers every score until it is predicted. */
export function PredictFirst() {
  const { state } = useView();
  return (
    <label class="sw-check" title="every accuracy is covered until you have said what you expect it to be">
      <input
        type="checkbox"
        checked={state.predictFirst.value}
        data-testid="predict-first"
        onChange={(event) => state.setPredictFirst(event.currentTarget.checked)}
      />
      predict first
    </label>
  );
}

/** A slider and a box for one number, which is nobody's until it is touched: a marker that stands somewhere is a hint. */
function Guess() {
  const { state } = useView();
  const metric = state.metric.value;
  const recipe = `${state.recipeText.value} ${state.recalibrate.value}`;
  const guess = useSignal<{ recipe: string; value: number } | null>(null);
  const value = guess.value?.recipe === recipe ? guess.value.value : null;
  const [unit, most] = metric.percent ? [100, 1] : [1, Number.MAX_VALUE];
  const fits = value !== null && value <= most && (value >= 0 || !metric.percent);
  const take = (event: { currentTarget: HTMLInputElement }) => {
    const typed = event.currentTarget.valueAsNumber;
    guess.value = Number.isFinite(typed) ? { recipe, value: Number((typed / unit).toPrecision(8)) } : null;
  };
  const commit = () => {
    if (fits) state.predict(value);
  };
  return (
    <form
      class="sw-guess"
      data-testid="predict"
      onSubmit={(event) => {
        event.preventDefault();
        commit();
      }}
    >
      {metric.percent && (
        <span class="sw-axis" data-set={value !== null}>
          <input
            type="range"
            min={0}
            max={100}
            step={1}
            value={value === null ? 50 : unit * value}
            style={{ "--fill": "0%" }}
            aria-label={`${metric.name} you expect`}
            aria-valuetext={value === null ? "not set" : metricTick(metric, value)}
            data-testid="predict-slider"
            onInput={take}
            onClick={take} // where the thumb stands already
            onKeyDown={(event) => {
              if (event.key === "Enter" && !event.ctrlKey && !event.metaKey && !event.shiftKey) commit();
            }}
          />
          <Dense />
        </span>
      )}
      <span class="sw-box">
        <input
          type="number"
          min={metric.percent ? 0 : undefined}
          max={metric.percent ? 100 : undefined}
          step="any"
          value={value === null ? "" : withoutNoise(unit * value)}
          aria-label={`${metric.name} you expect${metric.percent ? ", in percent" : ""}`}
          aria-invalid={value !== null && !fits}
          data-testid="predict-box"
          onInput={take}
        />
        {metric.percent && <span aria-hidden="true">%</span>}
      </span>
      <button type="submit" class="sw-button" disabled={!fits} data-testid="predict-go">
        Predict
      </button>
    </form>
  );
}

/** Where the dense model stands on the axis. */
function Dense() {
  const { state } = useView();
  const baseline = state.baseline.value;
  if (!isKnown(baseline)) return null;
  return <i class="sw-axis-dense" style={{ "--at": baseline.value }} title="dense" aria-hidden="true" />;
}

function Revealed() {
  const { state } = useView();
  const metric = state.metric.value;
  const score = state.shownScore.value;
  const predicted = state.prediction.value?.predicted ?? 0;
  const known = isKnown(score) ? score : null;
  return (
    <div class="sw-revealed">
      {metric.percent && (
        <span class="sw-axis" aria-hidden="true">
          <Dense />
          {known && (
            <i
              class="sw-axis-miss"
              style={{ "--from": Math.min(predicted, known.value), "--to": Math.max(predicted, known.value) }}
            />
          )}
          <i class="sw-axis-said" style={{ "--at": predicted }} />
          {known && <i class="sw-axis-is" style={{ "--at": known.value }} />}
        </span>
      )}
      <p class="sw-hint" data-testid="prediction">
        {predictionWords(metric, predicted, known)}
      </p>
    </div>
  );
}
