// Which boards and phones a model fits (the twin of shrinkwidget/performance/device_fit.py, on the same data).

import found from "../../shrinkwidget/performance/devices.json";
import { bytes } from "./number-format";

export interface Device {
  name: string;
  kind: string;
  /** Bytes of its own flash; null where files are on a card. */
  flash: number | null;
  ram: number;
  /** The name of a runtime that runs there, or null. */
  runtime: string | null;
  datasheet: string;
}

/** What a model needs of one kind of memory, against what a device has. */
export interface Room {
  /** Null where too little is known. */
  fits: boolean | null;
  /** Bytes by which it is too large. */
  over: number;
  /** The same in words. */
  text: string;
}

export interface DeviceRow {
  device: Device;
  flash: Room;
  ram: Room;
  /** What a runtime needs that reads weights from flash. */
  activations: Room;
  fits: boolean | null;
}

export interface Needs {
  file: number;
  /** Bytes of weights as they run, and the peak of activations; null where not known. */
  weights: number | null;
  activations: number | null;
}

export const DEVICES: readonly Device[] = found.devices;

/** What runtimes take themselves, which is counted nowhere. */
export const RUNTIME_WORDS = Object.entries(found.runtimes).map(
  ([name, { nbytes, what }]) => `${name} itself, ${bytes(nbytes)} of flash (${what})`,
);

/** Every device, and what a model takes there. */
export function deviceRows({ file, weights, activations }: Needs, devices = DEVICES): DeviceRow[] {
  // weights alone are a lower bound: they may be too large, but say not that the model fits
  const complete = weights !== null && activations !== null;
  const least = complete ? weights + activations : weights;
  return devices.map((device) => {
    const flash = room(file, true, device.flash);
    const ram = room(least, complete, device.ram);
    const both = [flash.fits, ram.fits];
    const fits = both.includes(false) ? false : both.includes(null) ? null : true;
    return { device, flash, ram, activations: room(activations, true, device.ram), fits };
  });
}

/** `need` is null where nothing of it is known, and a lower bound unless `complete`; `capacity` null without a limit. */
export function room(need: number | null, complete: boolean, capacity: number | null): Room {
  if (capacity === null) return { fits: true, over: 0, text: "on a card" };
  if (need !== null && need > capacity) {
    return { fits: false, over: need - capacity, text: `no, ${bytes(need - capacity)} over` };
  }
  if (need === null || !complete) return { fits: null, over: 0, text: "unknown" };
  // rounded down, so that 100 % is only what fills it to the last byte
  const tenths = Math.floor((1000 * need) / capacity);
  const share = tenths === 0 ? "< 0.1" : tenths < 100 ? (tenths / 10).toFixed(1) : String(Math.floor(tenths / 10));
  return { fits: true, over: 0, text: `fits, ${share} %` };
}

/** How many devices a model fits, in words. */
export function fitWords(rows: readonly DeviceRow[]): string {
  const unknown = rows.filter((row) => row.fits === null).length;
  const known = `fits ${rows.filter((row) => row.fits).length} of ${rows.length} devices`;
  return unknown ? `${known}, unknown of ${unknown}` : known;
}
