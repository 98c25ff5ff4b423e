// The button "Export…": a file for another runtime with exactly these weights, and what that runtime makes of it.

import { useSignal } from "@preact/signals";
import { bytes, percent } from "../charts/number-format";
import { intervalText, metricValue } from "../charts/score-format";
import { WorkLine } from "../ui/progress-line";
import { Question } from "../ui/save-prompts";
import type { Exported, ExportTarget } from "./host-interface";
import { COVERED } from "./predict-before-score";
import { useView } from "./view-state";

const TITLE = "a file for another runtime, with exactly these weights; it is run there, and its score shown";

export function ExportButton({ ask }: { ask(button: string): void }) {
  const { state } = useView();
  const { state: now, targets } = state.exporting.value;
  if (targets.length === 0) return null;
  return (
    <button
      type="button"
      class="sw-button"
      disabled={state.notice.value === "gone" || state.covered.value || now === "running"}
      title={state.covered.value ? COVERED : TITLE}
      data-testid="export"
      onClick={() => ask("export")}
    >
      Export…
    </button>
  );
}

/** Where to, and for which runtime; what is not installed says how to install it. */
export function ExportPrompt({ done }: { done(): void }) {
  const { state } = useView();
  const { targets } = state.exporting.value;
  const installed = targets.find(({ missing }) => !missing) ?? targets[0];
  const target = useSignal(installed.target);
  const chosen = targets.find((one) => one.target === target.value) as ExportTarget;
  const missing = targets.filter((one) => one.missing);
  const stem = state.keeps.value.file.replace(/\.safetensors$/, "");
  return (
    <div class="sw-export-prompt">
      <Question
        key={chosen.target}
        label="path"
        value={`${stem}${chosen.suffix}`}
        action="Export"
        testid="export"
        valid={(text) => text.trim() !== "" && !chosen.missing}
        submit={(path) => state.send({ do: "export", path, target: chosen.target })}
        done={done}
      >
        <label>
          for
          <select
            value={target.value}
            data-testid="export-target"
            onChange={(event) => {
              target.value = event.currentTarget.value;
            }}
          >
            {targets.map((one) => (
              <option key={one.target} value={one.target} disabled={one.missing !== ""}>
                {one.target}
              </option>
            ))}
          </select>
        </label>
      </Question>
      {missing.map((one) => (
        <p key={one.target} class="sw-hint" data-testid="export-missing">
          {one.missing}
        </p>
      ))}
    </div>
  );
}

/** How far an export is, with the way to stop it, or what came of it. */
export function ExportLine() {
  const { state } = useView();
  const { state: now, text, done, exported } = state.exporting.value;
  if (state.notice.value === "gone") return null;
  if (now === "done" && exported) return <Result exported={exported} />;
  if (now !== "running") return null;
  const stop = () => state.send({ do: "stop_export" });
  return <WorkLine words={`exporting: ${text}`} done={done} stop={stop} testid="exporting" stopId="stop-export" />;
}

function Result({ exported }: { exported: Exported }) {
  const { state } = useView();
  const { path, nbytes, more, exact, runtime, score, torch_score: torch, notes } = exported;
  const metric = state.metric.value;
  const name = path.split(/[\\/]/).at(-1);
  const beside = more >= 0 ? `${percent(more, 1)} more` : `${percent(-more, 1)} less`;
  return (
    <div class="sw-exported" data-testid="exported" title={path}>
      <p>
        <b>{name}</b> {bytes(nbytes)}, {beside} than the packed file · <b>{exact}</b>
        {score && (
          <>
            {" "}
            · {metric.name} {metricValue(metric, score.value)} ({intervalText(metric, score)}) in {runtime}
            {torch && `, ${metricValue(metric, torch.value)} in torch`}
          </>
        )}
      </p>
      {notes.map((note) => (
        <p key={note} class="sw-hint">
          {note}
        </p>
      ))}
    </div>
  );
}
