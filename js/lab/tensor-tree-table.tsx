// The tensors of a checkpoint as a table that is a tree: of its rows only those in sight are in the page.
//
// Its keys are those of the treegrid pattern of WAI-ARIA. The focus stays on the table, which names the active row:
// a row that is scrolled out of sight is no longer in the page, and would take the focus with it.

import { type Signal, useSignal } from "@preact/signals";
import { useId, useLayoutEffect, useRef } from "preact/hooks";
import { visibleRows } from "../charts/layer-tree-rows";
import { count, share } from "../charts/number-format";
import type { CheckpointTable } from "./checkpoint-table";
import type { Node, Row, Sort, SortKey } from "./checkpoint-tree-and-search";
import type { Translate } from "./checkpoint-view";

/** Height of a row, and of the head, in pixels, as models-panel-and-checkpoint.css has it. */
const ROW = 24;
/** Rows above and below those in sight, so that a fast scroll shows no gap. */
const SPARE = 12;

interface Props {
  table: CheckpointTable;
  rows: readonly Row[];
  /** Bytes of all tensors. */
  total: number;
  otherNames: ReadonlyMap<string, readonly string[]>;
  /** Key of the active row (`keyOf`), or null. */
  active: Signal<string | null>;
  sort: Signal<Sort>;
  t: Translate;
  bytes: (value: number) => string;
  toggle: (row: Row) => void;
  copy: () => void;
}

/** What tells a row from all others: a tensor may be called as a module is. */
export const keyOf = (node: Node) => `${node.tensor} ${node.path}`;

