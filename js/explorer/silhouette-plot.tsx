// The silhouette in the page: dense outline, what is left of it filled, names below, hover and click.

import { useMemo } from "preact/hooks";
import {
  type Block,
  blockAt,
  blocksPath,
  contourPath,
  narrowedBlocks,
  silhouette,
  stages,
} from "../charts/model-silhouette";
import { bytes, estimated, share } from "../charts/number-format";
import { layerTotal } from "../core/estimate";
import type { LayerSketch, Sketch } from "../core/types";
import { useSize } from "../ui/size-and-drawing-hooks";
import { hideTip, tipAt } from "../ui/tooltip";
import { shapeWords } from "./layer-and-file-figures";
import { Panel } from "./panel-with-table-toggle";
import { useView } from "./view-state";

const HEIGHT = 60;
const LABELS = 16;
/** Pixels per layer below which blocks are not told apart. */
const CROWDED = 5;

export function SilhouettePlot() {
  const view = useView();
  const [frame, { width }] = useSize<HTMLDivElement>({ width: 400, height: HEIGHT });
  const { sketch, sketching, figures, order } = view.state;
  const { layers } = sketch.value;
  const blocks = useMemo(
    () =>
      silhouette(
        layers.map((layer) => ({ width: layer.width, bytes: layer.n * layer.itemsize })),
        order.value,
        width - 2,
        HEIGHT,
      ),
    [layers, order.value, width],
  );
  const dense = useMemo(() => {
    const crowded = layers.length > width / CROWDED;
    return crowded ? contourPath(blocks, HEIGHT / 2) : blocksPath(blocks, HEIGHT / 2, () => 1);
  }, [blocks]);
  const now = figures.value;
  const bytesOf = (layer: LayerSketch) => layer.n * layer.itemsize;
  const left = (i: number) => Math.min(1, layerTotal(now.layers, i) / bytesOf(layers[i]));
  const narrow = now.left.layers === layers ? blocks : narrowedBlocks(blocks, layers, now.left.layers);
  /** What is left of a layer's bytes, in the block that it makes without the channels that went. */
  const filled = (i: number) => Math.min(1, layerTotal(now.layers, i) / bytesOf(now.left.layers[i]));
  const sketched = narrow.filter((block) => !layers[block.layer].pending);
  const find = (event: MouseEvent) => {
    const box = (event.currentTarget as Element).getBoundingClientRect();
    return blockAt(blocks, ((event.clientX - box.left) / box.width) * width);
  };
  const hover = (event: PointerEvent) => {
    const block = find(event);
    if (!block) return;
    const layer = layers[block.layer];
    if (layer.pending) {
      tipAt(view, event, layer.label, [shapeWords(layer, layer), bytes(bytesOf(layer)), "not sketched yet"]);
      return;
    }
    tipAt(view, event, layer.label, [
      shapeWords(layer, now.left.layers[block.layer]),
      `${bytes(bytesOf(layer))} → ${estimated(now.sized, bytes(layerTotal(now.layers, block.layer)))}`,
      `${estimated(now.sized, share(left(block.layer)))} of its bytes left`,
    ]);
  };
  const after = sketching.value ? "" : `, ${estimated(now.sized, bytes(now.nbytes))} now`;
  const chosen = blocks.find((block) => block.layer === view.selected.value);
  return (
    <Panel
      name="silhouette"
      title="Depth × width"
      label="Depth and width"
      caption={`area is bytes: outline dense, ${narrow === blocks ? "" : "tinted without channels, "}filled now`}
    >
      <div ref={frame}>
        {/* biome-ignore lint/a11y/useKeyWithClickEvents: the ridge is the way to a layer by keyboard */}
        <svg
          width={width}
          height={HEIGHT + LABELS + 2}
          viewBox={`-1 -1 ${width} ${HEIGHT + LABELS + 2}`}
          role="img"
          aria-label={`Silhouette of ${layers.length} layers: ${bytes(now.original_nbytes)} dense${after}`}
          data-testid="silhouette"
          onPointerMove={hover}
          onPointerLeave={() => hideTip(view)}
          onClick={(event) => {
            view.selected.value = find(event)?.layer ?? -1;
          }}
        >
          <path class="sw-silhouette-dense" d={dense} />
          {narrow !== blocks && <path class="sw-silhouette-narrow" d={blocksPath(narrow, HEIGHT / 2, () => 1)} />}
          <path class="sw-silhouette-now" d={blocksPath(sketched, HEIGHT / 2, filled)} />
          {chosen && <Chosen block={chosen} />}
          <Names sketch={sketch.value} blocks={blocks} />
        </svg>
      </div>
    </Panel>
  );
}

function Chosen({ block }: { block: Block }) {
  return <path class="sw-silhouette-chosen" d={blocksPath([block], HEIGHT / 2, () => 1)} />;
}

/** The stages of the model, named once each where there is room. */
function Names({ sketch, blocks }: { sketch: Sketch; blocks: Block[] }) {
  const labels = useMemo(
    () =>
      stages(
        sketch.layers.map((layer) => layer.label),
        blocks,
      ),
    [sketch, blocks],
  );
  return (
    <g class="sw-axis-text" text-anchor="middle">
      {labels.map((label) => (
        <text key={label.x} x={label.x} y={HEIGHT + LABELS - 2}>
          {label.text}
        </text>
      ))}
    </g>
  );
}
