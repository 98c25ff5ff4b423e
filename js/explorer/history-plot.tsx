// History: every evaluated recipe as a point, score against bytes; a click goes back.

import { useSignal } from "@preact/signals";
import { useMemo, useRef } from "preact/hooks";
import { placeLabel } from "../charts/fit-and-place-labels";
import { bytes, count } from "../charts/number-format";
import {
  byteDomain,
  type Frame,
  paretoFront,
  type Scales,
  scatterScales,
  valueDomain,
} from "../charts/scatter-scales-and-pareto-front";
import {
  directionWords,
  intervalText,
  metricTick,
  metricValue,
  predictionWords,
  scoreWords,
} from "../charts/score-format";
import { DataTable } from "../ui/data-table";
import { PLAIN } from "../ui/save-names";
import { useHeld, useSize } from "../ui/size-and-drawing-hooks";
import { hideTip, tipAt } from "../ui/tooltip";
import { isShown, predictionOf } from "./explorer-state";
import type { Visit } from "./host-interface";
import { Panel } from "./panel-with-table-toggle";
import { raceLines } from "./race-row";
import { overrideLines, recipeLabel } from "./recipe-label";
import { useView } from "./view-state";

const HEIGHT = 196;
/** Pixels at the left that the word "size" takes below the chart. */
const BESIDE_SIZE = 76;
/** The widest a letter of a tick gets: the last label moves inward rather than being cut. */
const TICK_LETTER = 7;

export function HistoryPlot() {
  const { state, tables } = useView();
  if (!state.metric.value.has_data) return null;
  return (
    <Panel name="history" title="History" table="history" tableTitle="the recipes you have tried as a table">
      {tables.value.has("history") ? <HistoryTable /> : <Scatter />}
    </Panel>
  );
}

/** What the axes and the shapes of the points mean: above the one, below the other. */
function Titles({ frame }: { frame: Frame }) {
  const { state } = useView();
  const metric = state.metric.value;
  return (
    <g class="sw-axis-text">
      <text y={10}>
        {metric.name}
        {!(metric.percent && metric.higher) && `, ${directionWords(metric)}`}
      </text>
      <text x={frame.left} y={HEIGHT - 3}>
        size
      </text>
      <Shapes right={frame.width} />
    </g>
  );
}

/** What shapes stand for, once there is more than one. */
function Shapes({ right }: { right: number }) {
  const { history } = useView().state;
  const there = KINDS.filter(({ path }) => history.value.some((visit) => shapeOf(visit) === path));
  if (there.length === 0 || (there.length === 1 && there[0].path === DISC)) return null;
  const places = shapePlaces(there, right);
  return (
    <g class="sw-shapes" data-testid="shapes">
      {there.map(({ path, words }, i) => {
        const { x, y } = places[i];
        return (
          <g key={words} transform={`translate(${x} ${y})`}>
            <path d={path} transform="translate(4 -4) scale(0.8)" />
            <text x={13}>{words}</text>
          </g>
        );
      })}
    </g>
  );
}

/** Where the shapes are explained: to the right below the chart, and of what has no room there, above it. */
function shapePlaces(there: readonly { width: number }[], right: number): { x: number; y: number }[] {
  const width = (some: readonly { width: number }[]) => some.reduce((sum, one) => sum + one.width, 0);
  let above = 0;
  while (width(there.slice(above)) > right - BESIDE_SIZE) above++;
  let [top, bottom] = [right - width(there.slice(0, above)), right - width(there.slice(above))];
  return there.map((one, i) => {
    const place = i < above ? { x: top, y: 10 } : { x: bottom, y: HEIGHT - 3 };
    if (i < above) top += one.width;
    else bottom += one.width;
    return place;
  });
}

/** A recipe as it is, with batch norm re-estimated, one that was recovered, and one that was retrained. */
const DISC = "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0Z";
const TRIANGLE = "M0-5.5L5.2 3.8L-5.2 3.8Z";
const SQUARE = "M-4-4H4V4H-4Z";
const DIAMOND = "M0-5.5L5.5 0L0 5.5L-5.5 0Z";

