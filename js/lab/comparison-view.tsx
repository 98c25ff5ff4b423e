// Two checkpoints side by side in a tab: what changed in each tensor, and what only one of them has.

import { useSignal } from "@preact/signals";
import { render } from "preact";
import { count, share } from "../charts/number-format";
import { watchTheme } from "../charts/theme";
import { DataTable } from "../ui/data-table";
import type { Translate } from "./checkpoint-view";
import { type Comparison, type ComparisonClient, type SortKey, sortedRows, type TensorRow } from "./comparison-client";
import { LOST } from "./sketch-client";
import { lostWords } from "./weights-view";

/** So many rows are in the page; those of the greatest changes come first. */
const MOST_ROWS = 400;
const [WIDTH, HEIGHT] = [120, 18];

export interface ComparisonOptions {
  translate: Translate;
  /** Bytes in the unit that the user has chosen. */
  bytes: (value: number) => string;
  close: () => void;
}

/** Show a comparison at the top of `element`; returns what takes it away again. */
export function mountComparison(
  element: HTMLElement,
  client: ComparisonClient,
  options: ComparisonOptions,
): () => void {
  const root = document.createElement("div");
  element.prepend(root);
  root.className = "sw-explorer sw-weights sw-comparison";
  root.dataset.lmSuppressShortcuts = "true";
  const unwatch = watchTheme(root, () => {});
  render(<ComparisonView client={client} options={options} />, root);
  return () => {
    client.dispose();
    unwatch();
    render(null, root);
    root.remove();
  };
}

