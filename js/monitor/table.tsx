// The epochs as a table: what the curves show, for people and screen readers alike.

import { percent, weight } from "../charts/format";
import { metricValue } from "../charts/score";
import { DataTable } from "../explorer/data-table";
import { useView } from "./view";

export function History() {
  const { state } = useView();
  const metric = state.metric.value;
  const { at, loss, train, test, lr, sparsity } = state.curves.value;
  const score = (x: number | null) => (x === null ? "–" : metricValue(metric, x));
  const rows = at.map((epoch, i) => [
    String(epoch),
    loss[i]?.toFixed(4) ?? "–",
    score(train[i]),
    score(test[i]),
    lr[i] === null ? "–" : weight(lr[i]),
    percent(sparsity[i] ?? 0, 1),
  ]);
  return (
    <div class="sw-run-table sw-table-scroll">
      <DataTable
        head={["epoch", "loss", `${metric.name}, training`, `${metric.name}, test`, "rate", "pruned"]}
        rows={rows.reverse()}
        testid="epochs"
      />
    </div>
  );
}
