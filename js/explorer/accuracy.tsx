// The accuracy section: dense baseline, the running score with its interval and sample count, how it was obtained.

import { bytes, count, decibels, share, short } from "../charts/format";
import { metricValue, plusMinus } from "../charts/score";
import { macsOf } from "./figures";
import { PLAIN, type Score } from "./model";
import { Panel } from "./panel";
import { Approx, Arrow } from "./size";
import { useView } from "./view";

export function Accuracy() {
  const { state } = useView();
  const metric = state.metric.value;
  return (
    <Panel name="accuracy" title={metric.name} caption={metric.has_data && <Badge />}>
      {metric.has_data ? <Running /> : <NoData />}
    </Panel>
  );
}

function Badge() {
  const { state } = useView();
  const regime = state.score.value?.regime ?? state.baseline.value?.regime ?? PLAIN;
  return (
    <span class="sw-badge" title="how this accuracy was obtained" data-testid="regime">
      {regime}
    </span>
  );
}

function NoData() {
  return (
    <p class="sw-note" data-testid="accuracy">
      Give it a module and data, and every recipe is measured here: <code>sw.explore(model, data=(x, y))</code>
    </p>
  );
}

/** The score of this very recipe, or null while there is none. */
function useScore(): Score | null {
  const { state } = useView();
  const score = state.score.value;
  if (score?.recipe === state.recipeText.value) return score;
  const visit = state.history.value.findLast((v) => v.recipe === state.recipeText.value && v.regime === PLAIN);
  return visit ? { ...visit, total: null, state: "done", metric: state.metric.value.name } : null;
}

function Running() {
  const { state } = useView();
  const metric = state.metric.value;
  const baseline = state.baseline.value;
  const score = useScore();
  const failed = score?.state === "failed";
  const known = score !== null && !failed && score.n > 0;
  const unknown = failed ? "–" : "…";
  return (
    <>
      <p class="sw-headline">
        <span class="sw-from">{baseline && baseline.n > 0 ? metricValue(metric, baseline.value) : unknown}</span>
        <Arrow />
        <strong
          data-testid="accuracy"
          data-state={score?.state ?? "waiting"}
          data-value={known ? score.value : undefined}
        >
          {known ? metricValue(metric, score.value) : unknown}
        </strong>
        <span class="sw-beside">{known && plusMinus(metric, score)}</span>
      </p>
      <p class={`sw-hint ${failed ? "sw-failed" : ""}`} title={failed ? score.text : undefined} aria-live="polite">
        {progress(score, state.notice.value !== "")}
        {(failed || score?.state === "cancelled") && (
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

function doneShare(score: Score | null): string {
  if (!score || score.state === "failed") return "0%";
  if (score.state === "done") return "100%";
  return score.total ? `${(100 * score.n) / score.total}%` : "50%";
}

/** What a score is based on, in words. */
function progress(score: Score | null, waiting: boolean): string {
  if (!score) return waiting ? "waiting for the kernel" : "measured as soon as the kernel gets to it";
  if (score.state === "failed") return score.text ?? "the evaluation failed";
  const of = score.total && score.total !== score.n ? ` of ${count(score.total)}` : "";
  const words = { running: ", still counting", cancelled: ", stopped", done: "" }[score.state];
  return `${count(score.n)}${of} examples${words} · 95 % interval`;
}

/** What else a recipe does to a model: error, density, multiply-accumulates. */
export function Stats() {
  const { state } = useView();
  const figures = state.figures.value;
  const sketch = state.sketch.value;
  const macs = macsOf(sketch, figures, state.macs.value);
  return (
    <dl class="sw-stats">
      <div title="signal-to-quantization-noise ratio over all compressible weights">
        <dt>error, SQNR</dt>
        <dd data-testid="sqnr">
          <Approx exact={figures.exact} />
          {decibels(figures.sqnr)}
        </dd>
      </div>
      <div title="share of the compressible weights that is pruned">
        <dt>pruned</dt>
        <dd data-testid="pruned">{share(figures.sparsity)}</dd>
      </div>
      <div title="bits in the file for each parameter of the model">
        <dt>bits per parameter</dt>
        <dd>{((8 * figures.nbytes) / sketch.parameters).toFixed(2)}</dd>
      </div>
      <div
        title={
          macs === null
            ? "multiply-accumulates are known if you give an example input"
            : "multiply-accumulates per example, if pruned weights are skipped"
        }
      >
        <dt>{macs === null ? "largest layer" : "MACs"}</dt>
        <dd>{macs === null ? <Largest /> : `${short(macs.dense)} → ${short(macs.now)}`}</dd>
      </div>
    </dl>
  );
}

function Largest() {
  const { state } = useView();
  const { codes, mask, scales, as_is } = state.figures.value.layers;
  let most = 0;
  for (let i = 0; i < codes.length; i++) most = Math.max(most, codes[i] + mask[i] + scales[i] + as_is[i]);
  return <>{bytes(most)}</>;
}
