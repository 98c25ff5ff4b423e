// Serves the development page: `node js/dev/serve.mjs FOLDER`, FOLDER holding files made by `sketch(model).encode()`, named *.sketch.
import { copyFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import * as esbuild from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const folder = resolve(process.argv[2] ?? ".");
const context = await esbuild.context({
  entryPoints: [join(here, "dev-page.ts"), join(here, "dev-page.css")],
  outdir: folder,
  bundle: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  sourcemap: "inline",
});
await copyFile(join(here, "index.html"), join(folder, "index.html"));
const { port } = await context.serve({ servedir: folder, host: "127.0.0.1" });
console.log(`http://127.0.0.1:${port}/?sketch=NAME&theme=dark&data=0&width=900`);