function ComparisonView({ client, options }: { client: ComparisonClient; options: ComparisonOptions }) {
  const { translate: t } = options;
  const found = client.found.value;
  const sort = useSignal<{ key: SortKey; down: boolean }>({ key: "change", down: true });
  const rows = sortedRows(found.rows, sort.value.key, sort.value.down);
  const sortBy = (key: SortKey) => {
    sort.value = { key, down: sort.value.key === key ? !sort.value.down : key !== "name" };
  };
  const columns: [SortKey | null, string, string][] = [
    ["name", t("tensor"), ""],
    [null, t("shape"), ""],
    [null, t("dtype"), ""],
    ["change", t("change"), t("‖a − b‖ / ‖a‖")],
    ["changed", t("changed"), t("the share of elements that differ")],
    ["zeros", t("zeros"), t("the share of zeros, before and after")],
    [null, t("distribution"), t("outline: before; filled: after")],
  ];
  return (
    <section aria-label={t("Comparison")} data-testid="comparison" data-phase={found.phase}>
      <div class="sw-weights-line">
        {found.phase === "running" && (
          <progress aria-label={t("Compared")} value={found.total ? found.bytes / found.total : undefined} />
        )}
        <span role={found.phase === "failed" ? "alert" : "status"} data-testid="comparison-status">
          {words(found, options)}
        </span>
        <button type="button" class="sw-button" onClick={options.close}>
          {found.phase === "running" ? t("Cancel") : t("Close")}
        </button>
      </div>
      {rows.length > 0 && (
        <div class="sw-comparison-rows">
          <table class="sw-table" data-testid="comparison-table">
            <thead>
              <tr>
                {columns.map(([key, label, title]) => (
                  <th key={label} scope="col" title={title} aria-sort={key ? order(sort.value, key) : undefined}>
                    {key ? (
                      <button type="button" class="sw-link" onClick={() => sortBy(key)}>
                        {label}
                      </button>
                    ) : (
                      label
                    )}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {rows.slice(0, MOST_ROWS).map((row) => (
                <ChangeRow key={row.name} row={row} t={t} />
              ))}
            </tbody>
          </table>
        </div>
      )}
      {rows.length > MOST_ROWS && <p class="sw-hint">{t("%1 more tensors follow.", count(rows.length - MOST_ROWS))}</p>}
      <OnlyInOne found={found} t={t} />
    </section>
  );
}

function order(sort: { key: SortKey; down: boolean }, key: SortKey): "ascending" | "descending" | "none" {
  return sort.key !== key ? "none" : sort.down ? "descending" : "ascending";
}

function words(found: Comparison, { translate: t, bytes }: ComparisonOptions): string {
  if (found.phase === "failed") return found.message === LOST ? lostWords(t) : found.message;
  if (found.place > 0) return t("Waits for other checkpoints: number %1 in the queue.", count(found.place));
  if (!found.titles[0]) return t("Begins to read.");
  const what = t("%1 (a) against %2 (b)", ...found.titles);
  if (found.phase === "running") return `${what} · ${t("%1 of %2 read", bytes(found.bytes), bytes(found.total))}`;
  const same = found.rows.filter((row) => row.found?.changed === 0).length;
  return `${what} · ${t("%1 of %2 tensors are the same", count(same), count(found.rows.length))}`;
}

function ChangeRow({ row: { name, shape, dtypes, found, message }, t }: { row: TensorRow; t: Translate }) {
  const part = (some: number) => share(some / Math.max(found?.n ?? 1, 1));
  const dtype = dtypes[0] === dtypes[1] ? dtypes[0] : dtypes.join(" → ");
  return (
    <tr data-testid="comparison-row">
      <th scope="row">
        <bdi>{name}</bdi>
      </th>
      <td>[{shape.join(", ")}]</td>
      <td>{dtype}</td>
      {found ? (
        <>
          <td data-change={found.change}>{changeText(found.change, t)}</td>
          <td>{part(found.changed)}</td>
          <td>
            {part(found.zeros[0])} → {part(found.zeros[1])}
          </td>
          <td>
            <Distributions counts={found.counts} />
          </td>
        </>
      ) : (
        <td colSpan={4} class="sw-words">
          {message}
        </td>
      )}
    </tr>
  );
}

/** A relative change to three digits; ∞ for what was all zero. */
function changeText(change: number, t: Translate): string {
  if (Number.isNaN(change)) return t("not finite");
  if (change === Number.POSITIVE_INFINITY) return "∞";
  return change === 0 ? "0" : change < 1e-3 || change >= 1e4 ? change.toExponential(1) : change.toPrecision(3);
}

/** One distribution over the other, each as high as its fullest bin but zero's, in which a pruned one would drown. */
function Distributions({ counts: [before, after] }: { counts: readonly [readonly number[], readonly number[]] }) {
  const middle = before.length >> 1;
  const top = Math.max(1, ...[...before, ...after].filter((_, i) => i % before.length !== middle));
  const step = WIDTH / before.length;
  const line = (counts: readonly number[]) =>
    counts.map((n, i) => `${(i + 0.5) * step},${HEIGHT - 1 - (HEIGHT - 2) * Math.min(1, n / top)}`).join(" ");
  return (
    <svg class="sw-comparison-plot" width={WIDTH} height={HEIGHT} aria-hidden="true">
      <polygon points={`0,${HEIGHT} ${line(after)} ${WIDTH},${HEIGHT}`} />
      <polyline points={line(before)} />
    </svg>
  );
}

function OnlyInOne({ found, t }: { found: Comparison; t: Translate }) {
  const { only, titles, reshaped } = found;
  const rows = [
    ...reshaped.map(([name, a, b]) => [name, t("shape [%1] became [%2]", a.join(", "), b.join(", "))]),
    ...only.flatMap((names, i) => names.map((name) => [name, t("only in %1", titles[i])])),
  ];
  if (rows.length === 0) return null;
  const shown = rows.slice(0, MOST_ROWS).map(([name, why]) => [<bdi key={name}>{name}</bdi>, why]);
  return (
    <details class="sw-comparison-only">
      <summary>{t("%1 tensors cannot be compared", count(rows.length))}</summary>
      <DataTable head={[t("tensor"), t("why")]} rows={shown} words={1} testid="comparison-only" />
    </details>
  );
}
