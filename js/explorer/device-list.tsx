// Which devices the present recipe fits: a mark for each, what is too large in the tip, and a table once it is pinned.

import { useSignal } from "@preact/signals";
import { type DeviceRow, deviceRows, fitWords, RUNTIME_WORDS } from "../charts/device-fit";
import { estimated } from "../charts/number-format";
import type { Estimate } from "../core/types";
import { DataTable } from "../ui/data-table";
import { hideTip, tipAt } from "../ui/tooltip";
import { memoryOf, unmeasuredWords } from "./layer-and-file-figures";
import { useView } from "./view-state";

const SIGNS = new Map([
  [true, "✓"],
  [false, "✕"],
  [null, "?"],
]);

export function DeviceList({ figures }: { figures: Estimate }) {
  const view = useView();
  const pinned = useSignal(false);
  const memory = memoryOf(view.state);
  const unmeasured = unmeasuredWords(view.state);
  const rows = deviceRows({ file: figures.nbytes, ...memory });
  const words = estimated(figures.sized && memory.exact, fitWords(rows));
  const lines = rows.map((row) => `${SIGNS.get(row.fits)} ${row.device.name}: ${reason(row, unmeasured)}`);
  const show = (event: { currentTarget: HTMLElement }) => {
    const box = event.currentTarget.getBoundingClientRect();
    tipAt(view, { clientX: box.left, clientY: box.bottom, top: box.top }, words, lines);
  };
  const hide = () => hideTip(view);
  return (
    <>
      <dt>devices</dt>
      <dd class="sw-devices" data-testid="devices">
        <button
          type="button"
          class="sw-link"
          aria-expanded={pinned.value}
          aria-label={`${words}: ${lines.join("; ")}`}
          title={pinned.value ? "fold the table of devices" : undefined}
          onPointerEnter={show}
          onPointerLeave={hide}
          onFocus={show}
          onBlur={hide}
          onClick={() => {
            pinned.value = !pinned.value;
            hide();
          }}
        >
          <span class="sw-fit-marks" aria-hidden="true">
            {rows.map((row) => (
              <i key={row.device.name} data-fits={row.fits === null ? "unknown" : row.fits} />
            ))}
          </span>
          {words}
        </button>
        {pinned.value && <Pinned rows={rows} />}
      </dd>
    </>
  );
}

/** Why a device is too small, or that it is not; `unmeasured` says why activations are not known. */
function reason({ flash, ram, activations, device }: DeviceRow, unmeasured: string): string {
  if (flash.fits === false) return `flash ${flash.text}`;
  if (ram.fits === false) return `RAM ${ram.text}${activations.fits && device.flash ? "; activations alone fit" : ""}`;
  return ram.fits === null ? `RAM ${unmeasured}` : `flash ${flash.text}, RAM ${ram.text}`;
}

function Pinned({ rows }: { rows: readonly DeviceRow[] }) {
  return (
    <div class="sw-table-scroll">
      <DataTable
        testid="devices-table"
        head={["device", "the file in flash", "RAM"]}
        rows={rows.map((row) => [
          <span key="name" title={`${row.device.kind}; ${row.device.datasheet}`}>
            {row.device.name}
          </span>,
          row.flash.text,
          row.ram.text,
        ])}
      />
      <p class="sw-hint">
        Flash and RAM are those of the datasheets. Not counted: {RUNTIME_WORDS.join("; ")}; the RAM of a system and of
        other programs.
      </p>
    </div>
  );
}