export function TensorTreeTable(props: Props) {
  const { table, rows, total, otherNames, active, t, bytes, toggle, copy } = props;
  const scroller = useRef<HTMLDivElement>(null);
  const id = useId();
  const seen = useSignal({ top: 0, height: 600 });
  useLayoutEffect(() => {
    const element = scroller.current!;
    const look = () => {
      seen.value = { top: element.scrollTop, height: element.clientHeight };
    };
    const observer = new ResizeObserver(look);
    observer.observe(element);
    element.addEventListener("scroll", look, { passive: true });
    return () => {
      observer.disconnect();
      element.removeEventListener("scroll", look);
    };
  }, []);
  const { top, height } = seen.value;
  const { first, end } = visibleRows(top - SPARE * ROW, height + 2 * SPARE * ROW, ROW, rows.length);
  const at = rows.findIndex((row) => keyOf(row.node) === active.value);

  const moveTo = (index: number) => {
    const to = Math.max(0, Math.min(rows.length - 1, index));
    active.value = keyOf(rows[to].node);
    const element = scroller.current!;
    const highest = (to + 2) * ROW - element.clientHeight; // the row below the head, which covers one
    element.scrollTop = Math.max(highest, Math.min(to * ROW, element.scrollTop));
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (rows.length === 0) return;
    const row = rows[at];
    const page = Math.max(1, Math.floor(height / ROW) - 2);
    const isModule = row !== undefined && row.node.tensor < 0;
    const parent = () => rows.findLastIndex((other, i) => i < at && other.depth < row.depth);
    const actions: Record<string, () => void> = {
      ArrowDown: () => moveTo(at + 1),
      ArrowUp: () => moveTo(at - 1),
      PageDown: () => moveTo(at + page),
      PageUp: () => moveTo(at - page),
      Home: () => moveTo(0),
      End: () => moveTo(rows.length - 1),
      ArrowRight: () => isModule && (row.open ? moveTo(at + 1) : toggle(row)),
      ArrowLeft: () => (isModule && row.open ? toggle(row) : at >= 0 && moveTo(parent())),
      Enter: () => isModule && toggle(row),
      " ": () => isModule && toggle(row),
    };
    const copies = event.key === "c" && (event.ctrlKey || event.metaKey) && document.getSelection()?.isCollapsed;
    const action = copies ? copy : event.ctrlKey || event.metaKey || event.altKey ? undefined : actions[event.key];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  };
  return (
    <div class="sw-checkpoint-tree" ref={scroller} data-testid="checkpoint-tree">
      <table
        // biome-ignore lint/a11y/noNoninteractiveElementToInteractiveRole: a treegrid is a table with keys
        role="treegrid"
        aria-label={t("Tensors")}
        aria-rowcount={rows.length + 1}
        aria-activedescendant={at >= first && at < end ? `${id}-${at}` : undefined}
        tabIndex={0}
        onKeyDown={onKeyDown}
        onFocus={() => at < 0 && rows.length > 0 && moveTo(first)}
      >
        <Head sort={props.sort} t={t} />
        <tbody>
          {first > 0 && <tr style={{ height: `${first * ROW}px` }} />}
          {rows.slice(first, end).map((row, i) => {
            const { node } = row;
            const isTensor = node.tensor >= 0;
            const others = isTensor ? (otherNames.get(node.path) ?? []) : [];
            return (
              <tr
                key={keyOf(node)}
                id={`${id}-${first + i}`}
                aria-level={row.depth + 1}
                aria-rowindex={first + i + 2}
                aria-selected={first + i === at}
                aria-expanded={isTensor ? undefined : row.open}
                title={[node.path, ...others].join("\n= ")}
                data-testid="checkpoint-row"
                onClick={() => {
                  moveTo(first + i);
                  if (!isTensor) toggle(row);
                }}
              >
                <th scope="row" style={{ paddingLeft: `${8 + 16 * row.depth}px` }}>
                  <span class="sw-checkpoint-arrow" aria-hidden="true">
                    {isTensor ? "" : row.open ? "▾" : "▸"}
                  </span>
                  <bdi>{node.name}</bdi>
                  {node.times > 1 && <span class="sw-checkpoint-note">×{node.times}</span>}
                  {others.length > 0 && <bdi class="sw-checkpoint-note">= {others.join(" = ")}</bdi>}
                </th>
                <td>{isTensor ? `[${table.tensors.shape[node.tensor].join(", ")}]` : ""}</td>
                <td>{node.dtypes.join(", ")}</td>
                <td>{count(node.parameters)}</td>
                <td title={`${count(node.bytes)} B`}>{bytes(node.bytes)}</td>
                <td>{share(node.bytes / Math.max(total, 1))}</td>
              </tr>
            );
          })}
          {end < rows.length && <tr style={{ height: `${(rows.length - end) * ROW}px` }} />}
        </tbody>
      </table>
      {rows.length === 0 && <p class="sw-checkpoint-none">{t("No tensor has these words in its name.")}</p>}
    </div>
  );
}

/** A click on a column's title sorts by it, a second one the other way round, a third brings back the file's order. */
function Head({ sort, t }: { sort: Signal<Sort>; t: Translate }) {
  const columns: [string, SortKey | null][] = [
    [t("name"), "name"],
    [t("shape"), null],
    [t("dtype"), null],
    [t("parameters"), "parameters"],
    [t("bytes"), "bytes"],
    [t("share"), null],
  ];
  const next = (by: SortKey) => {
    const largestFirst = by !== "name";
    if (sort.value?.by !== by) sort.value = { by, descending: largestFirst };
    else sort.value = sort.value.descending === largestFirst ? { by, descending: !largestFirst } : null;
  };
  return (
    <thead>
      <tr>
        {columns.map(([title, by]) => {
          const sorted = by !== null && sort.value?.by === by ? sort.value : null;
          const order = sorted && (sorted.descending ? "descending" : "ascending");
          return (
            <th key={title} scope="col" aria-sort={order ?? undefined}>
              {by === null ? (
                title
              ) : (
                <button type="button" title={t("Sort by %1", title)} onClick={() => next(by)}>
                  {title}
                  <span aria-hidden="true">{sorted ? (sorted.descending ? " ↓" : " ↑") : ""}</span>
                </button>
              )}
            </th>
          );
        })}
      </tr>
    </thead>
  );
}
