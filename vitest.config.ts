// Where the TypeScript tests are. A test that needs a page says so with `// @vitest-environment happy-dom`.
import { defineConfig } from "vitest/config";

export default defineConfig({
  esbuild: { jsx: "automatic", jsxImportSource: "preact" },
  test: {
    include: ["js/**/*.test.{ts,tsx}", "tests/js/**/*.test.{ts,tsx}"],
  },
});
