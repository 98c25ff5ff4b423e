// A layer's distribution drawn large, with an axis and values to read under the pointer.

import { useEffect, useRef } from "preact/hooks";
import { type DistributionPlot, drawDistribution, hatchPattern } from "../charts/distribution-canvas";
import { bareOutline, distributionPlot, outlineOf } from "../charts/distribution-geometry";
import { type Box, thin } from "../charts/fit-and-place-labels";
import { weight } from "../charts/number-format";
import type { Colors } from "../charts/theme";
import { mirroredTicks } from "../charts/ticks-and-size-marks";
import type { LayerSketch } from "../core/types";
import { useDrawing } from "../ui/size-and-drawing-hooks";
import { hideTip, tipAt } from "../ui/tooltip";
import { outcomeOf } from "./layer-and-file-figures";
import { detailSpan, notDrawn } from "./ridge-data-and-cache";
import { binWords } from "./ridge-tooltips";
import { useView, type View } from "./view-state";

const AXIS = 29;
const TOP = 4;

interface Props {
  index: number;
  layer: LayerSketch;
}

export function LargeDistributionPlot({ index, layer }: Props) {
  const view = useView();
  const canvas = useRef<HTMLCanvasElement>(null);
  const picture = useRef<DistributionPlot | null>(null);
  const draw = () => {
    if (canvas.current) picture.current = drawLarge(view, canvas.current, index, layer);
  };
  useEffect(() => {
    const element = canvas.current;
    if (!element) return;
    const observer = new ResizeObserver(draw);
    observer.observe(element);
    return () => observer.disconnect();
  }, [index, layer]);
  useEffect(draw, [index, layer]);
  useDrawing(() => {
    view.state.figures.value;
    view.colors.value;
    view.log.value;
    view.pixelRatio.value;
    draw();
  });
  const point = (event: PointerEvent) => {
    const box = canvas.current?.getBoundingClientRect();
    if (box && picture.current) {
      tipAt(view, event, layer.label, binWords(picture.current, (event.clientX - box.left) / box.width));
    }
  };
  return (
    <div>
      <canvas
        ref={canvas}
        class="sw-large"
        data-testid="large"
        role="img"
        aria-label={`Distribution of the weights of ${layer.label}, before and after`}
        onPointerMove={point}
        onPointerLeave={() => hideTip(view)}
      />
    </div>
  );
}

function drawLarge(view: View, canvas: HTMLCanvasElement, index: number, layer: LayerSketch): DistributionPlot | null {
  const ctx = canvas.getContext("2d");
  const { clientWidth: width, clientHeight: height } = canvas;
  if (!ctx || width === 0 || height === 0) return null;
  const ratio = devicePixelRatio;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.clearRect(0, 0, width, height);
  const { plans, figures } = view.state;
  const { left } = figures.value;
  const colors = view.colors.value;
  const plan = plans.value[index];
  const outline = outlineOf(layer, detailSpan(layer), width);
  const unknown = notDrawn(view.state, index);
  const picture = unknown
    ? bareOutline(outline, unknown)
    : distributionPlot(left, left.layers[index], plan, outcomeOf(figures.value, index), outline);
  const box = { x: 0, y: TOP, width, height: height - AXIS - TOP - 6 };
  const hatch = hatchPattern(ctx, colors.hatch, ratio);
  drawDistribution(ctx, picture, box, { colors, hatch, log: view.log.value, tick: 5 });
  drawEdges(ctx, picture, box, colors);
  drawAxis(ctx, picture.span, { width, height }, `11px ${colors.font}`, colors.muted);
  return picture;
}

/** The edges of the pruned band, the right one with its value. */
function drawEdges(ctx: CanvasRenderingContext2D, picture: DistributionPlot, box: Box, colors: Colors): void {
  const middle = box.width / 2;
  const reach = (picture.threshold / picture.span) * middle;
  if (reach === 0 || reach > middle) return;
  ctx.strokeStyle = ctx.fillStyle = colors.text;
  ctx.setLineDash([2, 2]);
  ctx.lineWidth = 1;
  ctx.beginPath();
  for (const x of [middle - reach, middle + reach]) {
    ctx.moveTo(Math.round(x) + 0.5, 0);
    ctx.lineTo(Math.round(x) + 0.5, box.y + box.height);
  }
  ctx.stroke();
  ctx.setLineDash([]);
  const text = `±${weight(picture.threshold)}`;
  ctx.font = `11px ${colors.font}`;
  ctx.textBaseline = "top";
  const fits = middle + reach + 6 + ctx.measureText(text).width < box.width;
  ctx.textAlign = fits ? "left" : "right";
  ctx.fillText(text, middle + reach + (fits ? 6 : -6), 2);
}

function drawAxis(
  ctx: CanvasRenderingContext2D,
  span: number,
  { width, height }: { width: number; height: number },
  font: string,
  color: string,
): void {
  ctx.font = font;
  ctx.fillStyle = color;
  ctx.textAlign = "center";
  ctx.textBaseline = "alphabetic";
  const labels = (perSide: number) =>
    mirroredTicks(span, perSide).map((tick) => {
      const text = weight(tick);
      return { text, width: ctx.measureText(text).width, x: (width / 2) * (1 + tick / span) };
    });
  // as many on each side as all fit, and no pair of which one would be cut: left out one by one, the axis would be lopsided
  const inside = (row: ReturnType<typeof labels>) => {
    const widest = Math.max(...row.map((label) => label.width));
    return row.filter((label) => Math.abs(label.x - width / 2) + widest / 2 <= width / 2);
  };
  const rows = [4, 3, 2, 1].map((perSide) => inside(labels(perSide)));
  const fitting = rows.find((row) => thin(row).length === row.length) ?? inside(labels(0.5));
  for (const label of fitting) ctx.fillText(label.text, label.x, height - 14);
  ctx.fillText("weight value", width / 2, height - 2);
}
