// The accuracy section: dense baseline, the running score with its interval and sample count, how it was obtained, and
// what it hides.

import { bytes, count, decibels, estimated, perParameter, share, short } from "../charts/number-format";
import { directionWords, holdsUp, intervalText, metricValue } from "../charts/score-format";
import { layerTotal } from "../core/estimate";
import { removesChannels } from "../core/recipe";
import { Term } from "../ui/help";
import { PLAIN } from "../ui/save-names";
import type { State } from "./explorer-state";
import type { Score } from "./host-interface";
import { deadWords, isKnown, macsOf } from "./layer-and-file-figures";
import { Panel } from "./panel-with-table-toggle";
import { COVERED, PredictFirst, PredictionRow } from "./predict-before-score";
import { RaceRow } from "./race-row";
import { Approx, Arrow } from "./size-panel";
import { useView } from "./view-state";

const INTERVAL = "95 % interval";

export function AccuracyPanel() {
  const { state } = useView();
  const metric = state.metric.value;
  return (
    <Panel name="accuracy" title={metric.name} caption={metric.has_data && <Caption />}>
      {metric.has_data ? <Running /> : <NoData />}
      {metric.has_data && <WithoutChannels />}
      {metric.has_data && <PredictionRow />}
      {metric.has_data && !state.simple.value && <Switches />}
      {metric.has_data && !state.simple.value && <RaceRow />}
      <Warnings />
    </Panel>
  );
}

/** How the accuracy was obtained, and which way is better where the name does not say it to everybody. */
function Caption() {
  const { state } = useView();
  const metric = state.metric.value;
  const provenance = state.shownScore.value?.provenance ?? state.baseline.value?.provenance ?? PLAIN;
  return (
    <>
      <span class="sw-badge" title={provenance} data-testid="provenance">
        <Term of="provenance">{provenance}</Term>
      </span>
      {!(metric.percent && metric.higher) && (
        <span class="sw-direction" data-testid="direction">
          {directionWords(metric)}
        </span>
      )}
    </>
  );
}

function NoData() {
  const { kernel } = useView().state;
  return (
    <p class="sw-note" data-testid="accuracy">
      {kernel ? "Pass" : "This page was made without data. In a notebook, pass"} a module and data to see accuracy:{" "}
      <code>sw.explore(model, eval_data=(x, y))</code>
    </p>
  );
}

/** Said where channels are gone and nothing was trained since: what the accuracy means, and what brings it back. */
function WithoutChannels() {
  const { state } = useView();
  if (!removesChannels(state.recipe.value) || state.result.value !== "") return null;
  const recalibrated = state.recalibrate.value;
  const possible = state.recalibration.value.why === "" && !recalibrated;
  return (
    <p class="sw-hint sw-wrap sw-without-channels" data-testid="without-channels">
      collapses without its channels until it is retrained
      {possible && (
        <>
          {" · "}
          <button
            type="button"
            class="sw-link"
            title="batch norm's statistics, on 512 unlabelled training images: it brings a part of it back"
            data-testid="re-estimate"
            onClick={() => state.setRecalibrate(true)}
          >
            re-estimate norms
          </button>
        </>
      )}
    </p>
  );
}

/** What is done before a score: batch norm re-estimated, a prediction made. */
function Switches() {
  return (
    <p class="sw-switches">
      <Recalibrate />
      <span class="sw-switch">
        <PredictFirst />
        <Term of="covered" />
      </span>
    </p>
  );
}

/** The switch that tells what is broken from what is only shifted; it says why where it cannot be on. */
function Recalibrate() {
  const { state } = useView();
  const { why } = state.recalibration.value;
  const title =
    "re-estimates batch norm's statistics for these weights before every score, on 512 unlabelled training images";
  return (
    <>
      <span class="sw-switch">
        <label class="sw-check" title={why || title} data-off={why !== ""}>
          <input
            type="checkbox"
            checked={state.recalibrate.value}
            disabled={why !== ""}
            title={why || title}
            data-testid="recalibrate"
            onChange={(event) => state.setRecalibrate(event.currentTarget.checked)}
          />
          recalibrate batch norm
        </label>
        <Term of="batch-norm-recalibration" />
      </span>
      {why && (
        <span class="sw-hint" data-testid="recalibrate-why">
          {why}
        </span>
      )}
    </>
  );
}

function Running() {
  const { state } = useView();
  const metric = state.metric.value;
  const baseline = state.baseline.value;
  const score = state.shownScore.value;
  const failed = score?.state === "failed";
  const known = isKnown(score);
  const covered = state.covered.value;
  const unknown = covered
    ? "?"
    : !state.kernel || failed || state.unsketched.value || (score?.state === "done" && score.n > 0)
      ? "–"
      : "…";
  return (
    <>
      <p class="sw-headline">
        <span class="sw-from">{isKnown(baseline) ? metricValue(metric, baseline.value) : covered ? "…" : unknown}</span>
        <Arrow />
        <strong
          data-testid="accuracy"
          data-state={covered ? "covered" : (score?.state ?? "waiting")}
          data-value={known ? score.value : undefined}
          data-holds={known && isEarned(state, score)}
        >
          {known ? metricValue(metric, score.value) : unknown}
        </strong>
        <span class="sw-beside" data-testid="interval">
          {known && intervalText(metric, score)}
        </span>
      </p>
      <p class={`sw-hint ${failed ? "sw-failed" : ""}`} title={failed ? score.text : undefined} data-testid="samples">
        <Progress words={progressWords(state)} />
        {state.kernel && (failed || score?.state === "cancelled") && (
          <button type="button" class="sw-link" onClick={() => state.send({ do: "evaluate" })}>
            try again
          </button>
        )}
      </p>
      <span class="sw-progress" data-state={score?.state ?? "waiting"} aria-hidden="true">
        <i style={{ width: doneShare(score) }} />
      </span>
    </>
  );
}

