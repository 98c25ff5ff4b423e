// The last line, once a training is over: keep its result in a variable or a file.

import { useSignal } from "@preact/signals";
import { focusAfter } from "../ui/keyboard";
import { NamePrompt, PathPrompt, ReplacePrompt } from "../ui/save-prompts";
import { useView } from "./view-state";

type Asking = "" | "keep" | "save";

export function KeepResult() {
  const { state, root } = useView();
  const asking = useSignal<Asking>("");
  const backTo = (button: string) => focusAfter(root, `footer [data-testid=${button}]`);
  const done = () => {
    backTo(asking.value);
    asking.value = "";
  };
  const { again, text } = state.kept.value;
  const answer = (replace: boolean) => {
    state.dismiss();
    if (replace && again) state.ask(again);
    if (again) backTo(again.do);
  };
  if (state.run.value !== "done" && state.run.value !== "stopped") return null;
  return (
    <footer class="sw-footer">
      {again && <ReplacePrompt text={text} answer={answer} />}
      {!again && asking.value === "keep" && (
        <NamePrompt
          name={state.keeps.value.variable}
          action="Keep"
          testid="keep"
          submit={(name) => state.ask({ do: "keep", name })}
          done={done}
        />
      )}
      {!again && asking.value === "save" && (
        <PathPrompt
          path={state.keeps.value.file}
          action="Save"
          submit={(path, entropy) => state.ask({ do: "save", path, entropy })}
          done={done}
        />
      )}
      {!again && asking.value === "" && <Buttons ask={(what) => (asking.value = what)} />}
      <Told />
    </footer>
  );
}

/** What they keep is said on them: below an explorer stand two pairs of such buttons. */
function Buttons({ ask }: { ask(what: Asking): void }) {
  const { state } = useView();
  const gone = state.gone.value;
  const { provenance, variable } = state.keeps.value;
  return (
    <div class="sw-buttons">
      <button
        type="button"
        class="sw-primary"
        disabled={gone}
        title={provenance}
        data-testid="keep"
        onClick={() => ask("keep")}
      >
        Keep {variable} model in a variable
      </button>
      <button
        type="button"
        class="sw-button"
        disabled={gone}
        title={provenance}
        data-testid="save"
        onClick={() => ask("save")}
      >
        Save {variable} file
      </button>
    </div>
  );
}

function Told() {
  const kept = useView().state.kept.value;
  const { failed } = kept;
  const text = kept.again ? "" : kept.text;
  return (
    <p class="sw-status" data-kind={failed ? "failed" : "done"} data-testid="kept" role="status" title={text}>
      {text && <i aria-hidden="true" />}
      <span>{text}</span>
    </p>
  );
}
