import { byId } from "./dom.js";
import { Failure } from "./failure.js";
import { say } from "./i18n.js";
import { Meter } from "./meter.js";
import { Microphone } from "./microphone.js";
import { clear, guard, show } from "./notice.js";

const KEY = "vivace.talk";
const TAIL_MS = 1000; // of silence that is still sent: the server hears in it that the turn has ended
const REST_MS = 30_000; // a microphone that waits for the next push stays open: opening it would eat the first word
const HAS_KEYBOARD = matchMedia("(hover: hover)");
const USE_SPACE = "textarea, select, summary, a, button:not(#talk), input:not([type=radio]), [contenteditable]";

/**
 * `#talk` and what is beside it: the user's voice for `session`, hands-free or while the button or Space is held.
 *
 * The microphone opens when it is wanted first, which also starts a session if there is none, and closes with it.
 */
export class Talk {
  #session;
  #start;
  #microphone = new Microphone((failure) => this.#fail(failure));
  #meter = new Meter(byId("level"), () => (this.#microphone.track ? this.#microphone.level() : null));
  #wanted = false;
  #resting = null;

  /** `start()` opens a session. */
  constructor(session, start) {
    this.#session = session;
    this.#start = start;
    session.addEventListener("state", ({ detail }) => this.#sessionChanged(detail));
    this.#offerModes();
    this.#wireButton();
    this.#wireSpace();
    this.#show();
  }

  /** Whether the microphone is held open by a finger or a key, rather than switched on. */
  get pushes() {
    return byId("talk-push").checked;
  }

  #offerModes() {
    if (localStorage.getItem(KEY) === "push") byId("talk-push").checked = true;
    byId("talk-mode").addEventListener("change", ({ target }) => {
      localStorage.setItem(KEY, target.value);
      this.#rest();
    });
  }

  #wireButton() {
    const button = byId("talk");
    button.addEventListener("click", (event) => {
      const byPointer = event.detail > 0; // keyboards and screen readers click, and cannot hold
      if (!this.pushes || !byPointer) this.#toggle();
    });
    button.addEventListener("pointerdown", (event) => {
      if (!this.pushes || event.button) return;
      button.setPointerCapture(event.pointerId);
      this.#listen();
    });
    button.addEventListener("lostpointercapture", () => this.#release());
    button.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  /** While Space is held: not where it writes, or presses something else. */
  #wireSpace() {
    let held = false;
    const release = () => {
      if (held) this.#release();
      held = false;
    };
    addEventListener("keydown", (event) => {
      if (!this.#isPush(event)) return;
      event.preventDefault();
      if (!held) this.#listen();
      held = true;
    });
    addEventListener("keyup", (event) => {
      if (event.code !== "Space" || !held) return;
      event.preventDefault();
      release();
    });
    addEventListener("blur", release);
  }

  #isPush({ code, target, ctrlKey, altKey, metaKey }) {
    if (code !== "Space" || !this.pushes || ctrlKey || altKey || metaKey || target.closest(USE_SPACE)) return false;
    return this.#session.state === "live" || target === byId("talk");
  }

  #toggle() {
    if (this.#wanted) this.#rest();
    else this.#listen();
  }

  #release() {
    if (this.pushes) this.#rest();
  }

  #listen() {
    if (this.#session.state === "failed") this.#session.stop();
    clearTimeout(this.#resting);
    this.#wanted = true;
    this.#show();
    return this.#guard(() => this.#open());
  }

  async #open() {
    await this.#microphone.open();
    this.#meter.run();
    clear();
    if (!this.#wanted) return this.#rest(); // let go while the browser was asking
    if (this.#session.state === "idle") this.#start();
    await this.#send();
  }

  /** Let the session have what the microphone hears, as soon as it is live. */
  async #send() {
    const { track } = this.#microphone;
    if (!track || !this.#wanted || this.#session.state !== "live") return;
    if (!this.#session.listens) throw new Failure("error.deaf");
    track.enabled = true;
    await this.#session.sendSound(track);
    this.#show();
  }

  /** Listen no longer; the device is let go of a little later, unless it is wanted again before. */
  #rest() {
    this.#wanted = false;
    if (this.#microphone.track) this.#microphone.track.enabled = false;
    clearTimeout(this.#resting);
    this.#resting = setTimeout(() => this.#close(), this.pushes ? REST_MS : TAIL_MS);
    this.#show();
  }

  #close() {
    clearTimeout(this.#resting);
    this.#wanted = false;
    this.#session.sendSound(null);
    this.#microphone.close();
    this.#show();
  }

  #fail(failure) {
    this.#close();
    show(failure);
  }

  #guard(action) {
    return guard(() =>
      action().catch((error) => {
        this.#close();
        throw error;
      }),
    );
  }

  #sessionChanged(state) {
    if (state === "idle" || state === "failed") this.#close();
    else this.#guard(() => this.#send());
    this.#show();
  }

  #show() {
    const heard = this.#session.state === "live" && this.#microphone.track?.enabled;
    const state = !this.#wanted ? "off" : heard ? "on" : "wait";
    byId("talking").dataset.talk = state;
    byId("talk").setAttribute("aria-pressed", this.#wanted);
    say(byId("talk-hint"), this.#hint(state));
  }

  #hint(state) {
    if (state === "wait") return "talk.wait";
    if (state === "off" && this.pushes) return HAS_KEYBOARD.matches ? "talk.push.offKeys" : "talk.push.off";
    return `talk.${this.pushes ? "push" : "free"}.${state}`;
  }
}
