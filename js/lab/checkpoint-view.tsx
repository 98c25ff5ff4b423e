// What a checkpoint's tab shows: totals, the tree of its tensors, metadata; or in one sentence why it cannot be read.

import { useSignal } from "@preact/signals";
import { type ComponentChildren, render } from "preact";
import { useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { visibleRows } from "../charts/layer-tree-rows";
import { bytes, count, share, short } from "../charts/number-format";
import { watchTheme } from "../charts/theme";
import { DataTable } from "../ui/data-table";
import type { CheckpointTable } from "./checkpoint-table";
import { buildTree, foundRows, type Row, type SortKey, treeRows } from "./checkpoint-tree";

/** Height of a row in pixels, as checkpoint.css has it: only rows in sight are in the page. */
const ROW = 24;

/** A text of the page in the user's language, with values in the places of %1, %2, … */
type Translate = (text: string, ...values: string[]) => string;

export interface Actions {
  translate: Translate;
  copy: (tensor: string | null) => void;
  /** Null where a notebook cannot open the file. */
  openInNotebook: (() => void) | null;
}

/** Show a table, or what is wrong, in `element`; returns what takes it away again. */
export function mountTable(element: HTMLElement, table: CheckpointTable, actions: Actions): () => void {
  return mount(element, <Checkpoint table={table} actions={actions} />);
}

export function mountFailure(element: HTMLElement, message: string, again: string, retry: () => void): () => void {
  const button = (
    <button type="button" class="sw-button" onClick={retry}>
      {again}
    </button>
  );
  return mount(
    element,
    <div class="sw-checkpoint-failed" role="alert" data-testid="checkpoint-failed">
      <p>{message}</p>
      {button}
    </div>,
  );
}

function mount(element: HTMLElement, content: ComponentChildren): () => void {
  const root = element.appendChild(document.createElement("div"));
  root.className = "sw-explorer sw-checkpoint";
  root.dataset.lmSuppressShortcuts = "true";
  const unwatch = watchTheme(root, () => {});
  render(content, root);
  return () => {
    unwatch();
    render(null, root);
    root.remove();
  };
}

function Checkpoint({ table, actions }: { table: CheckpointTable; actions: Actions }) {
  const t = actions.translate;
  const root = useMemo(() => buildTree(table), [table]);
  const query = useSignal("");
  const sort = useSignal<SortKey>("file");
  const chosen = useSignal<string | null>(null);
  // a model usually is one module in another: what has one child only is opened with it
  const open = useSignal<ReadonlySet<string>>(useMemo(() => openAtFirst(root), [root]));
  const rows = query.value.trim() ? foundRows(table, query.value, sort.value) : treeRows(root, open.value, sort.value);
  const toggle = (row: Row) => {
    const next = new Set(open.value);
    if (!next.delete(row.node.path)) next.add(row.node.path);
    open.value = next;
  };
  const size = table.files.reduce((sum, file) => sum + file.bytes, 0);
  const facts = [
    t("%1 tensors", count(table.tensors.name.length)),
    t("%1 parameters", short(root.parameters)),
    bytes(size),
    table.files.length > 1 ? t("%1 files", count(table.files.length)) : "",
    { safetensors: "safetensors", gguf: "GGUF", shrinkwidget: t("packed by shrinkwidget") }[table.format],
  ];
  return (
    <>
      <header class="sw-checkpoint-head">
        <div>
          <h2>{table.title}</h2>
          <p class="sw-checkpoint-facts" data-testid="checkpoint-facts">
            {facts.filter(Boolean).join(" · ")}
          </p>
        </div>
        {actions.openInNotebook && (
          <button type="button" class="sw-button sw-primary" onClick={actions.openInNotebook}>
            {t("Open in notebook")}
          </button>
        )}
        <button type="button" class="sw-button" onClick={() => actions.copy(chosen.value)}>
          {t("Copy as Python")}
        </button>
      </header>
      <DataTable
        head={[t("dtype"), t("tensors"), t("parameters"), t("bytes"), t("share")]}
        rows={table.dtypes.map((total) => [
          total.dtype,
          count(total.tensors),
          count(total.parameters),
          bytes(total.bytes),
          share(total.bytes / Math.max(root.bytes, 1)),
        ])}
        testid="checkpoint-dtypes"
      />
      <Metadata table={table} t={t} />
      <div class="sw-checkpoint-tools">
        <input
          type="search"
          aria-label={t("Search tensors by name or dtype")}
          placeholder={t("Search tensors")}
          value={query.value}
          onInput={(event) => {
            query.value = event.currentTarget.value;
          }}
        />
        <label>
          {t("Sort by")}{" "}
          <select
            value={sort.value}
            onChange={(event) => {
              sort.value = event.currentTarget.value as SortKey;
            }}
          >
            <option value="file">{t("order in the file")}</option>
            <option value="name">{t("name")}</option>
            <option value="bytes">{t("bytes")}</option>
          </select>
        </label>
      </div>
      <Tree table={table} rows={rows} total={root.bytes} t={t} chosen={chosen} toggle={toggle} />
    </>
  );
}

function openAtFirst(root: ReturnType<typeof buildTree>): ReadonlySet<string> {
  const open = new Set<string>();
  for (let node = root; node.children.length === 1 && node.children[0].tensor < 0; ) {
    node = node.children[0];
    open.add(node.path);
  }
  return open;
}

interface TreeProps {
  table: CheckpointTable;
  rows: Row[];
  total: number;
  t: Translate;
  chosen: { value: string | null };
  toggle: (row: Row) => void;
}

function Tree({ table, rows, total, t, chosen, toggle }: TreeProps) {
  const scroller = useRef<HTMLDivElement>(null);
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
  const { first, end } = visibleRows(seen.value.top, seen.value.height, ROW, rows.length);
  const activate = (row: Row) => {
    if (row.node.tensor < 0) toggle(row);
    else chosen.value = row.node.path;
  };
  return (
    <div class="sw-checkpoint-tree" ref={scroller} data-testid="checkpoint-tree">
      <table aria-rowcount={rows.length + 1}>
        <thead>
          <tr>
            {["name", "shape", "dtype", "bytes", "share"].map((title) => (
              <th key={title} scope="col">
                {t(title)}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {first > 0 && <tr style={{ height: `${first * ROW}px` }} />}
          {rows.slice(first, end).map((row, i) => {
            const { node } = row;
            const leaf = node.tensor >= 0;
            return (
              <tr
                key={`${node.path} ${node.tensor}`}
                aria-rowindex={first + i + 2}
                aria-selected={leaf ? chosen.value === node.path : undefined}
                data-testid="checkpoint-row"
              >
                <th scope="row" style={{ paddingLeft: `${8 + 16 * row.depth}px` }}>
                  <button
                    type="button"
                    aria-expanded={leaf ? undefined : row.open}
                    onClick={() => activate(row)}
                    title={node.path}
                  >
                    <span class="sw-checkpoint-arrow" aria-hidden="true">
                      {leaf ? "" : row.open ? "▾" : "▸"}
                    </span>
                    <bdi>{node.name}</bdi>
                    {node.times > 1 && <span class="sw-checkpoint-times">×{node.times}</span>}
                  </button>
                </th>
                <td>{leaf ? `[${table.tensors.shape[node.tensor].join(", ")}]` : ""}</td>
                <td>{leaf ? table.tensors.dtype[node.tensor] : ""}</td>
                <td title={`${count(node.bytes)} B`}>{bytes(node.bytes)}</td>
                <td>{share(node.bytes / Math.max(total, 1))}</td>
              </tr>
            );
          })}
          {end < rows.length && <tr style={{ height: `${(rows.length - end) * ROW}px` }} />}
        </tbody>
      </table>
      {rows.length === 0 && <p class="sw-checkpoint-none">{t("No tensor is called so.")}</p>}
    </div>
  );
}

function Metadata({ table, t }: { table: CheckpointTable; t: Translate }) {
  const entries: [string, string][] = Object.entries(table.metadata).map(([key, value]) => [key, words(value)]);
  if (table.packed) {
    entries.unshift([t("recipe"), table.packed.recipe]);
    for (const [name, size] of Object.entries(table.packed.sections)) entries.push([name, bytes(size)]);
  }
  for (const [name, other] of table.tied) entries.push([name, t("tied to %1", other)]);
  if (entries.length === 0) return null;
  return (
    <details class="sw-checkpoint-metadata" data-testid="checkpoint-metadata">
      <summary>{t("Metadata (%1)", count(entries.length))}</summary>
      <dl>
        {entries.map(([key, value]) => (
          <div key={key}>
            <dt>
              <bdi>{key}</bdi>
            </dt>
            <dd>
              <bdi>{value}</bdi>
            </dd>
          </div>
        ))}
      </dl>
    </details>
  );
}

/** A metadata value as text; of an array how long it is, and how it begins. */
function words(value: unknown): string {
  if (typeof value === "object" && value !== null && "array" in value) {
    const { array, length, first } = value as { array: string; length: number; first: unknown[] };
    const more = length > first.length ? ", …" : "";
    return `${count(length)} × ${array}: ${first.map(words).join(", ")}${more}`;
  }
  return String(value);
}
