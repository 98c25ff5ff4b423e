// The last line, once a training is over: keep its result in a variable or a file.

import { SavePrompts } from "../ui/save-prompts";
import { useView } from "./hover-state";

export function KeepResult() {
  const { state, root } = useView();
  const { again, text } = state.kept.value;
  if (!state.kernel || (state.run.value !== "done" && state.run.value !== "stopped")) return null;
  return (
    <footer class="sw-footer">
      <SavePrompts
        root={root}
        keep="keep"
        actions={{ keep: "Keep", save: "Save" }}
        names={state.keeps.value}
        question={again ? { text, button: again.do } : null}
        answer={(replace) => {
          state.dismiss();
          if (replace && again) state.ask(again);
        }}
        keepAs={(name) => state.ask({ do: "keep", name })}
        saveTo={(path, entropy) => state.ask({ do: "save", path, entropy })}
        buttons={(ask) => <Buttons ask={ask} />}
      />
      <Told />
    </footer>
  );
}

/** What they keep is said on them: below an explorer stand two pairs of such buttons. */
function Buttons({ ask }: { ask(button: string): void }) {
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
