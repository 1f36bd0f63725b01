const FALL = 0.86; // of the level a picture before: it rises at once and sinks slowly

/** A level meter in `node`, whose CSS shows `--level`, 0 to 1; for those who listen it is `role="meter"` in tenths. */
export class Meter {
  #node;
  #read;
  #shown = 0;
  #running = false;

  /** `read()`: the level now, 0 to 1, or null once there is nothing left to measure. */
  constructor(node, read) {
    this.#node = node;
    this.#read = read;
  }

  /** Follow the level until `read()` gives null. */
  run() {
    if (!this.#running) this.#draw();
  }

  #draw() {
    const level = this.#read();
    this.#running = level !== null;
    this.#shown = this.#running ? Math.max(level, this.#shown * FALL) : 0;
    this.#node.style.setProperty("--level", this.#shown.toFixed(3));
    const tenths = String(Math.round(this.#shown * 10));
    if (this.#node.getAttribute("aria-valuenow") !== tenths) this.#node.setAttribute("aria-valuenow", tenths);
    if (this.#running) requestAnimationFrame(() => this.#draw());
  }
}
