// The size section: dense against now on one scale, the file's parts enlarged, and sizes people know.

import { thin } from "../charts/fit-and-place-labels";
import { bytes, comparedSize, count, estimated } from "../charts/number-format";
import { memoryFor, type SizeMark, sizeMarks, storeFor } from "../charts/ticks-and-size-marks";
import type { Estimate } from "../core/types";
import { DataTable } from "../ui/data-table";
import { Term } from "../ui/help";
import { useSize } from "../ui/size-and-drawing-hooks";
import { DeviceList } from "./device-list";
import { memoryOf, type Part, partsOf, sketchingWords, unmeasuredWords } from "./layer-and-file-figures";
import { Panel } from "./panel-with-table-toggle";
import { useView } from "./view-state";

export function SizePanel() {
  const view = useView();
  const figures = view.state.figures.value;
  const sketching = view.state.sketching.value;
  const { unsketched } = view.state;
  if (sketching) {
    return (
      <Panel name="size" title="Size">
        <p class="sw-headline">
          <span class="sw-from">{bytes(figures.original_nbytes)}</span>
          <Arrow />
          <span class="sw-beside" data-testid="sketching">
            {sketchingWords(sketching)}
          </span>
        </p>
        {unsketched.value ? (
          <p class="sw-hint sw-wrap sw-failed" data-testid="unsketched">
            {unsketched.value}
          </p>
        ) : (
          <progress class="sw-sketching" value={sketching.done} max={sketching.all} aria-label="Layers sketched" />
        )}
      </Panel>
    );
  }
  const parts = partsOf(figures);
  const download = figures.nbytes_entropy_coded !== null && (
    <>
      download {bytes(figures.nbytes_entropy_coded)}, <Term of="entropy-coding">entropy-coded</Term>
    </>
  );
  const table = view.tables.value.has("size");
  if (view.state.simple.value) {
    return (
      <Panel name="size" title="Size">
        <Headline figures={figures} />
        <Bars figures={figures} parts={parts} />
      </Panel>
    );
  }
  return (
    <Panel name="size" title="Size" caption={download} table="size" tableTitle="the parts of the file as a table">
      <Headline figures={figures} />
      {table ? <SizeTable figures={figures} parts={parts} /> : <Bars figures={figures} parts={parts} />}
      <Device figures={figures} />
    </Panel>
  );
}

function Headline({ figures }: { figures: Estimate }) {
  const { waiting } = useView().state.exactOnly.value;
  return (
    <p class="sw-headline">
      <span class="sw-from">{bytes(figures.original_nbytes)}</span>
      <Arrow />
      <Approx exact={figures.sized} />
      <strong data-testid="size-now" data-bytes={figures.nbytes} data-exact={figures.exact && !waiting}>
        {bytes(figures.nbytes)}
      </strong>
      <span class="sw-beside">
        <span data-testid="ratio">
          <Term of="compression-ratio">{estimated(figures.sized, comparedSize(figures.ratio))}</Term>
        </span>
      </span>
    </p>
  );
}

/** From one figure to the next. */
export function Arrow() {
  return (
    <span class="sw-arrow">
      <span aria-hidden="true">→</span>
      <span class="sw-unseen">becomes</span>
    </span>
  );
}

/** Marks a figure as a preview; keeps its place when it is not. */
export function Approx({ exact }: { exact: boolean }) {
  return (
    <span class="sw-approx" data-exact={exact} title={exact ? undefined : "estimated, not counted on the weights"}>
      <span aria-hidden="true">≈</span>
      {!exact && <span class="sw-unseen">about</span>}
    </span>
  );
}

const PART_TERMS = {
  codes: "code",
  mask: "mask",
  scales: "scale",
  uncompressed: "uncompressed",
  header: "header",
} as const;

const percentOf = (part: number, whole: number) => `${(100 * part) / whole}%`;

/** Dense and now on one scale; in the full view below them the parts of the file, enlarged and named. */
function Bars({ figures, parts }: { figures: Estimate; parts: Part[] }) {
  const simple = useView().state.simple.value;
  const [frame, { width }] = useSize<HTMLDivElement>({ width: 400, height: 0 });
  const scale = Math.max(figures.original_nbytes, figures.nbytes);
  const summary = `${estimated(figures.sized, bytes(figures.nbytes))} of ${bytes(figures.original_nbytes)}: ${parts.map((p) => `${p.label} ${bytes(p.bytes)}`).join(", ")}`;
  return (
    <>
      <div class="sw-bars" ref={frame} role="img" aria-label={summary}>
        <div class="sw-scale">
          <Marks figures={figures} scale={scale} width={width} />
          <div class="sw-dense" style={{ width: percentOf(figures.original_nbytes, scale) }}>
            <span>dense</span>
          </div>
          <div class="sw-now">
            <Segments figures={figures} parts={parts} whole={scale} />
          </div>
        </div>
        {!simple && (
          <>
            <svg class="sw-lens" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">
              <path d={`M0 0H${(100 * figures.nbytes) / scale}L100 10H0Z`} />
            </svg>
            <div class="sw-enlarged">
              <Segments figures={figures} parts={parts} whole={figures.nbytes} />
            </div>
          </>
        )}
      </div>
      {!simple && (
        <ul class="sw-parts">
          {parts.map((part) => (
            <li key={part.key}>
              <i class={`sw-part sw-part-${part.key}`} />
              {part.key === "uncompressed" ? <WhyUncompressed /> : <Term of={PART_TERMS[part.key]}>{part.label}</Term>}
              <b data-testid={`part-${part.key}`}>
                {part.bytes > 0 ? estimated(figures.sized || part.key === "uncompressed", bytes(part.bytes)) : "–"}
              </b>
            </li>
          ))}
        </ul>
      )}
    </>
  );
}

