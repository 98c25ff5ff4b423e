// The last line: keep what you found (a variable, a file, code), and what the kernel is doing.

import { useComputed, useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { pythonClasses } from "../core/control-schema";
import { recipeCode } from "../core/recipe";
import { FigureButton, SavedFigureView } from "../ui/figure-prompt";
import { Term } from "../ui/help";
import { figureName, type Keeps, PLAIN } from "../ui/save-names";
import { SavePrompts } from "../ui/save-prompts";
import type { State } from "./explorer-state";
import { ExportButton, ExportLine, ExportPrompt } from "./export-for-runtime";
import type { Status } from "./host-interface";
import { sketchingWords } from "./layer-and-file-figures";
import { COVERED } from "./predict-before-score";
import { RecoverButton, RecoveryLine } from "./recover-button";
import { GONE, ScreenReaderStatus } from "./screen-reader";
import { useView } from "./view-state";

export function Footer() {
  const { state, root } = useView();
  const { keeps } = state;
  const { again, text, what, state: status } = state.status.value;
  const words = wordsOf(keeps.value);
  if (!state.kernel) {
    return (
      <footer class="sw-footer">
        <div class="sw-buttons">
          <CopyCode />
        </div>
        <StatusLine />
        <ScreenReaderStatus />
      </footer>
    );
  }
  return (
    <footer class="sw-footer">
      <SavePrompts
        root={root}
        keep="compress"
        actions={{ keep: words.compress, save: words.save }}
        names={keeps.value}
        question={status === "exists" && again ? { text, button: what } : null}
        answer={(replace) => {
          state.dismiss();
          if (replace && again) state.send(again);
        }}
        keepAs={(name) => state.send({ do: "compress", name })}
        saveTo={(path, entropy) => state.send({ do: "save", path, entropy })}
        figure={{
          kinds: figureKinds(state),
          name: figureName(state.title.value),
          submit: (request) => state.send({ do: "figure", ...request }),
        }}
        more={{ export: (done) => <ExportPrompt done={done} /> }}
        buttons={(ask) => <Buttons ask={ask} />}
      />
      <RecoveryLine />
      <ExportLine />
      <SavedFigureView figure={state.figure.value} />
      <StatusLine />
      <ScreenReaderStatus />
    </footer>
  );
}

/** The figures that there is something to show for. */
function figureKinds(state: State): string[] {
  const { history, sensitivity, byClass } = state;
  const more = {
    tradeoff: history.value.length > 0,
    sensitivity: sensitivity.value?.state === "done",
    classes: byClass.value !== null,
  };
  const found = Object.entries(more).filter(([, known]) => known);
  return ["summary", "distributions", "size", "silhouette", ...found.map(([kind]) => kind)];
}

/** What the buttons keep: the weights as they came, compressed, or what a training or batch norm's statistics made of them. */
function wordsOf({ provenance, variable }: Keeps) {
  return provenance === PLAIN
    ? { compress: "Compress", save: "Save", variable: "Compress into a variable", file: "Save compressed file" }
    : {
        compress: "Keep",
        save: "Save",
        variable: `Keep ${variable} model in a variable`,
        file: `Save ${variable} file`,
      };
}

/** Where no training can be shown, how to have one all the same. */
const ELSEWHERE =
  "a training cannot be shown in this host: run = sw.retrain(ex.compress(), train_data, eval_data, background=True), " +
  "then sw.monitor(run)";

function Buttons({ ask }: { ask(button: string): void }) {
  const { state } = useView();
  const gone = state.notice.value === "gone";
  const elsewhere = useSignal(false);
  const words = wordsOf(state.keeps.value);
  const what = `${words.variable}: ${state.keeps.value.provenance}`;
  return (
    <div class="sw-buttons">
      <button
        type="button"
        class="sw-primary"
        disabled={gone}
        title={what}
        data-testid="compress"
        onClick={() => ask("compress")}
      >
        {words.variable}
      </button>
      <button
        type="button"
        class="sw-button"
        disabled={gone}
        title={`${words.file}: ${state.keeps.value.provenance}`}
        data-testid="save"
        onClick={() => ask("save")}
      >
        {words.file}
      </button>
      {state.metric.value.has_train && !state.simple.value && (
        <button
          type="button"
          class="sw-button"
          disabled={gone || state.covered.value} // a training shows the score it begins with
          title={state.covered.value ? COVERED : undefined}
          data-testid="retrain"
          onClick={() => {
            elsewhere.value = !state.nests;
            if (state.nests) state.send({ do: "retrain" });
          }}
        >
          Retrain…
        </button>
      )}
      {!state.simple.value && <RecoverButton />}
      {!state.simple.value && <ExportButton ask={ask} />}
      {!state.simple.value && <FigureButton disabled={gone} ask={ask} />}
      <CopyCode />
      {elsewhere.value && (
        <p class="sw-hint" role="alert" data-testid="elsewhere">
          {ELSEWHERE}
        </p>
      )}
    </div>
  );
}

function CopyCode() {
  const { state } = useView();
  const copied = useSignal<"" | "copied" | "failed">("");
  const fallback = useRef<HTMLInputElement>(null);
  const code = useComputed(() => {
    const recipe = state.dragging.value ? state.recipe.peek() : state.recipe.value; // nobody copies during a drag
    return recipeCode(recipe, pythonClasses(state.kinds.value));
  }).value;
  const copy = async () => {
    copied.value = (await writeClipboard(code)) ? "copied" : "failed";
    if (copied.value === "copied") setTimeout(() => (copied.value = ""), 1600);
  };
  useEffect(() => {
    if (copied.value === "failed") fallback.current?.select();
  }, [copied.value]);
  return (
    <>
      <button type="button" class="sw-button sw-copy" title={code} data-testid="copy" onClick={copy}>
        {copied.value === "copied" ? "Copied" : "Copy as code"}
      </button>
      {copied.value === "failed" && (
        <input
          ref={fallback}
          class="sw-code"
          readOnly
          value={code}
          aria-label="The recipe as code: copy it from here"
        />
      )}
    </>
  );
}

/** Copy by the clipboard interface, or the old way where a page may not use it. */
async function writeClipboard(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.style.cssText = "position:fixed;opacity:0";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

const BUSY_WORDS: Record<Status["what"], string> = {
  compress: "compressing…",
  save: "saving…",
  export: "exporting…",
  figure: "drawing…",
  retrain: "about to train…",
  race: "about to race…",
  evaluate: "evaluating…",
  estimate: "counting…",
  look: "looking again…",
  goto: "going back…",
  recipe: "",
  "": "",
};

/** What the right end of the footer says: trouble first, then work, then how exact the figures are. */
function statusWords(state: State): { kind: string; text: string } {
  const status = state.status.value;
  const exact = state.figures.value.exact;
  if (state.notice.value === "gone") return { kind: "failed", text: GONE };
  if (status.state === "failed") return { kind: "failed", text: status.text };
  if (state.unsketched.value) return { kind: "failed", text: state.unsketched.value };
  if (state.sketching.value) {
    // without a kernel, whoever reads the weights says whether that goes on
    return { kind: state.kernel ? "busy" : "waiting", text: sketchingWords(state.sketching.value) };
  }
  if (state.notice.value === "busy") return { kind: "waiting", text: "kernel busy: preview only" };
  if (status.state === "busy" && status.what !== "estimate")
    return { kind: "busy", text: status.text || BUSY_WORDS[status.what] };
  if (status.state === "exists") return { kind: "waiting", text: "" };
  if (status.state === "done" && status.text) return { kind: "done", text: status.text };
  if (!state.kernel && state.exactOnly.value.waiting)
    return { kind: "failed", text: "no figures of this recipe: needs the kernel" };
  if (!state.kernel && !exact) return { kind: "preview", text: "≈ estimate: exact figures need the kernel" };
  if (state.exactOnly.value.waiting) return { kind: "waiting", text: "exact only: counting…" };
  if (!exact) return { kind: "preview", text: "≈ preview" };
  if (!state.kernel) return { kind: "exact", text: "exact, as the kernel counted" };
  const seconds = state.seconds.value;
  return { kind: "exact", text: seconds === null ? "exact" : `exact · ${Math.max(1, Math.round(1000 * seconds))} ms` };
}

function StatusLine() {
  const { state } = useView();
  const { kind, text } = statusWords(state);
  return (
    <p class="sw-status" data-kind={kind} data-testid="status" title={text}>
      <i aria-hidden="true" />
      <span>
        {kind === "exact" || kind === "preview" ? <Term of={kind === "exact" ? kind : "estimate"}>{text}</Term> : text}
      </span>
    </p>
  );
}