const KINDS = [
  { path: DISC, words: "not retrained", width: 97 },
  { path: TRIANGLE, words: "recalibrated", width: 91 },
  { path: SQUARE, words: "recovered", width: 73 },
  { path: DIAMOND, words: "retrained", width: 69 },
];

function shapeOf({ result, provenance, recalibrated, recovered }: Visit): string {
  if (recovered) return SQUARE;
  if (recalibrated) return TRIANGLE;
  return result || provenance !== PLAIN ? DIAMOND : DISC;
}

/** One point for each recipe and for each model that was retrained or recovered: its latest evaluation. */
function latest(history: readonly Visit[]): Visit[] {
  return [...new Map(history.map((visit) => [keyOf(visit), visit])).values()];
}

const keyOf = (visit: Visit) => `${visit.result ?? ""} ${visit.provenance} ${visit.recipe}`;

/** What was done to the weights, and, if more than that, how they were retrained. */
function visitWords({ recipe, provenance }: Visit): string {
  return provenance === PLAIN ? recipeLabel(recipe) : `${recipeLabel(recipe)}, ${provenance}`;
}

function Scatter() {
  const view = useView();
  const { state } = view;
  const [holder, { width }] = useSize<HTMLDivElement>({ width: 400, height: HEIGHT });
  const history = useHeld(state.history.value, state.dragging.value);
  const visits = useMemo(() => latest(history).filter((visit) => Number.isFinite(visit.value)), [history]);
  const predictions = state.predictions.value;
  const said = useMemo(
    () =>
      visits.flatMap((visit): [Visit, number][] => {
        const found = visit.result ? null : predictionOf(predictions, visit);
        return found ? [[visit, found.predicted]] : [];
      }),
    [visits, predictions],
  );
  const metric = state.metric.value;
  const baseline = state.baseline.value;
  const dense = state.sketch.value.original_nbytes;
  const label = (value: number) => metricTick(metric, value);
  const [frame, scales] = useMemo(() => {
    const all = [...visits, ...said.map(([visit, predicted]) => ({ ...visit, value: predicted }))];
    const values = valueDomain(all, baseline?.value ?? null, metric.percent);
    const bare: Frame = { width, height: HEIGHT, left: 0, right: 10, top: 28, bottom: 34 };
    const scaled = (fitted: Frame) => scatterScales(fitted, byteDomain(visits, dense), values);
    const longest = Math.max(...scaled(bare).yTicks.map((tick) => label(tick).length));
    const fitted = { ...bare, left: Math.max(44, 7 * longest + 9) };
    return [fitted, scaled(fitted)] as const;
  }, [visits, said, dense, baseline?.value, metric.percent, width]);
  const current = visits.find(
    (visit) => visit.recipe === state.recipeText.value && isShown(visit, state.result.value, state.recalibrate.value),
  );
  const front = (some: readonly Visit[]) => line(paretoFront(some, metric.higher === true), scales);
  return (
    <div ref={holder} class="sw-scatter">
      {/* biome-ignore lint/a11y/useSemanticElements: a fieldset cannot be drawn in */}
      <svg
        width={width}
        height={HEIGHT}
        role="group"
        aria-label={`${visits.length} recipes tried`}
        data-testid="scatter"
      >
        <Axes scales={scales} frame={frame} value={label} />
        <Titles frame={frame} />
        {baseline && baseline.n > 0 && <DenseLine y={scales.y(baseline.value)} frame={frame} />}
        {!state.sketching.value && <NowLine x={scales.x(state.figures.value.nbytes)} frame={frame} />}
        {metric.higher !== null && <path class="sw-front" d={front(visits.filter((visit) => !visit.recalibrated))} />}
        {metric.higher !== null && visits.some((visit) => visit.recalibrated) && (
          <path class="sw-front sw-front-recalibrated" d={front(visits.filter((visit) => visit.recalibrated))} />
        )}
        <Predicted said={said} scales={scales} />
        <Points visits={visits} current={current} scales={scales} />
        {current && (
          <CurrentLabel visit={current} visits={visits} scales={scales} frame={frame} dense={baseline?.value ?? null} />
        )}
        {visits.length === 0 && (
          <g class="sw-axis-text">
            <text x={frame.left + 10} y={HEIGHT - frame.bottom - 10}>
              every {state.predictFirst.value ? "predicted" : "evaluated"} recipe adds a point here
            </text>
          </g>
        )}
      </svg>
    </div>
  );
}

