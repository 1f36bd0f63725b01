import { address, download, post } from "./api.js";
import { byId, element } from "./dom.js";
import { label } from "./i18n.js";
import { guard } from "./notice.js";
import { token } from "./token.js";

/** `#record` and `#download`: a film of the session that `sessionId()` names, made by the server. */
export class Recorder {
  #sessionId;
  #running = false;
  #recorded = null;

  constructor(sessionId) {
    this.#sessionId = sessionId;
    byId("record").addEventListener("click", () => guard(() => this.#toggle()));
    byId("download").addEventListener("click", (event) => {
      if (!token()) return;
      event.preventDefault();
      guard(() => this.#save());
    });
  }

  /** The session has ended, and its recording with it; what was recorded can still be fetched. */
  ended() {
    if (this.#running) this.#show(false);
  }

  async #toggle() {
    const start = !this.#running;
    this.#recorded = this.#sessionId();
    await post("record", { sessionid: this.#recorded, type: start ? "start_record" : "end_record" });
    this.#show(start);
  }

  #show(running) {
    this.#running = running;
    byId("record").setAttribute("aria-pressed", running);
    label(byId("record"), running ? "record.stop" : "record");
    const link = byId("download");
    link.hidden = running;
    link.href = address(`record/${this.#recorded}`);
    link.download = `vivace-${this.#recorded}.mp4`;
  }

  /** A link cannot carry a token, so fetch the film and hand it over. */
  async #save() {
    const url = URL.createObjectURL(await download(`record/${this.#recorded}`));
    element("a", { href: url, download: byId("download").download }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  }
}