/** What a score is based on; the interval is a term. */
function Progress({ words }: { words: string }) {
  const [start, rest] = words.split(INTERVAL);
  if (rest === undefined) return <>{words}</>;
  return (
    <>
      {start}
      <Term of="interval">{INTERVAL}</Term>
      {rest}
    </>
  );
}

/** Whether a score deserves praise: something was done to the model, and it does as well as before for all one can tell. */
function isEarned(state: State, score: Score): boolean {
  const baseline = state.baseline.value;
  const untouched = baseline?.recipe === score.recipe && score.provenance === PLAIN;
  return !untouched && !score.warnings?.length && holdsUp(state.metric.value, score.value, baseline);
}

function doneShare(score: Score | null): string {
  if (!score || score.state === "failed") return "0%";
  if (score.state === "done") return "100%";
  return score.total ? `${(100 * score.n) / score.total}%` : "50%";
}

/** What a score is based on, in words; while there is none, what it waits for. */
export function progressWords(state: State): string {
  const score = state.shownScore.value;
  const notice = state.notice.value;
  if (state.covered.value) return COVERED;
  if (!score) {
    if (!state.kernel) return "not evaluated: needs the kernel";
    if (notice === "gone") return "not evaluated: the kernel is disconnected";
    if (state.unsketched.value) return "not evaluated: not all layers could be sketched";
    if (notice === "busy") return "waiting for the kernel";
    if (state.dragging.value) return "evaluated when the slider stops";
    return state.figures.value.exact && !state.exactOnly.value.waiting
      ? "measuring…"
      : "evaluated next: the kernel counts bytes first";
  }
  if (score.state === "failed") return score.text ?? "the evaluation failed";
  const of = score.total && score.total !== score.n ? ` of ${count(score.total)}` : "";
  const running = notice === "gone" ? ", not finished: the kernel is disconnected" : ", still counting";
  const words = { running, cancelled: ", stopped", done: "" }[score.state];
  const interval = score.low === null || score.high === null ? "too few for an interval" : INTERVAL;
  return `${count(score.n)}${of} examples${words} · ${interval}`;
}

/** What the numbers above hide, said where they stand. */
function Warnings() {
  const { state } = useView();
  const stale = state.stale.value;
  const sketch = state.sketch.value;
  const dead = deadWords(sketch, state.figures.value);
  const score = state.shownScore.value;
  const all = [...(isKnown(score) ? (score.warnings ?? []) : []), ...(dead ? [dead] : []), ...sketch.warnings];
  if (!stale && all.length === 0) return null;
  return (
    <ul class="sw-warnings" data-testid="warnings">
      {stale && (
        <li key="stale" data-testid="stale">
          {stale}
          {state.kernel && (
            <button
              type="button"
              class="sw-link"
              disabled={state.notice.value === "gone"}
              data-testid="look"
              onClick={() => state.send({ do: "look" })}
            >
              Look again
            </button>
          )}
        </li>
      )}
      {all.map((text) => (
        <li key={text}>{text}</li>
      ))}
    </ul>
  );
}

/** What else a recipe does to a model: error, density, multiply-accumulates. */
export function Stats() {
  const { state } = useView();
  const figures = state.figures.value;
  const sketch = state.sketch.value;
  if (state.sketching.value) return null; // all of them are of the whole
  const macs = macsOf(sketch, figures, state.macs.value);
  return (
    <dl class="sw-stats">
      <div>
        <dt>
          error, <Term of="sqnr">SQNR</Term>
        </dt>
        <dd data-testid="sqnr">
          <Approx exact={figures.exact || figures.sqnr === Number.POSITIVE_INFINITY} />
          {decibels(figures.sqnr)}
        </dd>
      </div>
      <div>
        <dt>
          <Term of="sparsity">pruned</Term>
        </dt>
        <dd data-testid="pruned">
          <Approx exact={figures.sized} />
          {share(figures.sparsity)}
        </dd>
      </div>
      <div>
        <dt>
          <Term of="bits-per-parameter">bits per parameter</Term>
        </dt>
        <dd data-testid="bits-per-parameter">
          <Approx exact={figures.sized} />
          {perParameter(figures.nbytes, figures.left.parameters)}
        </dd>
      </div>
      <div title={macs === null ? "multiply-accumulates are known if you give an example input" : undefined}>
        <dt>{macs === null ? "largest layer" : <Term of="macs">MACs</Term>}</dt>
        <dd data-testid={macs === null ? "largest-layer" : "macs"}>
          {macs === null ? <Largest /> : `${short(macs.dense)} → ${estimated(macs.exact, short(macs.now))}`}
        </dd>
      </div>
    </dl>
  );
}

function Largest() {
  const { state } = useView();
  const { sized, layers } = state.figures.value;
  const most = Math.max(0, ...state.sketch.value.layers.map((_, i) => layerTotal(layers, i)));
  return (
    <>
      <Approx exact={sized} />
      {bytes(most)}
    </>
  );
}
