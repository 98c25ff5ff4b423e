// How far some work of the kernel is, in words and as a bar, with the way to stop it.

interface Work {
  /** What is done, such as "recovering: layer 3 of 14". */
  words: string;
  /** How much of it is done, 0…1. */
  done: number;
  stop: () => void;
  testid: string;
  stopId: string;
}

export function WorkLine({ words, done, stop, testid, stopId }: Work) {
  return (
    <div class="sw-work" data-testid={testid}>
      <p class="sw-hint">
        {words}{" "}
        <button type="button" class="sw-link" data-testid={stopId} onClick={stop}>
          stop
        </button>
      </p>
      <span class="sw-progress" data-state="running" aria-hidden="true">
        <i style={{ width: `${100 * done}%` }} />
      </span>
    </div>
  );
}
