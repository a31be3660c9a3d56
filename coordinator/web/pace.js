// How often something is done.

/** Does `action` when it is called, but at most once in so many milliseconds; the last call counts. */
export function atMostEvery(milliseconds, action) {
  let doneAt = 0;
  let timer = null;
  return function act() {
    if (timer) return;
    timer = setTimeout(
      () => {
        timer = null;
        doneAt = Date.now();
        action();
      },
      Math.max(0, doneAt + milliseconds - Date.now()),
    );
  };
}
