// The button "Race": how fast what is shown is on this machine, against the dense model; grey until it is raced.

import type { State } from "./explorer-state";
import { isShown } from "./explorer-state";
import type { Raced, Visit } from "./host-interface";
import { recipeLabel } from "./recipe-label";
import { useView } from "./view-state";

const TITLE =
  "times the dense model against this one in a process of its own, on one thread, at batch 1 and 32; multiply-accumulates are no speed";

export function RaceRow() {
  const { state } = useView();
  const race = state.race.value;
  const running = race?.state === "running";
  const now = racedNow(state);
  const last = race?.found.at(-1);
  if (!state.kernel && !last) return null;
  return (
    <div class="sw-race" data-testid="race" data-state={running ? "running" : now ? "raced" : "not-raced"}>
      {state.kernel && (
        <button
          type="button"
          class="sw-button"
          title={TITLE}
          disabled={running || state.notice.value === "gone"}
          data-testid="start-race"
          onClick={() => state.send({ do: "race" })}
        >
          Race
        </button>
      )}
      {running ? (
        <span class="sw-hint" data-testid="race-progress">
          {race.text || "starting"}, {Math.floor(100 * race.done)} %{" "}
          <button type="button" class="sw-link" data-testid="stop-race" onClick={() => state.send({ do: "stop_race" })}>
            stop
          </button>
        </span>
      ) : now ? (
        <Result raced={now} />
      ) : (
        <span class="sw-hint sw-not-raced">
          {last ? <Old raced={last} /> : "speed is not known until it is raced"}
          {race?.state === "failed" && <span class="sw-failed"> {race.text}</span>}
        </span>
      )}
    </div>
  );
}

function Result({ raced }: { raced: Raced }) {
  return (
    <span data-testid="raced">
      {raced.ratios.map(({ batch, text }) => (
        <span key={batch} class="sw-ratio">
          <b>{text}</b> batch {batch}
        </span>
      ))}
      <span class="sw-hint">times faster than dense; {raced.conditions}</span>
      {raced.warnings.map((text) => (
        <span key={text} class="sw-hint sw-failed" data-testid="race-warning">
          {text}
        </span>
      ))}
    </span>
  );
}

/** The last race, of another recipe. */
function Old({ raced }: { raced: Raced }) {
  return (
    <span data-testid="race-old">
      not raced; {recipeLabel(raced.recipe)} was {ratioWords(raced)}
    </span>
  );
}

/** Ratios with their batch sizes, in one line. */
function ratioWords(raced: Raced): string {
  return raced.ratios.map(({ batch, text }) => `${text} at batch ${batch}`).join(", ");
}

/** What a race found of a point of the history, for its tip; nothing where there was none. */
export function raceLines(state: State, visit: Visit): string[] {
  const raced = state.race.value?.found.findLast(
    (one) => one.recipe === visit.recipe && (one.result ?? null) === (visit.result ?? null) && sameNorm(one, visit),
  );
  return raced ? [`${ratioWords(raced)}: ${raced.conditions}`] : [];
}

const sameNorm = (one: Raced, visit: Visit) =>
  visit.result != null || one.recalibrated === (visit.recalibrated ?? false);

function racedNow(state: State): Raced | undefined {
  return state.race.value?.found.findLast(
    (one) => one.recipe === state.recipeText.value && isShown(one, state.result.value, state.recalibrate.value),
  );
}
