// What is asked before something is kept: the name of a variable, the path of a file.

import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";

interface FormProps {
  label: string;
  value: string;
  action: string;
  testid: string;
  valid(text: string): boolean;
  submit(text: string): void;
  done(): void;
  children?: ComponentChildren;
}

/** One question asked in place of the buttons. */
function Question({ label, value, action, testid, valid, submit, done, children }: FormProps) {
  const input = useRef<HTMLInputElement>(null);
  const text = useSignal(value);
  useEffect(() => input.current?.select(), []);
  return (
    <form
      class="sw-buttons sw-question"
      onSubmit={(event) => {
        event.preventDefault();
        if (!valid(text.value)) return;
        submit(text.value.trim());
        done();
      }}
      onKeyDown={(event) => event.key === "Escape" && done()}
    >
      <label>
        {label}
        <input
          ref={input}
          value={text.value}
          spellcheck={false}
          aria-invalid={!valid(text.value)}
          data-testid={`${testid}-input`}
          onInput={(event) => {
            text.value = event.currentTarget.value;
          }}
        />
      </label>
      {children}
      <button type="submit" class="sw-primary" disabled={!valid(text.value)} data-testid={`${testid}-go`}>
        {action}
      </button>
      <button type="button" class="sw-button" onClick={done}>
        Cancel
      </button>
    </form>
  );
}

const PYTHON_NAME = /^[\p{L}_][\p{L}\p{N}_]*$/u;

interface NameProps {
  action: string;
  testid: string;
  submit(name: string): void;
  done(): void;
}

/** Ask for the name of a variable. */
export function AskName({ action, testid, submit, done }: NameProps) {
  return (
    <Question
      label="variable"
      value="small"
      action={action}
      testid={testid}
      valid={(name) => PYTHON_NAME.test(name.trim())}
      submit={submit}
      done={done}
    />
  );
}

interface PathProps {
  /** Of the model: the file is named after it. */
  title: string;
  submit(path: string, entropy: boolean): void;
  done(): void;
}

/** Ask for the path of a file, and whether it is to be entropy-coded. */
export function AskPath({ title, submit, done }: PathProps) {
  const entropy = useSignal(false);
  return (
    <Question
      label="path"
      value={`${fileName(title)}-small.safetensors`}
      action="Save"
      testid="save"
      valid={(path) => path.trim() !== ""}
      submit={(path) => submit(path, entropy.value)}
      done={done}
    >
      <label class="sw-check" title="smaller to send, slower to open">
        <input
          type="checkbox"
          checked={entropy.value}
          data-testid="entropy"
          onChange={() => {
            entropy.value = !entropy.value;
          }}
        />
        entropy-coded
      </label>
    </Question>
  );
}

/** A title as the beginning of a file name. */
function fileName(title: string): string {
  return title.replace(/[^\p{L}\p{N}._-]+/gu, "-").toLowerCase() || "model";
}
