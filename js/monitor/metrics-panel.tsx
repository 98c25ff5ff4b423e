// The figures of the moment: score, loss, rate, sparsity, size.

import { bytes, comparedSize, count, percent, weight } from "../charts/number-format";
import { directionWords, holdsUp, intervalText, metricValue } from "../charts/score-format";
import type { TermName } from "../ui/glossary-terms";
import { Term } from "../ui/help";
import type { TestScore } from "./host-interface";
import { useView } from "./view-state";

const NONE = "–";

export function MetricsPanel() {
  const { state } = useView();
  const now = state.progress.value;
  const metric = state.metric.value;
  const value = (x: number | null | undefined) => (x === null || x === undefined ? NONE : metricValue(metric, x));
  return (
    <section aria-label="Now">
      <Headline />
      <dl class="sw-stats sw-run-stats">
        <Stat term={`${metric.name}, training`} testid="train">
          {value(now?.train)}
        </Stat>
        <Stat term="loss" testid="loss">
          {now?.loss === null || now === null ? NONE : now.loss.toFixed(3)}
        </Stat>
        <Stat term="learning rate" testid="lr">
          {now?.lr === null || now === null ? NONE : weight(now.lr)}
        </Stat>
        <Stat term="pruned" of="sparsity" testid="sparsity">
          {now ? percent(now.sparsity, 1) : NONE}
        </Stat>
        <Stat term="size" testid="nbytes">
          {now?.nbytes ? bytes(now.nbytes) : NONE}
        </Stat>
        <Stat term="against dense" of="compression-ratio" testid="ratio">
          {now?.ratio ? comparedSize(now.ratio) : NONE}
        </Stat>
      </dl>
    </section>
  );
}

interface StatProps {
  term: string;
  /** What it is called in the glossary. */
  of?: TermName;
  testid: string;
  children: string;
}

function Stat({ term, of, testid, children }: StatProps) {
  return (
    <div>
      <dt>{of ? <Term of={of}>{term}</Term> : term}</dt>
      <dd data-testid={testid}>{children}</dd>
    </div>
  );
}

/** The score before training and now, with its interval. */
function Headline() {
  const { state } = useView();
  const metric = state.metric.value;
  const baseline = state.baseline.value;
  const test = state.progress.value?.test ?? null;
  if (!baseline && !test) {
    const hint = "Give it validation data, and every epoch is scored on it.";
    return <p class="sw-note">{state.kernel ? hint : "There were no validation data to score it on."}</p>;
  }
  const score = (found: TestScore | null) => (found ? metricValue(metric, found.value) : "…");
  return (
    <>
      <p class="sw-headline sw-accuracy">
        <span class="sw-from">{score(baseline)}</span>
        <span class="sw-arrow">
          <span aria-hidden="true">→</span>
          <span class="sw-unseen">becomes</span>
        </span>
        <strong
          data-testid="test"
          data-value={test?.value}
          data-holds={test !== null && holdsUp(metric, test.value, baseline)}
        >
          {score(test)}
        </strong>
        <span class="sw-beside" data-testid="interval">
          {test && intervalText(metric, test)}
        </span>
      </p>
      <p class="sw-hint">
        {metric.name} on {count((test ?? baseline)?.n ?? 0)} validation examples
        {test?.done === false && ", still counting"} · <Term of="interval">95 % interval</Term>
        {!(metric.percent && metric.higher) && ` · ${directionWords(metric)}`}
      </p>
    </>
  );
}
