// The ridge as part of the page: one canvas that stays while an empty space scrolls, pointer, keyboard, and a tree for screen readers.

import { useSignal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { type Row, ridgeRows, visibleRows } from "../charts/layer-tree-rows";
import { drawRidge, type RidgeScene } from "../charts/ridge-canvas";
import { AXIS, HEADER, ROW, ridgeHeight, rowHeight } from "../charts/ridge-layout-header-and-axis";
import { useDrawing, useUnique } from "../ui/size-and-drawing-hooks";
import { hideTip, tipAt } from "../ui/tooltip";
import { RidgeCache } from "./ridge-data-and-cache";
import { describeRow, ridgeTip } from "./ridge-tooltips";
import { toggled, useView, type View } from "./view-state";

interface Pointer {
  row: number;
  x: number;
}

const AWAY: Pointer = { row: -1, x: -1 };

/** Draws the ridge into its canvas, at most once per frame, and knows which row is where. */
class RidgeCanvas {
  readonly scenes: RidgeCache;
  readonly context: CanvasRenderingContext2D | null;
  pointer = AWAY;
  focused = false;
  active = 0;
  rows: readonly Row[] = [];
  scene: RidgeScene | undefined;
  #width = 0;
  #height = 0;
  #ratio = 0;
  #frame = 0;

  constructor(
    private readonly view: View,
    private readonly canvas: HTMLCanvasElement,
    private readonly scroller: HTMLElement,
  ) {
    this.scenes = new RidgeCache(view);
    this.context = canvas.getContext("2d");
  }

  /** Take the size of the scroller, and draw. */
  resize(): void {
    this.#fit(devicePixelRatio);
    this.draw();
  }

  #fit(ratio: number): void {
    this.#ratio = ratio;
    this.#width = this.scroller.clientWidth;
    this.#height = this.scroller.clientHeight;
    const [width, height] = [Math.round(this.#width * ratio), Math.round(this.#height * ratio)];
    if (this.canvas.width === width && this.canvas.height === height) return;
    Object.assign(this.canvas, { width, height });
    Object.assign(this.canvas.style, { width: `${this.#width}px`, height: `${this.#height}px` });
  }

  drawSoon(): void {
    this.#frame ||= requestAnimationFrame(() => this.draw());
  }

  draw(): void {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const { context: ctx, pointer, focused, active } = this;
    const ratio = devicePixelRatio;
    if (ratio !== this.#ratio) this.#fit(ratio);
    const [width, height] = [this.#width, this.#height];
    if (!ctx || width === 0 || height === 0) return;
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    const { row, scroller } = this;
    scroller.style.setProperty("--content", `${ridgeHeight(this.rows.length, row)}px`);
    const size = { width, height, row, scrollTop: scroller.scrollTop, ratio };
    const scene = this.scenes.scene(ctx, size, this.rows);
    this.scene = { ...scene, hovered: pointer.row, pointerX: pointer.x, focused, active };
    drawRidge(ctx, this.scene);
    if (this.view.seen) {
      const { first, end } = visibleRows(size.scrollTop, height - HEADER - AXIS, row, this.rows.length);
      this.view.seen(this.rows.slice(first, end).flatMap((one) => (one.kind === "layer" ? [one.layer] : one.layers)));
    }
  }

  /** The height of a row. */
  get row(): number {
    return rowHeight(this.#height, this.rows.length);
  }

  /** The row and the x under the pointer. */
  at(event: PointerEvent | MouseEvent): Pointer {
    const box = this.canvas.getBoundingClientRect();
    const y = event.clientY - box.top;
    if (y < HEADER || y > box.height - AXIS) return AWAY;
    const row = Math.floor((y - HEADER + this.scroller.scrollTop) / this.row);
    return row < this.rows.length ? { row, x: event.clientX - box.left } : AWAY;
  }

  /** Scroll as little as needed to show the active row. */
  reveal(): void {
    const body = this.scroller.clientHeight - HEADER - AXIS;
    const { row } = this;
    const y = this.active * row;
    if (y < this.scroller.scrollTop) this.scroller.scrollTop = y;
    else if (y + row > this.scroller.scrollTop + body) this.scroller.scrollTop = y + row - body;
  }

  dispose(): void {
    cancelAnimationFrame(this.#frame);
  }
}

export function Ridge() {
  const view = useView();
  const id = useUnique();
  const scroller = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const ridge = useRef<RidgeCanvas | null>(null);
  const lastPoint = useRef<PointerEvent | null>(null);
  const active = useSignal(Math.max(0, view.selected.value));
  const labels = view.state.sketch.value.layers.map((layer) => layer.label);
  const rows = useMemo(
    () => ridgeRows(labels, view.state.order.value, view.grouped.value, view.folded.value),
    [view.state.sketch.value, view.state.order.value, view.grouped.value, view.folded.value],
  );

  useEffect(() => {
    if (!canvas.current || !scroller.current) return;
    const made = new RidgeCanvas(view, canvas.current, scroller.current);
    made.rows = rows;
    ridge.current = made;
    const observer = new ResizeObserver(() => made.resize());
    observer.observe(scroller.current);
    made.resize();
    return () => {
      observer.disconnect();
      made.dispose();
    };
  }, [view]);
  useEffect(() => {
    if (!ridge.current) return;
    ridge.current.rows = rows;
    ridge.current.draw();
  }, [rows]);
  useDrawing(() => {
    view.state.figures.value;
    view.state.recipe.value;
    view.colors.value;
    view.log.value;
    view.axis.value;
    view.selected.value;
    view.sparklines.value;
    view.state.sensitivity.value;
    view.pixelRatio.value;
    ridge.current?.draw();
  });

  const row = rows[Math.min(active.value, rows.length - 1)];
  const activate = (index: number) => {
    active.value = Math.max(0, Math.min(rows.length - 1, index));
    if (!ridge.current) return;
    ridge.current.active = active.value;
    ridge.current.reveal();
    ridge.current.drawSoon();
  };
  /** By keyboard an open layer follows the active row. */
  const moveTo = (index: number) => {
    activate(index);
    const moved = rows[active.value];
    if (moved?.kind === "layer" && view.selected.value >= 0) view.selected.value = moved.layer;
  };
  const focus = (focused: boolean) => {
    if (!ridge.current) return;
    Object.assign(ridge.current, { focused, active: active.value });
    ridge.current.drawSoon();
  };
  const point = (event: PointerEvent | null) => {
    const made = ridge.current;
    lastPoint.current = event;
    if (!made || !event) return;
    made.pointer = made.at(event);
    const { scene, pointer } = made;
    if (!scene) return;
    const tip = ridgeTip(view, scene, pointer.row, pointer.x);
    if (tip) tipAt(view, event, tip.title, tip.lines);
    else hideTip(view);
    const { plot } = scene.columns;
    if (pointer.x < plot.x || pointer.x > plot.x + plot.width) made.pointer = { ...pointer, x: -1 };
    made.drawSoon();
  };
  const leave = () => {
    hideTip(view);
    lastPoint.current = null;
    if (!ridge.current) return;
    ridge.current.pointer = AWAY;
    ridge.current.drawSoon();
  };
  const click = (event: MouseEvent) => {
    const found = ridge.current?.at(event).row ?? -1;
    if (found < 0) return;
    activate(found);
    open(view, rows[found]);
  };

  return (
    <div
      ref={scroller}
      class="sw-ridge"
      role="tree"
      tabIndex={0}
      aria-label={`${labels.length} layers, first to last: arrow keys move, Enter opens a layer`}
      aria-activedescendant={`${id}-row`}
      data-testid="ridge"
      style={{ "--most": `${ridgeHeight(rows.length)}px`, "--least": `${ridgeHeight(rows.length, ROW)}px` }}
      onScroll={() => {
        point(lastPoint.current);
        ridge.current?.drawSoon();
      }}
      onFocus={() => focus(true)}
      onBlur={() => focus(false)}
      onKeyDown={(event) => ridgeKey(event, view, rows, active.value, moveTo)}
    >
      <div class="sw-ridge-space">
        {/* biome-ignore lint/a11y/noAriaHiddenOnFocusable: a canvas takes no focus; the tree around it does */}
        <canvas
          ref={canvas}
          aria-hidden="true"
          data-testid="ridge-canvas"
          onPointerMove={point}
          onPointerLeave={leave}
          onClick={click}
        />
      </div>
      {row && (
        <div
          id={`${id}-row`}
          class="sw-unseen"
          role="treeitem"
          tabIndex={-1}
          aria-level={row.kind === "layer" && row.block ? 2 : 1}
          aria-posinset={active.value + 1}
          aria-setsize={rows.length}
          aria-selected={row.kind === "layer" && row.layer === view.selected.value}
          aria-expanded={row.kind === "block" ? !row.folded : undefined}
        >
          {describeRow(view, row)}
        </div>
      )}
    </div>
  );
}

/** Open a layer large (or close it again), fold or unfold a block. */
function open(view: View, row: Row | undefined): void {
  if (row?.kind === "block") view.folded.value = toggled(view.folded.value, row.key);
  else if (row) view.selected.value = view.selected.value === row.layer ? -1 : row.layer;
}

const PAGE = 10;

function ridgeKey(
  event: KeyboardEvent,
  view: View,
  rows: readonly Row[],
  active: number,
  moveTo: (index: number) => void,
): void {
  const row = rows[active];
  const steps: Record<string, number> = {
    ArrowDown: active + 1,
    ArrowUp: active - 1,
    PageDown: active + PAGE,
    PageUp: active - PAGE,
    Home: 0,
    End: rows.length - 1,
  };
  if (event.key in steps) moveTo(steps[event.key]);
  else if (event.key === "Enter" || event.key === " ") open(view, row);
  else if (event.key === "Escape" && view.selected.value >= 0) view.selected.value = -1;
  else if (event.key === "ArrowRight" && row?.kind === "block" && row.folded) open(view, row);
  else if (event.key === "ArrowLeft" && row?.kind === "block" && !row.folded) open(view, row);
  else if (event.key === "ArrowLeft" && row?.kind === "layer" && row.block) {
    moveTo(rows.findIndex((other) => other.kind === "block" && other.key === row.block));
  } else return;
  event.preventDefault();
}