/** Leads to the list of what is not compressed. */
function WhyUncompressed() {
  const view = useView();
  const show = () => {
    view.tables.value = new Set([...view.tables.value, "layers"]);
    requestAnimationFrame(() =>
      view.root.querySelector("[data-testid=uncompressed-table]")?.scrollIntoView({ block: "nearest" }),
    );
  };
  return (
    <button
      type="button"
      class="sw-link"
      title="what is left uncompressed, and why"
      data-testid="why-uncompressed"
      onClick={show}
    >
      uncompressed
    </button>
  );
}

function Segments({ figures, parts, whole }: { figures: Estimate; parts: Part[]; whole: number }) {
  return (
    <>
      {parts.map((part) => (
        <i
          key={part.key}
          class={`sw-part sw-part-${part.key}`}
          style={{ width: percentOf(part.bytes, whole) }}
          title={`${part.label} ${estimated(figures.sized, bytes(part.bytes))}`}
        />
      ))}
    </>
  );
}

const LETTER = 6;

interface MarksProps {
  figures: Estimate;
  scale: number;
  width: number;
}

/**
 * What a device needs: flash for the file, memory for the model while it runs. The two differ: a packed file is
 * unpacked when it is loaded, and runs with all its weights.
 */
function Device({ figures }: { figures: Estimate }) {
  const { state } = useView();
  return (
    <dl class="sw-device">
      <div>
        <dt>
          <Term of="flash">flash</Term>
        </dt>
        <dd data-testid="flash">
          <b>{estimated(figures.sized, bytes(figures.nbytes))}</b> the file{fitWords(storeFor(figures.nbytes))}
        </dd>
      </div>
      <div>
        <dt>
          <Term of="memory">memory</Term>
        </dt>
        <dd data-testid="memory">
          <MemoryWords {...memoryOf(state)} unmeasured={unmeasuredWords(state)} />
        </dd>
      </div>
      <div>
        <DeviceList figures={figures} />
      </div>
    </dl>
  );
}

interface MemoryProps extends ReturnType<typeof memoryOf> {
  /** What is said in place of activations that are not known. */
  unmeasured: string;
}

/** What is known of the memory: of a page without the model nothing, without data no activations. */
function MemoryWords({ weights, activations, exact, unmeasured }: MemoryProps) {
  if (weights === null) return <>unknown without the model</>;
  if (activations === null) {
    return (
      <>
        <b>{bytes(weights)}</b> weights as they run, plus activations, {unmeasured}
      </>
    );
  }
  const whole = weights + activations;
  const limit = exact ? "" : "at most ";
  return (
    <>
      <b>
        {limit}
        {bytes(whole)}
      </b>{" "}
      weights as they run {bytes(weights)} + peak activation {limit}
      {bytes(activations)}
      {fitWords(memoryFor(whole))}
    </>
  );
}

const fitWords = (mark: SizeMark | null) => (mark ? ` · fits ${mark.label}` : "");

/** Sizes people know, each with its name on the side where there is room, if there is. */
function Marks({ figures, scale, width }: MarksProps) {
  const marks = sizeMarks(figures.original_nbytes).map((mark) => {
    const place = (mark.bytes / scale) * width;
    const room = LETTER * mark.label.length + 22;
    const left = place + room > width;
    return { ...mark, left, x: left ? place - room / 2 : place + room / 2, width: room };
  });
  const named = new Set(thin(marks, 0));
  return (
    <>
      {marks.map((mark) => (
        <span
          key={mark.bytes}
          class={`sw-mark ${mark.left ? "sw-mark-left" : ""}`}
          data-fits={figures.nbytes <= mark.bytes}
          style={{ left: percentOf(mark.bytes, scale) }}
          title={`${mark.label}: the file ${figures.nbytes <= mark.bytes ? "fits" : "is larger"}`}
        >
          {named.has(mark) && (
            <span>
              {figures.nbytes <= mark.bytes && <i class="sw-tick" />}
              {mark.label}
            </span>
          )}
        </span>
      ))}
    </>
  );
}

function SizeTable({ figures, parts }: { figures: Estimate; parts: Part[] }) {
  const { kernel } = useView().state;
  const exactly = figures.sized ? "exactly" : kernel ? "about, until the kernel has counted" : "about";
  return (
    <DataTable
      head={["part", "what it holds", "bytes"]}
      words={1}
      rows={parts.map((part) => [part.label, part.title, estimated(figures.sized, count(part.bytes))])}
      foot={[
        ["file", exactly, estimated(figures.sized, count(figures.nbytes))],
        ["dense", "the model as a plain .safetensors file", count(figures.original_nbytes)],
      ]}
    />
  );
}
