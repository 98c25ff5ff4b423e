// The user's settings (schema/checkpoints.json) as a signal, so that what is shown follows them.

import type { ISettingRegistry } from "@jupyterlab/settingregistry";
import { type ReadonlySignal, signal } from "@preact/signals";
import { binaryBytes, bytes } from "../charts/number-format";

export const PLUGIN = "shrinkwidget:checkpoints";

export interface Settings {
  sparsity: number | null;
  bits: number | null;
  byteUnits: "decimal" | "binary";
  /** Checkpoints up to so many GB are sketched without being asked. */
  unaskedGigabytes: number;
  /** What sketching one checkpoint may take; the server may allow less. */
  memoryGigabytes: number;
  minutes: number;
}

/** As in the schema, for the moment before they are read, and where JupyterLab has no settings. */
const DEFAULTS: Settings = {
  sparsity: null,
  bits: null,
  byteUnits: "decimal",
  unaskedGigabytes: 4,
  memoryGigabytes: 8,
  minutes: 60,
};

export interface LiveSettings {
  readonly now: ReadonlySignal<Settings>;
  /** Done once they have been read for the first time. */
  readonly ready: Promise<void>;
  /** Bytes in the unit that the user has chosen. */
  bytes(value: number): string;
}

export function liveSettings(registry: ISettingRegistry | null): LiveSettings {
  const now = signal(DEFAULTS);
  const load = async () => {
    const found = await registry?.load(PLUGIN);
    const read = () => {
      now.value = { ...DEFAULTS, ...found?.composite };
    };
    found?.changed.connect(read);
    read();
  };
  return {
    now,
    ready: load().catch(() => {}), // without them, the defaults hold
    bytes: (value) => (now.value.byteUnits === "binary" ? binaryBytes(value) : bytes(value)),
  };
}
