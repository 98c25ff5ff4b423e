// The curves of a training over its epochs: score and loss, one under the other on one axis, and the learning rate.

import {
  bandPath,
  type LineScales,
  linePath,
  lineScales,
  lossDomain,
  nearestIndex,
  rateDomain,
  type Scored,
  scoreDomain,
} from "../charts/line-scales-paths-and-domains";
import { weight } from "../charts/number-format";
import type { Frame } from "../charts/scatter-scales-and-pareto-front";
import { intervalText, type Metric, metricTick, metricValue } from "../charts/score-format";
import { useSize } from "../ui/size-and-drawing-hooks";
import { hideTip, tipAt } from "../ui/tooltip";
import type { Curves as Columns } from "./host-interface";
import { roundEnds } from "./monitor-state";
import { useView } from "./view-state";

const SCORE = 232;
const LOSS = 156;
const RATE = 116;
const LEFT = 50;
const RIGHT = 14;
/** Where lines begin, below a chart's title. */
const TOP = 28;

/** Score and loss. */
export function TrainingCurves() {
  return (
    <Pointable testid="curves">
      {(props) => (
        <>
          <ScoreChart {...props} />
          <LossChart {...props} />
        </>
      )}
    </Pointable>
  );
}

/** The learning rate, on an axis of its own beside them. */
export function Rate() {
  return <Pointable testid="rate">{(props) => <RateChart {...props} />}</Pointable>;
}

interface PointableProps {
  testid: string;
  children(props: ChartProps): preact.ComponentChildren;
}

/** Charts in which the epoch under the pointer is told. */
function Pointable({ testid, children }: PointableProps) {
  const view = useView();
  const { state } = view;
  const [holder, { width }] = useSize<HTMLDivElement>({ width: 500, height: SCORE });
  const curves = state.shown.value;
  const epochs: [number, number] = [0, Math.max(1, state.all.value)];
  const point = (event: PointerEvent) => {
    const box = (event.currentTarget as Element).getBoundingClientRect();
    const epoch = ((event.clientX - box.left - LEFT) / (width - LEFT - RIGHT)) * epochs[1];
    view.pointed.value = nearestIndex(curves.at, epoch);
    const i = view.pointed.value;
    if (i < 0) return;
    tipAt(view, event, epochWords(curves.at[i]), tipLines(curves, i, state.metric.value));
  };
  const leave = () => {
    view.pointed.value = -1;
    hideTip(view);
  };
  return (
    <div ref={holder} class={`sw-${testid}`} onPointerMove={point} onPointerLeave={leave} data-testid={testid}>
      {children({ curves, epochs, width })}
    </div>
  );
}

/** "epoch 3", and what stands before the first. */
export const epochWords = (at: number) => (at === 0 ? "before" : `epoch ${Number(at.toFixed(1))}`);

function tipLines({ loss, train, test, low, high, lr }: Columns, i: number, metric: Metric): string[] {
  const interval = intervalText(metric, { low: low[i], high: high[i] });
  const lines: (string | false)[] = [
    test[i] !== null && `${metric.name}, validation: ${metricValue(metric, test[i])}${interval && ` (${interval})`}`,
    train[i] !== null && `${metric.name}, training: ${metricValue(metric, train[i])}`,
    loss[i] !== null && `loss: ${loss[i].toFixed(4)}`,
    lr[i] !== null && `learning rate: ${weight(lr[i])}`,
  ];
  return lines.filter((line): line is string => line !== false);
}

interface ChartProps {
  curves: Columns;
  epochs: [number, number];
  width: number;
}

function frameOf(width: number, height: number, bottom: number): Frame {
  return { width, height, left: LEFT, right: RIGHT, top: TOP, bottom };
}

/** Every score there is, those on the training data without an interval. */
function scoresOf({ test, low, high, train }: Columns): Scored[] {
  const tested = test.map((value, i) => ({ value, low: low[i], high: high[i] }));
  const trained = train.map((value) => ({ value, low: null, high: null }));
  return [...tested, ...trained].filter((score): score is Scored => score.value !== null);
}

function ScoreChart({ curves, epochs, width }: ChartProps) {
  const { state } = useView();
  const metric = state.metric.value;
  const baseline = state.baseline.value;
  const frame = frameOf(width, SCORE, 8);
  const n = state.progress.value?.test?.n ?? baseline?.n ?? 0;
  const scales = lineScales(frame, epochs, scoreDomain(scoresOf(curves), n, metric.percent));
  const right = width - frame.right;
  return (
    <Chart title={metric.name} frame={frame} scales={scales} y={(value) => metricTick(metric, value)}>
      <path class="sw-band" d={bandPath(curves.at, curves.low, curves.high, scales)} data-testid="band" />
      {baseline !== null && (
        <line
          class="sw-as-it-came"
          x1={frame.left}
          x2={right}
          y1={scales.y(baseline.value)}
          y2={scales.y(baseline.value)}
        />
      )}
      <path class="sw-line sw-line-train" d={linePath({ x: curves.at, y: curves.train }, scales)} />
      <path
        class="sw-line sw-line-test"
        d={linePath({ x: curves.at, y: curves.test }, scales)}
        data-testid="test-line"
      />
      {curves.at.length < 60 && <Dots x={curves.at} y={curves.test} scales={scales} />}
      <Legend
        right={right}
        came={baseline && metricValue(metric, baseline.value)}
        whole={width > LEGEND + TITLE_LETTER * metric.name.length}
      />
    </Chart>
  );
}

