// The last line, once a training is over: keep its result in a variable or a file, or save a figure of it.

import { FigureButton, SavedFigureView } from "../ui/figure-prompt";
import { figureName } from "../ui/save-names";
import { SavePrompts } from "../ui/save-prompts";
import { useView } from "./view-state";

export function KeepResult() {
  const { state, root } = useView();
  const { again, text } = state.kept.value;
  if (!state.kernel || !state.over.value) return null;
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
        figure={{
          kinds: state.points.value.length > 1 ? ["training", "tradeoff"] : ["training"],
          name: figureName(state.title.value),
          submit: (request) => state.ask({ do: "figure", ...request }),
        }}
        buttons={(ask) => <Buttons ask={ask} />}
      />
      <SavedFigureView figure={state.figure.value} />
      <Told />
    </footer>
  );
}

/** What they keep is said on them: below an explorer stand two pairs of such buttons. */
function Buttons({ ask }: { ask(button: string): void }) {
  const { state } = useView();
  const gone = state.gone.value;
  const { provenance, variable } = state.keeps.value;
  const failed = state.run.value === "failed";
  return (
    <div class="sw-buttons">
      {!failed && (
        <>
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
        </>
      )}
      {state.curves.value.at.length > 0 && <FigureButton disabled={gone} ask={ask} />}
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
