// The layers of the TypeScript, which docs/architecture.md draws: a file imports only from its own folder and those below.

import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { expect, it } from "vitest";

const ROOT = import.meta.dirname;

/** What each folder may import, besides itself. */
const BELOW: Record<string, readonly string[]> = {
  core: [],
  charts: ["core"],
  ui: ["core", "charts"],
  explorer: ["core", "charts", "ui"],
  monitor: ["core", "charts", "ui"],
  widget: ["core", "charts", "ui", "explorer", "monitor"],
  live: ["core", "charts", "ui", "explorer", "monitor"],
  lab: ["core", "charts", "ui", "explorer", "live"],
  dev: ["core", "charts", "ui", "explorer", "monitor"],
};

/** Data that Python reads as well. */
const SHARED = ["../shrinkwidget/performance/devices.json"];

const STATEMENT = /(?:\bfrom|\bimport|@import)\s*\(?\s*"(\.[^"]+)"/g;

/** The imports of a file that its layer forbids. */
function forbidden(path: string, text: string): string[] {
  const layer = path.split("/")[0];
  const targets = [...text.matchAll(STATEMENT)].map(([, to]) => relative(ROOT, resolve(ROOT, dirname(path), to)));
  const allowed = (to: string) => SHARED.includes(to) || [layer, ...BELOW[layer]].includes(to.split("/")[0]);
  return targets.filter((to) => !allowed(to)).map((to) => `${path} → ${to}`);
}

const sources = readdirSync(ROOT, { recursive: true, encoding: "utf8" }).filter(
  (path) => /\.(tsx?|css)$/.test(path) && path.includes("/"),
);

it("has a layer for every folder", () => {
  expect([...new Set(sources.map((path) => path.split("/")[0]))].sort()).toEqual(Object.keys(BELOW).sort());
});

it("points down only", () => {
  expect(sources.flatMap((path) => forbidden(path, readFileSync(join(ROOT, path), "utf8")))).toEqual([]);
});

it("sees an import that points up", () => {
  expect(forbidden("core/estimate.ts", 'import { ticks } from "../charts/ticks";')).toHaveLength(1);
  expect(forbidden("monitor/monitor.css", '@import "../explorer/index.css";')).toHaveLength(1);
});
