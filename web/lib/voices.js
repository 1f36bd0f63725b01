import { get, postForFile } from "./api.js";
import { byId, element, redraw } from "./dom.js";
import { Failure } from "./failure.js";
import { label, say, t } from "./i18n.js";
import { guard } from "./notice.js";

const KEY = "vivace.voice";

/** The menu `#voice`, and `#preview` beside it to hear one; hidden where the server offers no choice. */
export class Voices {
  #voices = [];
  #sound = null;

  constructor() {
    byId("voice").addEventListener("change", ({ target }) => {
      localStorage.setItem(KEY, target.value);
      this.#hush();
    });
    byId("preview").addEventListener("click", () => (this.#sound ? this.#hush() : guard(() => this.#preview())));
    addEventListener("languageturned", () => this.#draw(this.chosen));
  }

  /** The id of the voice that was chosen, "" for the server's own. */
  get chosen() {
    return byId("voice").value;
  }

  /** Ask which voices there are. A server that cannot tell is like one that has no choice. */
  async load() {
    try {
      this.#voices = (await get("api/voices")).data.voices;
    } catch (failure) {
      if (failure.key !== "error.missing") throw failure;
    }
    this.#draw(localStorage.getItem(KEY));
    byId("voice-box").hidden = !this.#voices.length;
  }

  #draw(chosen) {
    const unnamed = element("option", { value: "" });
    say(unnamed, "voice.default");
    byId("voice").replaceChildren(unnamed, ...groups(this.#voices));
    byId("voice").value = this.#voices.some(({ id }) => id === chosen) ? chosen : "";
  }

  async #preview() {
    const button = byId("preview");
    if (button.getAttribute("aria-busy") === "true") return;
    const voice = this.chosen;
    button.setAttribute("aria-busy", "true");
    try {
      const file = await postForFile("api/voices/preview", { voice });
      if (voice === this.chosen) await this.#play(URL.createObjectURL(file));
    } finally {
      button.setAttribute("aria-busy", "false");
    }
  }

  async #play(url) {
    const sound = (this.#sound = new Audio(url));
    sound.addEventListener("ended", () => this.#hush());
    this.#show();
    try {
      await sound.play();
    } catch (error) {
      if (this.#sound !== sound) return; // stopped before it began
      this.#hush();
      throw new Failure("error.preview", error.message);
    }
  }

  #hush() {
    if (!this.#sound) return;
    this.#sound.pause();
    URL.revokeObjectURL(this.#sound.src);
    this.#sound = null;
    this.#show();
  }

  #show() {
    label(byId("preview"), this.#sound ? "voice.hush" : "voice.preview");
    redraw(byId("preview").firstElementChild, this.#sound ? "interrupt" : "play");
  }
}

/** Voices that somebody brought first, then those of the page's language, then the others, an `<optgroup>` each. */
function groups(voices) {
  const members = new Map();
  for (const voice of voices) {
    const key = voice.kind === "reference" ? "own" : (/^[a-z]{2,3}\b/i.exec(voice.language)?.[0].toLowerCase() ?? "");
    members.set(key, [...(members.get(key) ?? []), voice]);
  }
  const keys = [...members.keys()];
  keys.sort((one, other) => rank(one) - rank(other) || title(one).localeCompare(title(other)));
  return keys.map((key) => element("optgroup", { label: title(key) }, ...members.get(key).map(option)));
}

const option = ({ id, title }) => element("option", { value: id }, title || id);

function rank(key) {
  const first = ["own", document.documentElement.lang.slice(0, 2)];
  return first.includes(key) ? first.indexOf(key) : first.length + !key;
}

function title(key) {
  if (key === "own" || key === "") return t(key ? "voice.own" : "voice.other");
  return new Intl.DisplayNames([document.documentElement.lang], { type: "language" }).of(key);
}
