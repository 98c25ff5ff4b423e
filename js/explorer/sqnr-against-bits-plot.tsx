// A layer's error against bits, as it is pruned now: SQNR at 1 to 8 bits, the chosen one emphasised.

import { estimatedDecibels } from "../charts/number-format";
import { linearTicks } from "../charts/ticks-and-size-marks";
import type { LayerSketch } from "../core/types";
import { useHeld, useSize } from "../ui/size-and-drawing-hooks";
import { useView } from "./view-state";

const [LEFT, RIGHT, TOP, BOTTOM] = [26, 8, 24, 18];

export function SqnrPlot({ index, layer }: { index: number; layer: LayerSketch }) {
  const { state } = useView();
  const [holder, { width, height }] = useSize<HTMLDivElement>({ width: 200, height: 128 });
  const plan = state.plans.value[index];
  const recipe = state.recipe.value;
  const sqnr = recipe && state.layerSqnr(index);
  const least = niceCeiling(Math.max(...finite(sqnr), 10));
  const held = useHeld(least, state.dragging.value);
  const high = Math.max(least, held);
  const x = (bits: number) => LEFT + ((bits - 1) / 7) * (width - LEFT - RIGHT);
  const y = (value: number) => TOP + (1 - Math.max(0, Math.min(1, value / high))) * (height - TOP - BOTTOM);
  const points = [...sqnr].map((value, i) => ({ bits: i + 1, value, x: x(i + 1), y: y(value) }));
  const words = points.map((p) => `${bitsText(p.bits)} ${estimatedDecibels(false, p.value)}`).join(", ");
  return (
    <div class="sw-curve" ref={holder}>
      <svg width={width} height={height} role="img" aria-label={`SQNR of ${layer.label}: ${words}`} data-testid="curve">
        <g class="sw-axis-text">
          {linearTicks(0, high, 3).map((tick) => (
            <g key={tick} transform={`translate(0 ${y(tick).toFixed(1)})`}>
              <line class="sw-gridline" x1={LEFT} x2={width - RIGHT} />
              <text x={LEFT - 6} dy="0.32em" text-anchor="end">
                {tick}
              </text>
            </g>
          ))}
          {points.map((p) => (
            <text key={p.bits} x={p.x} y={height - 4} text-anchor="middle">
              {p.bits}
            </text>
          ))}
          <text x={0} y={9}>
            ≈ SQNR in dB, by bits
          </text>
        </g>
        <path
          class="sw-curve-line"
          d={points.map((p, i) => `${i ? "L" : "M"}${p.x.toFixed(1)} ${p.y.toFixed(1)}`).join("")}
        />
        {points.map((p) => (
          <circle
            key={p.bits}
            class={!plan.keep && p.bits === plan.bits ? "sw-curve-now" : "sw-curve-point"}
            cx={p.x}
            cy={p.y}
            r={!plan.keep && p.bits === plan.bits ? 5 : 3}
          >
            <title>
              {bitsText(p.bits)}: {estimatedDecibels(false, p.value)}
            </title>
          </circle>
        ))}
      </svg>
    </div>
  );
}

const bitsText = (bits: number) => `${bits} ${bits === 1 ? "bit" : "bits"}`;

function finite(values: ArrayLike<number>): number[] {
  return Array.from(values).filter(Number.isFinite);
}

/** A round top for the axis, in steps coarse enough to stay put during a drag. */
function niceCeiling(value: number): number {
  return Math.ceil(value / 15) * 15;
}
