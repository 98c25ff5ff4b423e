// The epochs as a table: what the curves show, for people and screen readers alike.

import { percent, weight } from "../charts/number-format";
import { intervalText, metricValue } from "../charts/score-format";
import { DataTable } from "../ui/data-table";
import { withStart } from "./monitor-state";
import { useView } from "./view-state";

export function EpochTable() {
  const { state } = useView();
  const metric = state.metric.value;
  const { at, loss, train, test, low, high, lr, sparsity } = withStart(state.curves.value, state.baseline.value);
  const score = (x: number | null) => (x === null ? "–" : metricValue(metric, x));
  const rows = at.map((epoch, i) => [
    epoch === 0 ? "before" : String(epoch),
    loss[i]?.toFixed(4) ?? "–",
    score(train[i]),
    score(test[i]),
    intervalText(metric, { low: low[i], high: high[i] }) || "–",
    lr[i] === null ? "–" : weight(lr[i]),
    sparsity[i] === null ? "–" : percent(sparsity[i], 1),
  ]);
  return (
    <div class="sw-run-table sw-table-scroll">
      <DataTable
        head={[
          "epoch",
          "loss",
          `${metric.name}, training`,
          `${metric.name}, validation`,
          "95 % interval",
          "rate",
          "pruned",
        ]}
        rows={rows.reverse()}
        testid="epochs"
      />
    </div>
  );
}
