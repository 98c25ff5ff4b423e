// What a checkpoint's tab shows: totals, metadata, the tree of its tensors; or in one sentence why it cannot be read.

import { useSignal, useSignalEffect } from "@preact/signals";
import { type ComponentChildren, render } from "preact";
import { useMemo } from "preact/hooks";
import { count, share, short, times } from "../charts/number-format";
import { watchTheme } from "../charts/theme";
import { sum } from "../core/search-round-and-sum";
import { recipeLabel } from "../explorer/recipe-label";
import { DataTable } from "../ui/data-table";
import type { CheckpointTable } from "./checkpoint-table";
import {
  buildTree,
  foundRows,
  modulePaths,
  type Node,
  otherNames,
  type Row,
  type Sort,
  searchTexts,
  treeRows,
} from "./checkpoint-tree-and-search";
import type { TabMemory } from "./restore-tab-state";
import { keyOf, TensorTreeTable } from "./tensor-tree-table";

/** So many open modules are remembered over a reload, and no more: the browser's storage has a few MB. */
const MOST_REMEMBERED = 5000;

/** A text of the page in the user's language, with values in the places of %1, %2, … */
export type Translate = (text: string, ...values: string[]) => string;

export interface ViewActions {
  translate: Translate;
  /** Bytes in the unit that the user has chosen. */
  bytes: (value: number) => string;
  memory: TabMemory;
  /** Copy the Python that reads a tensor, by its index, or without one opens the file. */
  copy: (tensor: number | null) => void;
  openInNotebook: () => void;
}

export interface Button {
  label: string;
  onClick: () => void;
}

/** Show a table in `element`; returns what takes it away again. */
export function mountTable(element: HTMLElement, table: CheckpointTable, actions: ViewActions): () => void {
  return mount(element, <Checkpoint table={table} actions={actions} />);
}

/** Show what is wrong, and buttons for what can be done about it. */
export function mountFailure(element: HTMLElement, message: string, buttons: readonly Button[]): () => void {
  return mount(
    element,
    <div class="sw-checkpoint-failed" role="alert" data-testid="checkpoint-failed">
      <p>{message}</p>
      {buttons.map(({ label, onClick }) => (
        <button key={label} type="button" class="sw-button" onClick={onClick}>
          {label}
        </button>
      ))}
    </div>,
  );
}

function mount(element: HTMLElement, content: ComponentChildren): () => void {
  const root = element.appendChild(document.createElement("div"));
  root.className = "sw-explorer sw-checkpoint";
  const unwatch = watchTheme(root, () => {});
  render(content, root);
  return () => {
    unwatch();
    render(null, root);
    root.remove();
  };
}

