// The last line: keep what you found (a variable, a file, code), and what the kernel is doing.

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { recipeCode } from "../core/recipe";
import type { Status } from "./model";
import { AskName, AskPath } from "./questions";
import type { State } from "./state";
import { useView } from "./view";

type Asking = "" | "compress" | "save";

export function Footer() {
  const { state } = useView();
  const asking = useSignal<Asking>("");
  const done = () => {
    asking.value = "";
  };
  return (
    <footer class="sw-footer">
      {asking.value === "compress" && (
        <AskName
          action="Compress"
          testid="compress"
          submit={(name) => state.send({ do: "compress", name })}
          done={done}
        />
      )}
      {asking.value === "save" && (
        <AskPath
          title={state.title.value || state.sketch.value.title}
          submit={(path, entropy) => state.send({ do: "save", path, entropy })}
          done={done}
        />
      )}
      {asking.value === "" && <Buttons ask={(what) => (asking.value = what)} />}
      <StatusLine />
    </footer>
  );
}

function Buttons({ ask }: { ask(what: Asking): void }) {
  const { state } = useView();
  const gone = state.notice.value === "gone";
  return (
    <div class="sw-buttons">
      <button type="button" class="sw-primary" disabled={gone} data-testid="compress" onClick={() => ask("compress")}>
        Compress into a variable
      </button>
      <button type="button" class="sw-button" disabled={gone} data-testid="save" onClick={() => ask("save")}>
        Save file
      </button>
      {state.metric.value.has_train && (
        <button
          type="button"
          class="sw-button"
          disabled={gone}
          data-testid="retrain"
          onClick={() => state.send({ do: "retrain" })}
        >
          Retrain…
        </button>
      )}
      <CopyCode />
    </div>
  );
}

function CopyCode() {
  const { state } = useView();
  const copied = useSignal<"" | "copied" | "failed">("");
  const fallback = useRef<HTMLInputElement>(null);
  const code = recipeCode(state.recipe.value);
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
  retrain: "about to train…",
  evaluate: "evaluating…",
  estimate: "counting…",
  recipe: "",
  "": "",
};

/** What the right end of the footer says: trouble first, then work, then how exact the figures are. */
function statusWords(state: State): { kind: string; text: string } {
  const status = state.status.value;
  const exact = state.figures.value.exact;
  if (state.notice.value === "gone") return { kind: "failed", text: "kernel gone: preview only, run the cell again" };
  if (status.state === "failed") return { kind: "failed", text: status.text };
  if (state.notice.value === "busy") return { kind: "waiting", text: "kernel busy: preview only" };
  if (status.state === "busy" && status.what !== "estimate")
    return { kind: "busy", text: status.text || BUSY_WORDS[status.what] };
  if (status.state === "done" && status.text) return { kind: "done", text: status.text };
  if (!exact) return { kind: "preview", text: "≈ preview" };
  const seconds = state.seconds.value;
  return { kind: "exact", text: seconds === null ? "exact" : `exact · ${Math.max(1, Math.round(1000 * seconds))} ms` };
}

function StatusLine() {
  const { state } = useView();
  const { kind, text } = statusWords(state);
  return (
    <p class="sw-status" data-kind={kind} data-testid="status" role="status" title={text}>
      <i aria-hidden="true" />
      <span>{text}</span>
    </p>
  );
}
