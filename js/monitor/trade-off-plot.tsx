// What each round of pruning has come to: the score against how much smaller the file is.

import { placeLabel } from "../charts/fit-and-place-labels";
import { comparedSize, times } from "../charts/number-format";
import { type Frame, scatterScales, valueDomain } from "../charts/scatter-scales-and-pareto-front";
import { metricTick, scoreWords } from "../charts/score-format";
import { useSize } from "../ui/size-and-drawing-hooks";
import { hideTip, tipAt } from "../ui/tooltip";
import type { Point, TestScore } from "./host-interface";
import { useView } from "./view-state";

const HEIGHT = 190;

type Scored = Point & { test: TestScore };

export function TradeOffPlot() {
  const { state } = useView();
  const now = state.progress.value;
  if (
    !now ||
    now.rounds < 2 ||
    now.stage ||
    (!state.baseline.value && state.points.value.every((point) => !point.test))
  )
    return null;
  return (
    <section aria-label="Score against compression">
      <header class="sw-heading">
        <h3>{state.metric.value.name} against size</h3>
        <span class="sw-caption">a point for every round</span>
      </header>
      <Chart />
    </section>
  );
}

function Chart() {
  const view = useView();
  const { state } = view;
  const [holder, { width }] = useSize<HTMLDivElement>({ width: 320, height: HEIGHT });
  const metric = state.metric.value;
  const points = state.points.value.filter((point): point is Scored => point.test !== null);
  const baseline = state.baseline.value?.value ?? null;
  const frame: Frame = { width, height: HEIGHT, left: 50, right: 14, top: 14, bottom: 20 };
  const most = Math.max(10, ...points.map((point) => 1.3 * point.ratio));
  const values = points.map((point) => ({ nbytes: point.ratio, value: point.test.value }));
  const scales = scatterScales(frame, [1, most], valueDomain(values, baseline, metric.percent));
  const place = (point: Scored) => ({ x: scales.x(point.ratio), y: scales.y(point.test.value) });
  const last = points.at(-1);
  return (
    <div ref={holder}>
      <svg width={width} height={HEIGHT} role="img" aria-label={summary(points)} data-testid="trade-off">
        <g class="sw-axis-text">
          {scales.yTicks.map((tick) => (
            <g key={tick} transform={`translate(0 ${scales.y(tick).toFixed(1)})`}>
              <line class="sw-gridline" x1={frame.left} x2={width - frame.right} />
              <text x={frame.left - 7} dy="0.32em" text-anchor="end">
                {metricTick(metric, tick)}
              </text>
            </g>
          ))}
          {scales.xTicks.map((tick) => (
            <text key={tick} x={scales.x(tick)} y={HEIGHT - 5} text-anchor="middle">
              {tick}×
            </text>
          ))}
        </g>
        {baseline !== null && (
          <g class="sw-dense-line">
            <line x1={frame.left} x2={width - frame.right} y1={scales.y(baseline)} y2={scales.y(baseline)} />
            <text x={frame.left + 3} y={scales.y(baseline) - 4}>
              dense
            </text>
          </g>
        )}
        <path class="sw-line sw-line-test" d={points.map((p, i) => `${i ? "L" : "M"}${at(place(p))}`).join("")} />
        <g class="sw-points">
          {points.map((point) => (
            <g key={point.round}>
              <Interval point={point} scales={scales} />
              <circle
                cx={place(point).x}
                cy={place(point).y}
                r={4}
                class={point === last ? "sw-current" : ""}
                onPointerEnter={(event) => tipAt(view, event, `round ${point.round}`, words(point, metric))}
                onPointerLeave={() => hideTip(view)}
              />
            </g>
          ))}
        </g>
        {last && (
          <LastLabel
            text={times(last.ratio)}
            at={place(last)}
            others={points.map(place)}
            lines={baseline === null ? [] : [scales.y(baseline)]}
            frame={frame}
          />
        )}
      </svg>
    </div>
  );
}

const at = ({ x, y }: { x: number; y: number }) => `${x.toFixed(1)} ${y.toFixed(1)}`;

function words(point: Scored, metric: Parameters<typeof scoreWords>[0]): string[] {
  return [scoreWords(metric, point.test), comparedSize(point.ratio), `${(100 * point.sparsity).toFixed(1)} % pruned`];
}

function summary(points: readonly Scored[]): string {
  return points.length === 0 ? "no round is complete yet" : `${points.length} rounds complete`;
}

function Interval({ point, scales }: { point: Scored; scales: ReturnType<typeof scatterScales> }) {
  const { low, high } = point.test;
  if (low === null || high === null) return null;
  const x = scales.x(point.ratio);
  return <line class="sw-interval" x1={x} x2={x} y1={scales.y(low)} y2={scales.y(high)} />;
}

interface LabelProps {
  text: string;
  at: { x: number; y: number };
  others: { x: number; y: number }[];
  /** Heights at which a line runs. */
  lines: number[];
  frame: Frame;
}

function LastLabel({ text, at: place, others, lines, frame }: LabelProps) {
  const bounds = { x: frame.left, y: 0, width: frame.width - frame.left, height: frame.height - frame.bottom };
  const box = placeLabel(place, { width: 6.4 * text.length + 4, height: 15 }, bounds, others, lines, 10);
  if (!box) return null;
  return (
    <text class="sw-point-label" x={box.x + 2} y={box.y + 11.5}>
      {text}
    </text>
  );
}
