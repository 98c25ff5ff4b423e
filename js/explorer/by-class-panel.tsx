// What a recipe gets wrong that the dense model got right: change by class, confusions, and the misread images.

import { useEffect, useRef } from "preact/hooks";
import { count, percent } from "../charts/number-format";
import { DataTable } from "../ui/data-table";
import { Toggle } from "../ui/inputs";
import { useUnique } from "../ui/size-and-drawing-hooks";
import { type ClassChange, changes, changeText, drawn, summary } from "./by-class";
import type { State } from "./explorer-state";
import type { ByClass, MisreadImage } from "./host-interface";
import { COVERED } from "./predict-before-score";
import { toggled, useView } from "./view-state";

const CONFUSIONS = 10;

/** A line that says what suffered, which unfolds; not there where nothing is sorted into classes. */
export function ByClassPanel() {
  const { state, tables } = useView();
  const id = useUnique();
  const found = state.byClass.value;
  if (!state.metric.value.has_data || (found && found.classes.length === 0 && found.only_classes)) return null;
  const open = state.page.value.classes ?? false;
  const table = tables.value.has("classes");
  return (
    <section class="sw-classes" aria-label="By class" data-stale={found !== null && !state.byClassIsCurrent.value}>
      <header class="sw-heading">
        <h3>By class</h3>
        <span class="sw-caption" data-testid="classes-summary" title={words(state)}>
          {words(state)}
        </span>
        <span class="sw-tools">
          {open && found && found.classes.length > 0 && (
            <Toggle
              pressed={table}
              toggle={() => {
                tables.value = toggled(tables.value, "classes");
              }}
              title="all classes as a table"
              testid="classes-table"
            >
              as table
            </Toggle>
          )}
          <button
            type="button"
            class="sw-link"
            aria-expanded={open}
            aria-controls={id}
            data-testid="classes"
            onClick={() => state.remember({ classes: !open })}
          >
            {open ? "hide" : "show"}
          </button>
        </span>
      </header>
      <div id={id} class="sw-classes-body" hidden={!open} data-testid="classes-body">
        {open && found && (
          <>
            {table ? <ClassTable found={found} /> : <Changes found={found} />}
            <Confusions found={found} />
            <Images found={found} />
          </>
        )}
        {open && !found && <p class="sw-hint">{words(state)}</p>}
      </div>
    </section>
  );
}

/** What the line says: a summary, or what it waits for. */
function words(state: State): string {
  const found = state.byClass.value;
  const dense = state.baseline.value?.recipe === state.recipeText.value && !state.result.value;
  if (found && state.byClassIsCurrent.value) return summary(found);
  if (dense && !state.recalibrate.value) return "this is the dense model: move a slider to see what suffers";
  if (state.covered.value) return COVERED;
  if (!state.kernel) return "not evaluated: needs the kernel";
  if (state.unsketched.value) return "not known: not all layers could be sketched";
  return state.shownScore.value?.state === "failed" ? "not known: the evaluation failed" : "follows with the score";
}

function Changes({ found }: { found: ByClass }) {
  const all = changes(found);
  const shown = drawn(all);
  const left = all.filter((one) => one.n > 0).length - shown.length;
  return (
    <div class="sw-class-changes">
      <h4>right answers, dense → now</h4>
      <ul data-testid="class-changes">
        {shown.map((one) => (
          <Change key={one.label} one={one} />
        ))}
      </ul>
      {left > 0 && <p class="sw-hint">the {shown.length} that fell furthest; the table has all</p>}
    </div>
  );
}

function Change({ one }: { one: ClassChange }) {
  const title = `class ${one.label}: ${changeText(one)} of ${count(one.n)} examples, predicted ${count(one.predicted[1])} times`;
  return (
    <li title={title} data-lost={one.lost} data-testid={`class-${one.label}`}>
      <span class="sw-class-name">{one.label}</span>
      <span class="sw-class-track" aria-hidden="true">
        <i style={{ width: `${100 * one.after}%` }} />
        <b style={{ left: `${100 * one.before}%` }} />
      </span>
      <span class="sw-class-text">
        {changeText(one)}
        {one.lost && <em> lost</em>}
      </span>
    </li>
  );
}

function ClassTable({ found }: { found: ByClass }) {
  const rows = changes(found).map((one) => [
    one.label,
    count(one.n),
    one.n > 0 ? percent(one.before, 1) : "–",
    one.n > 0 ? percent(one.after, 1) : "–",
    count(one.predicted[0]),
    count(one.predicted[1]),
  ]);
  const head = ["class", "examples", "dense", "now", "predicted, dense", "predicted, now"];
  return (
    <div class="sw-table-scroll">
      <DataTable head={head} rows={rows} testid="class-rows" />
    </div>
  );
}

function Confusions({ found }: { found: ByClass }) {
  if (found.only_classes) return <p class="sw-hint">{found.only_classes}</p>;
  const shown = found.confusions.slice(0, CONFUSIONS);
  return (
    <div class="sw-confusions">
      <h4>read as</h4>
      {shown.length === 0 && <p class="sw-hint">nothing is misread</p>}
      <ul data-testid="confusions">
        {shown.map(([label, predicted, before, after]) => (
          <li
            key={`${label} ${predicted}`}
            title={`class ${label} read as ${predicted}: ${count(before)} times by the dense model, ${count(after)} now`}
          >
            <span>
              {label} → {predicted}
            </span>
            <b>{count(after)}×</b>
            {before > 0 && <span class="sw-before">{count(before)}× before</span>}
          </li>
        ))}
      </ul>
    </div>
  );
}

function Images({ found }: { found: ByClass }) {
  if (found.images.length === 0) return null;
  const more = found.misread > found.images.length ? `${found.images.length} of ${count(found.misread)}` : "all";
  return (
    <div class="sw-misread">
      <h4>misread images, {more}</h4>
      <ul data-testid="misread">
        {found.images.map((image) => (
          <li
            key={image.example}
            title={`example ${image.example}: class ${image.label}, read as ${image.predicted}`}
            data-example={image.example}
          >
            <Picture image={image} />
            <span>
              {image.label} → {image.predicted}
            </span>
          </li>
        ))}
      </ul>
    </div>
  );
}

/** The side of a picture on the page in pixels. */
const SIDE = 40;

function Picture({ image }: { image: MisreadImage }) {
  const { width, height } = image;
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    canvas.current?.getContext("2d")?.putImageData(pixelsOf(image), 0, 0);
  }, [image]);
  const scale = SIDE / Math.max(width, height);
  return (
    // biome-ignore lint/a11y/noAriaHiddenOnFocusable: a canvas takes no focus; its words stand below it
    <canvas
      ref={canvas}
      width={width}
      height={height}
      style={{ width: `${width * scale}px`, height: `${height * scale}px` }}
      aria-hidden="true"
    />
  );
}

/** The bytes of a picture, grey or in color, as a canvas takes them. */
function pixelsOf({ width, height, channels, pixels }: MisreadImage): ImageData {
  const bytes = atob(pixels);
  const data = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) data.data[4 * i + c] = bytes.charCodeAt(i * channels + (channels === 1 ? 0 : c));
    data.data[4 * i + 3] = 255;
  }
  return data;
}
