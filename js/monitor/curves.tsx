// The curves of a training over its epochs: score, loss and learning rate, one under the other on one axis.

import { useMemo } from "preact/hooks";
import { weight } from "../charts/format";
import { bandPath, type LineScales, linePath, lineScales, lossDomain, nearestIndex, rateDomain } from "../charts/lines";
import { type Frame, valueDomain } from "../charts/scatter";
import { metricTick, metricValue } from "../charts/score";
import { useSize } from "../explorer/hooks";
import { hideTip, tipAt } from "../explorer/view";
import type { Curves as Columns, Progress } from "./model";
import { useView } from "./view";

const SCORE = 168;
const LOSS = 116;
const RATE = 84;
const LEFT = 50;
const RIGHT = 14;

export function Curves() {
  const view = useView();
  const { state } = view;
  const [holder, { width }] = useSize<HTMLDivElement>({ width: 500, height: SCORE });
  const now = state.progress.value;
  const curves = useMemo(() => withNow(state.curves.value, now, state.at.value), [state.curves.value, now]);
  const epochs: [number, number] = [0, Math.max(1, state.all.value)];
  const point = (event: PointerEvent) => {
    const box = (event.currentTarget as Element).getBoundingClientRect();
    const epoch = ((event.clientX - box.left - LEFT) / (width - LEFT - RIGHT)) * epochs[1];
    view.pointed.value = nearestIndex(curves.at, epoch);
    const i = view.pointed.value;
    if (i < 0) return;
    tipAt(view, event, `epoch ${Number(curves.at[i].toFixed(1))}`, tipLines(curves, i, state.metric.value));
  };
  const leave = () => {
    view.pointed.value = -1;
    hideTip(view);
  };
  return (
    <div ref={holder} class="sw-curves" onPointerMove={point} onPointerLeave={leave} data-testid="curves">
      <ScoreChart curves={curves} epochs={epochs} width={width} />
      <LossChart curves={curves} epochs={epochs} width={width} />
      <RateChart curves={curves} epochs={epochs} width={width} />
    </div>
  );
}

type Metric = Parameters<typeof metricValue>[0];

function tipLines({ loss, train, test, lr }: Columns, i: number, metric: Metric): string[] {
  const lines: (string | false)[] = [
    test[i] !== null && `${metric.name}, test: ${metricValue(metric, test[i])}`,
    train[i] !== null && `${metric.name}, training: ${metricValue(metric, train[i])}`,
    loss[i] !== null && `loss: ${loss[i].toFixed(4)}`,
    lr[i] !== null && `learning rate: ${weight(lr[i])}`,
  ];
  return lines.filter((line): line is string => line !== false);
}

/** The complete epochs, and the one under way as far as it is. */
function withNow(curves: Columns, now: Progress | null, at: number): Columns {
  const last = curves.at.at(-1) ?? 0;
  if (!now || now.loss === null || at <= last || now.phase !== "train") return curves;
  const more: Record<keyof Columns, number | null> = {
    at,
    loss: now.loss,
    train: now.train,
    test: null,
    low: null,
    high: null,
    lr: now.lr,
    sparsity: now.sparsity,
  };
  const names = Object.keys(more) as (keyof Columns)[];
  return Object.fromEntries(names.map((name) => [name, [...curves[name], more[name]]])) as unknown as Columns;
}

interface ChartProps {
  curves: Columns;
  epochs: [number, number];
  width: number;
}

function frameOf(width: number, height: number, bottom: number): Frame {
  return { width, height, left: LEFT, right: RIGHT, top: 20, bottom };
}

function ScoreChart({ curves, epochs, width }: ChartProps) {
  const { state } = useView();
  const metric = state.metric.value;
  const baseline = state.baseline.value?.value ?? null;
  const frame = frameOf(width, SCORE, 8);
  const known = [...curves.test, ...curves.train].filter((y): y is number => y !== null);
  const domain = valueDomain(
    known.map((value) => ({ nbytes: 0, value })),
    baseline,
    metric.percent,
  );
  const scales = lineScales(frame, epochs, domain);
  const tested = curves.test.some((y) => y !== null);
  return (
    <Chart title={metric.name} frame={frame} scales={scales} y={(value) => metricTick(metric, value)}>
      <path class="sw-band" d={bandPath(curves.at, curves.low, curves.high, scales)} />
      {baseline !== null && <Dense y={scales.y(baseline)} frame={frame} />}
      <path class="sw-line sw-line-train" d={linePath({ x: curves.at, y: curves.train }, scales)} />
      <path
        class="sw-line sw-line-test"
        d={linePath({ x: curves.at, y: curves.test }, scales)}
        data-testid="test-line"
      />
      {curves.at.length < 60 && <Dots x={curves.at} y={curves.test} scales={scales} />}
      <Legend frame={frame} tested={tested} />
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

/** Names the two lines at the right end of the title's line, where no line runs. */
function Legend({ frame, tested }: { frame: Frame; tested: boolean }) {
  const right = frame.width - frame.right;
  return (
    <g class="sw-axis-text" text-anchor="end">
      {tested && (
        <text class="sw-key-test" x={right - 62} y={11}>
          ● test
        </text>
      )}
      <text class="sw-key-train" x={right} y={11}>
        — training
      </text>
    </g>
  );
}

/** The score the model came with, named at the right end, below its line where there is no room above. */
function Dense({ y, frame }: { y: number; frame: Frame }) {
  const right = frame.width - frame.right;
  return (
    <g class="sw-dense-line">
      <line x1={frame.left} x2={right} y1={y} y2={y} />
      <text x={right} y={y - frame.top < 16 ? y + 12 : y - 4} text-anchor="end">
        as it came
      </text>
    </g>
  );
}

function LossChart({ curves, epochs, width }: ChartProps) {
  const frame = frameOf(width, LOSS, 8);
  const scales = lineScales(frame, epochs, lossDomain(curves.loss));
  return (
    <Chart title="loss, training" frame={frame} scales={scales} y={(value) => String(value)}>
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
  const path = Array.from({ length: now.rounds - 1 }, (_, i) => {
    const at = scales.x((i + 1) * now.epochs).toFixed(1);
    return `M${at} ${top}V${bottom}`;
  });
  return <path class="sw-rounds" d={path.join("")} />;
}

function Pointed({ scales, top, bottom }: SpanProps) {
  const { pointed, state } = useView();
  const at = state.curves.value.at[pointed.value];
  if (at === undefined) return null;
  return <line class="sw-now-line" x1={scales.x(at)} x2={scales.x(at)} y1={top} y2={bottom} />;
}
