import { element } from "./dom.js";
import { say } from "./i18n.js";

const AHEAD_CHARACTERS = 24;

/**
 * The conversation as bubbles, and what the presenter is saying as captions.
 *
 * A sentence appears when its sound begins; each of its words lights up when it is spoken.
 */
export class Transcript {
  #messages;
  #captions;
  #answer = null;
  #lines = [];

  constructor(messages, captions) {
    this.#messages = messages;
    this.#captions = captions;
  }

  /** A bubble of the user's, returned so that it can be marked as not sent. */
  said(text) {
    return this.#bubble("user", element("p", {}, text));
  }

  /** Take in an event of the server. */
  hear(news) {
    if (news.event === "speak-start") this.#begin();
    if (news.event === "sentence") this.#sentence(news.text);
    if (news.event === "word") this.#lines.forEach((line) => line.light(news.text, news.duration_ms));
    if (news.event === "speak-end" || news.event === "closed") this.#end();
    if (news.event === "interrupted") this.#cut(news.heard);
  }

  #begin() {
    this.#answer = null;
    this.#lines = [];
    this.#captions.replaceChildren();
  }

  #sentence(text) {
    this.#lines.forEach((line) => line.finish());
    this.#answer ??= this.#bubble("presenter", element("p"));
    this.#lines = [new Line(text), new Line(text)];
    this.#answer.firstElementChild.append(this.#lines[0].element);
    this.#captions.append(this.#lines[1].element);
    this.#captions.dataset.now = "";
    this.#follow();
  }

  #end() {
    this.#lines.forEach((line) => line.finish());
    this.#lines = [];
    this.#answer = null;
    delete this.#captions.dataset.now;
  }

  #cut(heard) {
    if (heard) this.#answer ??= this.#bubble("presenter", element("p", {}, heard));
    if (this.#answer) {
      this.#answer.dataset.interrupted = "";
      say(this.#answer.appendChild(element("small")), "chat.interrupted");
      this.#follow();
    }
    this.#lines = [];
    this.#end();
  }

  #bubble(who, content) {
    const bubble = element("li", { class: `bubble ${who}` }, content);
    this.#messages.append(bubble);
    this.#follow(who === "user");
    return bubble;
  }

  /** Scroll to the newest, unless the reader has scrolled back. */
  #follow(always = false) {
    const { scrollHeight, scrollTop, clientHeight } = this.#messages;
    if (always || scrollHeight - scrollTop - clientHeight < 160) this.#messages.scrollTop = scrollHeight;
  }
}

/** One sentence, whose words light up in order. Those not found soon ahead (a number read as words) are passed over. */
class Line {
  #rest;

  constructor(text) {
    this.#rest = document.createTextNode(/[\x21-\x7e]$/.test(text) ? `${text} ` : text);
    this.element = element("span", { class: "line" }, this.#rest);
  }

  light(text, durationMs) {
    const at = this.#rest.data.slice(0, text.length + AHEAD_CHARACTERS).toLowerCase().indexOf(text.toLowerCase());
    if (at < 0) return;
    this.element.dataset.timed = "";
    this.element.querySelector(".now")?.classList.remove("now");
    const word = this.#rest.splitText(at);
    this.#rest = word.splitText(text.length);
    const span = element("span", { class: "word spoken now" }, word.data);
    span.style.setProperty("--spoken", `${durationMs ?? 0}ms`);
    word.replaceWith(span);
  }

  finish() {
    this.element.dataset.done = "";
  }
}