function line(visits: readonly Visit[], scales: Scales): string {
  return visits
    .map((v, i) => `${i ? "L" : "M"}${scales.x(v.nbytes).toFixed(1)} ${scales.y(v.value).toFixed(1)}`)
    .join("");
}

function Axes({ scales, frame, value }: { scales: Scales; frame: Frame; value(v: number): string }) {
  return (
    <g class="sw-axis-text">
      {scales.yTicks.map((tick) => (
        <g key={`y${tick}`} transform={`translate(0 ${scales.y(tick).toFixed(1)})`}>
          <line class="sw-gridline" x1={frame.left} x2={frame.width - frame.right} />
          <text x={frame.left - 7} dy="0.32em" text-anchor="end">
            {value(tick)}
          </text>
        </g>
      ))}
      {scales.xTicks.map((tick) => {
        const text = bytes(tick).replace(/\.0+(?=\D)/, "");
        const beyond = scales.x(tick) + (TICK_LETTER * text.length) / 2 - frame.width;
        return (
          <text
            key={`x${tick}`}
            x={scales.x(tick)}
            dx={Math.min(0, -beyond)}
            y={frame.height - 19}
            text-anchor="middle"
          >
            {text}
          </text>
        );
      })}
    </g>
  );
}

function DenseLine({ y, frame }: { y: number; frame: Frame }) {
  return (
    <g class="sw-dense-line">
      <line x1={frame.left} x2={frame.width - frame.right} y1={y} y2={y} />
      <text x={frame.left + 2} y={y - 5}>
        dense
      </text>
    </g>
  );
}

/** Where the file stands now, while its score is not known. */
function NowLine({ x, frame }: { x: number; frame: Frame }) {
  const clamped = Math.max(frame.left, Math.min(frame.width - frame.right, x));
  return (
    <line
      class="sw-now-line"
      x1={0}
      x2={0}
      y1={frame.top}
      y2={frame.height - frame.bottom}
      transform={`translate(${clamped.toFixed(1)} 0)`}
    />
  );
}

/** What was predicted: a small cross, and a line from it to the point it was meant for. */
function Predicted({ said, scales }: { said: readonly [Visit, number][]; scales: Scales }) {
  if (said.length === 0) return null;
  return (
    <g class="sw-predicted" data-testid="predicted">
      {said.map(([visit, predicted]) => {
        const [x, y] = [scales.x(visit.nbytes), scales.y(predicted)];
        return (
          <path
            key={keyOf(visit)}
            d={`M${x} ${scales.y(visit.value)}V${y}M${x - 3.5} ${y - 3.5}l7 7m0-7l-7 7`}
            data-predicted={predicted}
          />
        );
      })}
    </g>
  );
}

interface PointsProps {
  visits: readonly Visit[];
  current: Visit | undefined;
  scales: Scales;
}

const backWords = ({ result, recovered }: Visit) =>
  `Go back to this ${result ? `${recovered ? "recovered" : "retrained"} model` : "recipe"}`;

