// Bundles the widget into shrinkwidget/widgets/static; `--watch` rebuilds on change, with source maps.
import { existsSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import * as esbuild from "esbuild";
import { minify } from "terser";

const MAX_BYTES = 120_000;

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const watch = process.argv.includes("--watch");
const outdir = join(root, "shrinkwidget", "widgets", "static");
const script = "explorer.js";

/** @type {import("esbuild").BuildOptions} */
const options = {
  absWorkingDir: root,
  entryPoints: [
    { in: "js/widget/index.ts", out: "explorer" },
    { in: "js/widget/widget.css", out: "explorer" },
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

/** Make the script smaller still: terser inlines what esbuild leaves, about 2 % of the bundle. */
async function squeeze(path) {
  const { code } = await minify(await readFile(path, "utf8"), { module: true, ecma: 2020, compress: { passes: 3 } });
  await writeFile(path, code);
  return Buffer.byteLength(code);
}

/** Exit with a sentence when the bundle has outgrown its budget; print where the bytes went. */
async function weigh(bytes, metafile) {
  console.log(`${script}: ${(bytes / 1000).toFixed(1)} kB minified, of at most ${MAX_BYTES / 1000} kB`);
  if (bytes > MAX_BYTES) {
    console.error(await esbuild.analyzeMetafile(metafile));
    console.error(`${script} is ${bytes} bytes, over its budget of ${MAX_BYTES}: see above for what is in it`);
    process.exit(1);
  }
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
  await weigh(await squeeze(join(outdir, script)), metafile);
}
