import { get, post } from "./api.js";
import { byId, element } from "./dom.js";
import { say } from "./i18n.js";
import { guard } from "./notice.js";

/** The buttons in `#states`: what the picture shows, for the session that `sessionId()` names. */
export class States {
  #sessionId;
  #box = byId("states");

  constructor(sessionId) {
    this.#sessionId = sessionId;
  }

  /** Ask which states there are, and which is on. */
  async load() {
    const { data, states } = await get(`get_audiotype?sessionid=${this.#sessionId()}`);
    this.#box.replaceChildren(...states.map((audiotype) => this.#button(audiotype)));
    this.mark(data);
  }

  clear() {
    this.#box.replaceChildren();
  }

  /** Show `audiotype` as the one that is on. */
  mark(audiotype) {
    for (const button of this.#box.children) button.setAttribute("aria-pressed", button.value === String(audiotype));
  }

  #button(audiotype) {
    const click = () => guard(() => this.#choose(audiotype));
    const button = element("button", { type: "button", value: audiotype, click });
    say(button, audiotype > 1 ? "states.n" : `states.${audiotype}`, { n: audiotype });
    return button;
  }

  async #choose(audiotype) {
    await post("set_audiotype", { sessionid: this.#sessionId(), audiotype, reinit: byId("reinit").checked });
    this.mark(audiotype);
  }
}