/** The points: one tab stop, arrow keys from small to large, Enter goes back. */
function Points({ visits, current, scales }: PointsProps) {
  const view = useView();
  const { state } = view;
  const metric = state.metric.value;
  const group = useRef<SVGGElement>(null);
  const order = useMemo(() => [...visits].sort((a, b) => a.nbytes - b.nbytes), [visits]);
  const stop = useSignal(0);
  const tabStop = current ? order.indexOf(current) : Math.min(stop.value, order.length - 1);
  const move = (index: number) => {
    stop.value = Math.max(0, Math.min(order.length - 1, index));
    (group.current?.children[stop.value] as SVGElement | undefined)?.focus();
  };
  const words = (visit: Visit) => {
    const said = visit.result ? null : predictionOf(state.predictions.value, visit);
    const held = said ? [predictionWords(metric, said.predicted, visit)] : [];
    return [scoreWords(metric, visit), ...held, bytes(visit.nbytes), visit.provenance, ...raceLines(state, visit)];
  };
  return (
    <g ref={group} class="sw-points">
      {order.map((visit, i) => (
        // biome-ignore lint/a11y/useSemanticElements: a button cannot be a point of a drawing
        <path
          key={keyOf(visit)}
          d={shapeOf(visit)}
          transform={`translate(${scales.x(visit.nbytes)} ${scales.y(visit.value)}) scale(${visit === current ? 1.5 : 1})`}
          class={visit === current ? "sw-current" : ""}
          role="button"
          tabindex={i === tabStop ? 0 : -1}
          aria-label={`${visitWords(visit)}: ${words(visit).join(", ")}. ${backWords(visit)}`}
          data-result={visit.result ?? undefined}
          onPointerEnter={(event) => {
            const lines = [...words(visit), ...overrideLines(visit.recipe), backWords(visit)];
            tipAt(view, event, recipeLabel(visit.recipe), lines);
          }}
          onPointerLeave={() => hideTip(view)}
          onClick={() => state.goTo(visit)}
          onKeyDown={(event) => {
            if (event.key === "Enter" || event.key === " ") state.goTo(visit);
            else if (event.key === "ArrowRight" || event.key === "ArrowUp") move(i + 1);
            else if (event.key === "ArrowLeft" || event.key === "ArrowDown") move(i - 1);
            else return;
            event.preventDefault();
          }}
        />
      ))}
    </g>
  );
}

interface LabelProps {
  visit: Visit;
  visits: readonly Visit[];
  scales: Scales;
  frame: Frame;
  dense: number | null;
}

function CurrentLabel({ visit, visits, scales, frame, dense }: LabelProps) {
  const text = recipeLabel(visit.recipe);
  const at = { x: scales.x(visit.nbytes), y: scales.y(visit.value) };
  const bounds = {
    x: frame.left,
    y: 0,
    width: frame.width - frame.left - frame.right,
    height: frame.height - frame.bottom,
  };
  const size = { width: 6.1 * text.length + 4, height: 15 };
  const others = visits.map((v) => ({ x: scales.x(v.nbytes), y: scales.y(v.value) }));
  const box = placeLabel(at, size, bounds, others, dense === null ? [] : [scales.y(dense)], 10);
  if (!box) return null;
  return (
    <text class="sw-point-label" x={box.x + 2} y={box.y + 11.5}>
      {text}
    </text>
  );
}

function HistoryTable() {
  const { state } = useView();
  const metric = state.metric.value;
  const predictions = state.predictions.value;
  const predicted = (visit: Visit) => {
    const found = visit.result ? null : predictionOf(predictions, visit);
    return found ? metricTick(metric, found.predicted) : "–";
  };
  const rows = latest(state.history.value).map((visit) => [
    <button key="go" type="button" class="sw-link" onClick={() => state.goTo(visit)}>
      {visitWords(visit)}
    </button>,
    bytes(visit.nbytes),
    ...(predictions.length > 0 ? [predicted(visit)] : []),
    Number.isFinite(visit.value) ? metricValue(metric, visit.value) : "–",
    intervalText(metric, visit),
    count(visit.n),
  ]);
  return (
    <div class="sw-table-scroll">
      <DataTable
        head={[
          "recipe",
          "size",
          ...(predictions.length > 0 ? ["predicted"] : []),
          metric.name,
          "95 % interval",
          "examples",
        ]}
        rows={rows}
      />
    </div>
  );
}