function Checkpoint({ table, actions }: { table: CheckpointTable; actions: ViewActions }) {
  const { translate: t, bytes } = actions;
  const root = useMemo(() => buildTree(table), [table]);
  const texts = useMemo(() => searchTexts(table), [table]);
  const others = useMemo(() => otherNames(table), [table]);
  const before = useMemo(() => actions.memory.get(), []);
  const query = useSignal(before.query ?? "");
  const sort = useSignal<Sort>(before.sort ?? null);
  const active = useSignal<string | null>(null);
  const open = useSignal<ReadonlySet<string>>(
    useMemo(() => (before.open ? new Set(before.open) : openAtFirst(root)), [root]),
  );
  useSignalEffect(() => {
    const remembered = open.value.size <= MOST_REMEMBERED ? [...open.value] : [];
    actions.memory.set({ query: query.value, sort: sort.value, open: remembered });
  });
  const copied = useSignal(false);
  const searched = query.value.trim() !== "";
  const rows = useMemo(
    () => (searched ? foundRows(table, texts, query.value, sort.value) : treeRows(root, open.value, sort.value)),
    [table, query.value, open.value, sort.value],
  );
  const toggle = (row: Row) => {
    const next = new Set(open.value);
    if (!next.delete(row.node.path)) next.add(row.node.path);
    open.value = next;
  };
  const copy = () => {
    const row = rows.find(({ node }) => keyOf(node) === active.value);
    actions.copy(row && row.node.tensor >= 0 ? row.node.tensor : null);
    copied.value = true;
    setTimeout(() => {
      copied.value = false;
    }, 2000);
  };
  return (
    <>
      <header class="sw-checkpoint-head">
        <div>
          <h2>{table.title}</h2>
          <Facts table={table} root={root} actions={actions} />
        </div>
        <button type="button" class="sw-button sw-primary" onClick={actions.openInNotebook}>
          {t("Open in notebook")}
        </button>
        <button
          type="button"
          class="sw-button"
          title={t("Copy the code that reads the selected tensor, or opens the file")}
          onClick={copy}
        >
          <span aria-live="polite">{copied.value ? t("Copied") : t("Copy as Python")}</span>
        </button>
      </header>
      <div class="sw-checkpoint-totals">
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
        {table.packed && (
          <DataTable
            head={[t("in the file"), t("bytes")]}
            rows={fileParts(table, table.packed.sections).map(([name, size]) => [name, bytes(size)])}
            testid="checkpoint-sections"
          />
        )}
      </div>
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
        {searched && <span role="status">{t("%1 found", count(rows.length))}</span>}
        <button
          type="button"
          class="sw-link"
          disabled={searched}
          onClick={() => {
            open.value = new Set(modulePaths(root));
          }}
        >
          {t("Expand all")}
        </button>
        <button
          type="button"
          class="sw-link"
          disabled={searched}
          onClick={() => {
            open.value = new Set();
          }}
        >
          {t("Collapse all")}
        </button>
      </div>
      <TensorTreeTable
        table={table}
        rows={rows}
        total={root.bytes}
        otherNames={others}
        active={active}
        sort={sort}
        t={t}
        bytes={bytes}
        toggle={toggle}
        copy={copy}
      />
    </>
  );
}

/** A model usually is one module in another: what has one child only is opened with it. */
function openAtFirst(root: Node): ReadonlySet<string> {
  const open = new Set<string>();
  for (let node = root; node.children.length === 1 && node.children[0].tensor < 0; ) {
    node = node.children[0];
    open.add(node.path);
  }
  return open;
}

function Facts({ table, root, actions }: { table: CheckpointTable; root: Node; actions: ViewActions }) {
  const { translate: t, bytes } = actions;
  const size = table.files.reduce((sum, file) => sum + file.bytes, 0);
  const tensors = table.tensors.name.length;
  const facts = [
    t(tensors === 1 ? "%1 tensor" : "%1 tensors", count(tensors)),
    t(root.parameters === 1 ? "%1 parameter" : "%1 parameters", short(root.parameters)),
    bytes(size),
    table.files.length > 1 ? t("%1 files", count(table.files.length)) : "",
    { safetensors: "safetensors", gguf: "GGUF", shrinkwidget: t("packed by shrinkwidget") }[table.format],
  ];
  if (table.packed) {
    facts.push(readableRecipe(table.packed.recipe));
    if (table.packed.entropy) facts.push(t("entropy-coded"));
    facts.push(t("unpacked %1, %2 larger", bytes(root.bytes), times(root.bytes / Math.max(size, 1))));
  }
  return (
    <p class="sw-checkpoint-facts" data-testid="checkpoint-facts">
      {facts.filter(Boolean).join(" · ")}
    </p>
  );
}

/** What a packed file is made of, to the byte: its sections, and the header before them. */
function fileParts(table: CheckpointTable, sections: Record<string, number>): [string, number][] {
  const parts = Object.entries(sections);
  const whole = sum(table.files.map((file) => file.bytes));
  return [...parts, ["header", whole - sum(parts.map(([, size]) => size))]];
}

/** A recipe in a few words; one that this version cannot read, as it stands in the file. */
function readableRecipe(text: string): string {
  try {
    return recipeLabel(text);
  } catch {
    return text;
  }
}

function Metadata({ table, t }: { table: CheckpointTable; t: Translate }) {
  const entries: [string, string][] = Object.entries(table.metadata).map(([key, value]) => [key, words(value)]);
  if (table.packed) entries.unshift([t("recipe"), table.packed.recipe]);
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