function Dots({ x, y, scales }: { x: readonly number[]; y: Columns["test"]; scales: LineScales }) {
  return (
    <g class="sw-line-dots">
      {x.map((at, i) => {
        const value = y[i];
        return value === null ? null : <circle key={at} cx={scales.x(at)} cy={scales.y(value)} r={2.2} />;
      })}
    </g>
  );
}

/** As wide as the whole legend gets, and a letter of the title beside it. */
const LEGEND = 350;
const TITLE_LETTER = 7;

/** Names the lines at the right end of the title's line, where none of them runs; on a phone, without what they mean. */
function Legend({ right, came, whole }: { right: number; came: string | null; whole: boolean }) {
  return (
    <g class="sw-axis-text">
      <text class="sw-legend-line" x={right} y={11} text-anchor="end" data-testid="legend">
        {came !== null && (
          <>
            {whole && <tspan class="sw-key-came">┄ before {came}</tspan>}
            <tspan class="sw-key-test" dx={10}>
              ● validation{whole && ", 95 % interval"}
            </tspan>
          </>
        )}
        <tspan class="sw-key-train" dx={10}>
          ╌ training
        </tspan>
      </text>
    </g>
  );
}

function LossChart({ curves, epochs, width }: ChartProps) {
  const frame = frameOf(width, LOSS, 20);
  const scales = lineScales(frame, epochs, lossDomain(curves.loss));
  return (
    <Chart title="loss, training" frame={frame} scales={scales} y={(value) => String(value)} x="epoch">
      <path class="sw-line sw-line-loss" d={linePath({ x: curves.at, y: curves.loss }, scales)} />
    </Chart>
  );
}

function RateChart({ curves, epochs, width }: ChartProps) {
  const frame = frameOf(width, RATE, 20);
  const scales = lineScales(frame, epochs, rateDomain(curves.lr), true);
  return (
    <Chart title="learning rate" frame={frame} scales={scales} y={weight} x="epoch">
      <path class="sw-line sw-line-rate" d={linePath({ x: curves.at, y: curves.lr }, scales, true)} />
    </Chart>
  );
}

interface FrameProps {
  title: string;
  frame: Frame;
  scales: LineScales;
  y(value: number): string;
  /** What the x axis counts; none is drawn if it is left out. */
  x?: string;
  children: preact.ComponentChildren;
}

/** Axes, the boundaries of rounds and the pointed epoch, with lines in between. */
function Chart({ title, frame, scales, y, x, children }: FrameProps) {
  const [right, bottom] = [frame.width - frame.right, frame.height - frame.bottom];
  return (
    <svg width={frame.width} height={frame.height} role="img" aria-label={`${title} over the epochs`}>
      <g class="sw-axis-text">
        <text class="sw-chart-title" x={0} y={11}>
          {title}
        </text>
        {scales.yTicks.map((tick) => (
          <g key={tick} transform={`translate(0 ${scales.y(tick).toFixed(1)})`}>
            <line class="sw-gridline" x1={frame.left} x2={right} />
            <text x={frame.left - 7} dy="0.32em" text-anchor="end">
              {y(tick)}
            </text>
          </g>
        ))}
        {x &&
          scales.xTicks.map((tick) => (
            <text key={tick} x={scales.x(tick)} y={frame.height - 5} text-anchor="middle">
              {tick === 0 ? x : tick}
            </text>
          ))}
      </g>
      <Rounds scales={scales} top={frame.top} bottom={bottom} />
      {children}
      <Pointed scales={scales} top={frame.top} bottom={bottom} />
    </svg>
  );
}

interface SpanProps {
  scales: LineScales;
  top: number;
  bottom: number;
}

function Rounds({ scales, top, bottom }: SpanProps) {
  const now = useView().state.progress.value;
  if (!now || now.rounds < 2) return null;
  const path = roundEnds(now)
    .slice(0, -1)
    .map((end) => {
      const at = scales.x(end).toFixed(1);
      return `M${at} ${top}V${bottom}`;
    });
  return <path class="sw-rounds" d={path.join("")} />;
}

function Pointed({ scales, top, bottom }: SpanProps) {
  const { pointed, state } = useView();
  const at = state.shown.value.at[pointed.value];
  if (at === undefined) return null;
  return <line class="sw-now-line" x1={scales.x(at)} x2={scales.x(at)} y1={top} y2={bottom} />;
}
