// The last line, once a training is over: keep its result in a variable or a file.

import { useSignal } from "@preact/signals";
import { AskName, AskPath } from "../explorer/questions";
import { useView } from "./view";

type Asking = "" | "keep" | "save";

export function Result() {
  const { state } = useView();
  const asking = useSignal<Asking>("");
  const done = () => {
    asking.value = "";
  };
  if (state.run.value !== "done" && state.run.value !== "stopped") return null;
  return (
    <footer class="sw-footer">
      {asking.value === "keep" && (
        <AskName action="Keep" testid="keep" submit={(name) => state.ask({ do: "keep", name })} done={done} />
      )}
      {asking.value === "save" && (
        <AskPath
          title={state.title.value}
          submit={(path, entropy) => state.ask({ do: "save", path, entropy })}
          done={done}
        />
      )}
      {asking.value === "" && (
        <div class="sw-buttons">
          <button
            type="button"
            class="sw-primary"
            disabled={state.gone.value}
            data-testid="keep"
            onClick={() => {
              asking.value = "keep";
            }}
          >
            Keep in a variable
          </button>
          <button
            type="button"
            class="sw-button"
            disabled={state.gone.value}
            data-testid="save"
            onClick={() => {
              asking.value = "save";
            }}
          >
            Save file
          </button>
        </div>
      )}
      <Told />
    </footer>
  );
}

function Told() {
  const { failed, text } = useView().state.kept.value;
  return (
    <p class="sw-status" data-kind={failed ? "failed" : "done"} data-testid="kept" role="status" title={text}>
      {text && <i aria-hidden="true" />}
      <span>{text}</span>
    </p>
  );
}
