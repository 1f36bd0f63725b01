import { post, upload } from "./api.js";
import { byId } from "./dom.js";
import { Failure } from "./failure.js";
import { t } from "./i18n.js";
import { guard } from "./notice.js";

const MAX_BYTES = 100 * 1024 * 1024;

/** The text box and what is beside it: text, audio files and interruptions for the session that `sessionId()` names. */
export class Composer {
  #sessionId;
  #said;
  #voice;
  #sending = null;

  /**
   * `said(text)` is told what the user says and may return a bubble to be marked if it could not be sent; `voice()` is
   * the id of the voice to say it with, "" for the session's own.
   */
  constructor(sessionId, said = () => null, voice = () => "") {
    this.#sessionId = sessionId;
    this.#said = said;
    this.#voice = voice;
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      guard(() => this.#send());
    });
    byId("text").addEventListener("keydown", (event) => this.#key(event));
    byId("interrupt").addEventListener("click", () => guard(() => this.#interrupt()));
    byId("upload").addEventListener("change", ({ target }) => {
      this.#offer(target.files);
      target.value = "";
    });
    byId("upload-cancel").addEventListener("click", () => this.#sending?.abort());
    this.#acceptDrops();
  }

  /** Enter sends, but not while it only confirms a word of an input method. */
  #key(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    byId("composer").requestSubmit();
  }

  async #send() {
    const text = byId("text").value.trim();
    const sessionid = this.#target();
    if (!text) throw new Failure("error.empty");
    const type = byId("composer").elements.mode.value;
    const bubble = this.#said(text);
    byId("text").value = "";
    const message = { sessionid, type, text, interrupt: byId("interrupt-first").checked };
    if (this.#voice()) message.tts = { ref_file: this.#voice() };
    await this.#marking(bubble, post("human", message));
  }

  #interrupt() {
    return post("interrupt_talk", { sessionid: this.#target() });
  }

  #offer(files) {
    if (files.length) guard(() => this.#play(files[0]));
  }

  async #play(file) {
    const sessionid = this.#target();
    if (file.size > MAX_BYTES) throw new Failure("error.tooLarge", "> 100 MB");
    if (file.type && !/^(audio|video)\//.test(file.type)) throw new Failure("error.notAudio", file.name);
    const form = new FormData();
    form.append("sessionid", sessionid);
    form.append("file", file, file.name);
    const bubble = this.#said(`♪ ${file.name}`);
    this.#sending?.abort();
    const sending = (this.#sending = new AbortController());
    byId("upload-box").hidden = false;
    byId("progress").value = 0;
    try {
      const sent = upload("humanaudio", form, (part) => (byId("progress").value = part), sending.signal);
      await this.#marking(bubble, sent);
    } finally {
      if (this.#sending === sending) byId("upload-box").hidden = true;
    }
  }

  async #marking(bubble, sent) {
    try {
      await sent;
    } catch (error) {
      bubble?.setAttribute("data-failed", t("chat.failed"));
      throw error;
    }
  }

  #target() {
    const id = this.#sessionId();
    if (id === null) throw new Failure("error.notStarted");
    return id;
  }

  #acceptDrops() {
    let depth = 0;
    const over = (change) => {
      depth = Math.max(0, depth + change);
      byId("drop").hidden = depth === 0;
    };
    addEventListener("dragenter", (event) => event.dataTransfer?.types.includes("Files") && over(1));
    addEventListener("dragleave", () => over(-1));
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => {
      event.preventDefault();
      over(-depth);
      this.#offer(event.dataTransfer.files);
    });
  }
}
