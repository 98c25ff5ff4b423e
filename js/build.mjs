// Bundles the widget into shrinkwidget/widgets/static, and the JupyterLab extension into shrinkwidget/labextension;
// `--watch` rebuilds the widget on change, with source maps.
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { copyFile, cp, mkdir, readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import * as esbuild from "esbuild";
import { minify } from "terser";

/** What a script may weigh as it travels: gzipped, in bytes. */
const MAX_GZIP = 80_000;

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const watch = process.argv.includes("--watch");
const outdir = join(root, "shrinkwidget", "widgets", "static");
const scripts = ["explorer.js", "monitor.js", "explorer-page.js", "monitor-page.js"];

// Nothing that assumes what code does not promise. `pure_getters` would delete every bare `signal.value`, which is how an
// effect subscribes: the ridge then stood still wherever it was mounted out of sight.
const SQUEEZED = { passes: 3, hoist_props: true, keep_fargs: false };

/** @type {import("esbuild").BuildOptions} */
const options = {
  absWorkingDir: root,
  entryPoints: [
    { in: "js/widget/explorer.ts", out: "explorer" },
    { in: "js/widget/explorer-in-jupyter.css", out: "explorer" },
    { in: "js/widget/monitor.ts", out: "monitor" },
    { in: "js/widget/monitor-in-jupyter.css", out: "monitor" },
    { in: "js/live/explorer-page.ts", out: "explorer-page" },
    { in: "js/live/explorer-page.css", out: "explorer-page" },
    { in: "js/live/monitor-page.ts", out: "monitor-page" },
    { in: "js/live/monitor-page.css", out: "monitor-page" },
  ],
  outdir,
  bundle: true,
  format: "esm",
  target: "es2022",
  minify: !watch,
  sourcemap: watch ? "inline" : false,
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  charset: "utf8",
  metafile: true,
  logLevel: watch ? "info" : "warning",
};

/** Make the script smaller still: terser inlines what esbuild leaves. Returns its size, minified and gzipped. */
async function squeeze(path) {
  const { code } = await minify(await readFile(path, "utf8"), { module: true, ecma: 2020, compress: SQUEEZED });
  if (/<\/script|<!--/i.test(code)) throw new Error(`${path} cannot stand inside a page: it would end its <script>`);
  await writeFile(path, code);
  return { minified: Buffer.byteLength(code), gzipped: gzipSync(code, { level: 9 }).length };
}

/** Print what a script weighs; exit with a sentence, and where the bytes went, when it has outgrown its budget. */
async function weigh(script, { minified, gzipped }, metafile) {
  const [kB, most] = [gzipped, MAX_GZIP].map((bytes) => (bytes / 1000).toFixed(1));
  console.log(`${script}: ${kB} kB gzipped, of at most ${most} kB (${(minified / 1000).toFixed(1)} kB minified)`);
  if (gzipped > MAX_GZIP) {
    console.error(await esbuild.analyzeMetafile(metafile));
    console.error(`${script} is ${gzipped} bytes gzipped, over its budget of ${MAX_GZIP}: see above for what is in it`);
    process.exit(1);
  }
}

/**
 * Bundle the extension's own modules, and let Jupyter's builder make of them what JupyterLab loads: its packages are
 * those of the running JupyterLab, and none of them is in the bundle.
 */
async function buildLabExtension() {
  const folder = join(root, "build", "labextension");
  await esbuild.build({
    ...options,
    entryPoints: [
      { in: "js/lab/index.ts", out: "index" },
      { in: "js/lab/models-panel-and-checkpoint.css", out: "index" },
    ],
    outdir: folder,
    external: ["@jupyterlab/*", "@lumino/*"],
    sourcemap: false,
  });
  await copyFile(join(root, "js", "lab", "package.json"), join(folder, "package.json"));
  await cp(join(root, "js", "lab", "schema"), join(folder, "schema"), { recursive: true });
  const { resolve } = createRequire(import.meta.url);
  const core = resolve("@jupyterlab/core-meta/core.package.json");
  const builder = resolve("@jupyter/builder/lib/build-labextension.js");
  execFileSync(process.execPath, [builder, "--core-package-file", core, folder], {
    stdio: ["ignore", "ignore", "inherit"],
  });
}

for (const { in: entry } of options.entryPoints) {
  if (!existsSync(join(root, entry))) {
    console.error(`cannot build: ${entry} is missing`);
    process.exit(1);
  }
}
await mkdir(outdir, { recursive: true });
if (watch) {
  const context = await esbuild.context(options);
  await context.watch();
} else {
  const { metafile } = await esbuild.build(options);
  for (const script of scripts) await weigh(script, await squeeze(join(outdir, script)), metafile);
  await buildLabExtension();
}
