// What is asked before something is kept: the name of a variable, the path of a file.

import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { onEscape } from "./keyboard";

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
  // Before it is painted: a key pressed right after the button that opened it belongs to it already.
  useLayoutEffect(() => {
    input.current?.focus();
    input.current?.select();
  }, []);
  return (
    <form
      class="sw-buttons sw-question"
      onSubmit={(event) => {
        event.preventDefault();
        if (!valid(text.value)) return;
        submit(text.value.trim());
        done();
      }}
      onKeyDown={onEscape(done)}
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
  /** What is suggested. */
  name: string;
  action: string;
  testid: string;
  submit(name: string): void;
  done(): void;
}

/** Ask for the name of a variable. */
export function NamePrompt({ name, action, testid, submit, done }: NameProps) {
  return (
    <Question
      label="variable"
      value={name}
      action={action}
      testid={testid}
      valid={(text) => PYTHON_NAME.test(text.trim())}
      submit={submit}
      done={done}
    />
  );
}

interface PathProps {
  /** What is suggested. */
  path: string;
  action: string;
  submit(path: string, entropy: boolean): void;
  done(): void;
}

/** Ask for the path of a file, and whether it is to be entropy-coded. */
export function PathPrompt({ path, action, submit, done }: PathProps) {
  const entropy = useSignal(false);
  return (
    <Question
      label="path"
      value={path}
      action={action}
      testid="save"
      valid={(text) => text.trim() !== ""}
      submit={(text) => submit(text, entropy.value)}
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

interface ReplaceProps {
  text: string;
  answer(replace: boolean): void;
}

/** What stands under a name already, and whether it may go. The safe answer has the focus. */
export function ReplacePrompt({ text, answer }: ReplaceProps) {
  const cancel = useRef<HTMLButtonElement>(null);
  useLayoutEffect(() => cancel.current?.focus(), []);
  return (
    // biome-ignore lint/a11y/useSemanticElements: a fieldset needs a legend, and this one is the sentence itself
    <div class="sw-buttons sw-question" role="group" aria-label={text} onKeyDown={onEscape(() => answer(false))}>
      <p data-testid="exists">{text}</p>
      <button type="button" class="sw-button" data-testid="replace" onClick={() => answer(true)}>
        ReplacePrompt
      </button>
      <button ref={cancel} type="button" class="sw-button" data-testid="cancel-replace" onClick={() => answer(false)}>
        Cancel
      </button>
    </div>
  );
}
