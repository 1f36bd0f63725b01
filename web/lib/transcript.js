import { Answer, bubble, Line } from "./bubbles.js";
import { element } from "./dom.js";

/**
 * The conversation as bubbles, and what the presenter is saying as captions.
 *
 * What the user says aloud is a caption and a pale bubble while it is being understood. A sentence of the presenter's
 * appears when its sound begins; each of its words lights up when it is spoken.
 */
export class Transcript {
  #messages;
  #captions;
  #question = null;
  #asked = element("span", { class: "line asked" });
  #answer = null;
  #utterance;
  #notes = [];
  #lines = [];

  constructor(messages, captions) {
    this.#messages = messages;
    this.#captions = captions;
  }

  /** A bubble of what the user wrote, returned so that it can be marked as not sent. */
  said(text) {
    return this.#put(bubble("user", element("p", {}, text)));
  }

  /** Take in an event of the server. */
  hear(news) {
    if (news.event === "user-partial") this.#understand(news.text);
    if (news.event === "user-turn") this.#understood(news);
    if (news.event === "barge-in" && news.step === "restore") this.#forget();
    if (news.event === "source" || news.event === "latency") this.#note(news);
    if (news.event === "speak-start") this.#begin(news.utterance);
    if (news.event === "sentence") this.#sentence(news.text);
    if (news.event === "word") this.#lines.forEach((line) => line.light(news.text, news.duration_ms));
    if (news.event === "speak-end") this.#end();
    if (news.event === "interrupted") this.#cut(news.heard);
  }

  /** The session has ended: what was begun is not continued. */
  ended() {
    this.#forget();
    this.#end();
    this.#notes = [];
  }

  /** The conversation as text, one line a message; of an interrupted answer only what was heard. */
  text() {
    const said = [...this.#messages.children].filter((item) => item !== this.#question);
    return said.map(asText).join("\n");
  }

  #understand(text) {
    if (!text) return this.#forget();
    this.#question ??= this.#put(bubble("user", element("p")));
    this.#question.dataset.partial = "";
    this.#question.querySelector("p").textContent = this.#asked.textContent = text;
    this.#captions.append(this.#asked);
    this.#captions.dataset.now = "";
    this.#follow(true);
  }

  /** It was a cough, or no more than "uh-huh". */
  #forget() {
    this.#question?.remove();
    this.#question = null;
    this.#asked.remove();
    this.#fade();
  }

  #understood({ text, language }) {
    this.#understand(text);
    if (!this.#question) return;
    delete this.#question.dataset.partial;
    if (language) this.#question.lang = language;
    this.#question = null;
    this.#fade();
  }

  /** Sources and times may come before their answer is heard. */
  #note(news) {
    const itsOwn = this.#answer && isAbout(news, this.#utterance);
    if (itsOwn) this.#answer.note(news);
    else this.#notes.push(news);
  }

  #begin(utterance) {
    this.#answer = null;
    this.#utterance = utterance;
    this.#lines = [];
    this.#captions.replaceChildren();
  }

  #sentence(text) {
    this.#lines.forEach((line) => line.finish());
    this.#lines = [new Line(text), new Line(text)];
    this.#open().add(this.#lines[0]);
    this.#captions.append(this.#lines[1].element);
    this.#captions.dataset.now = "";
    this.#follow();
  }

  /** The bubble of the answer that is being spoken. */
  #open() {
    if (this.#answer) return this.#answer;
    this.#answer = new Answer();
    this.#notes.filter((news) => isAbout(news, this.#utterance)).forEach((news) => this.#answer.note(news));
    this.#notes = this.#notes.filter((news) => news.utterance > this.#utterance);
    this.#put(this.#answer.element);
    return this.#answer;
  }

  #end() {
    this.#lines.forEach((line) => line.finish());
    this.#lines = [];
    this.#answer = null;
    this.#fade();
  }

  /** Let the captions go, unless somebody is still talking. */
  #fade() {
    if (!this.#lines.length && !this.#question) delete this.#captions.dataset.now;
  }

  #cut(heard) {
    if (heard || this.#answer) this.#open().cut(heard);
    this.#follow();
    this.#lines = [];
    this.#end();
  }

  /** Append `item`, but before what is only being understood. */
  #put(item) {
    this.#messages.insertBefore(item, this.#question);
    this.#follow(item.classList.contains("user"));
    return item;
  }

  /** Scroll to the newest, unless the reader has scrolled back. */
  #follow(always = false) {
    const { scrollHeight, scrollTop, clientHeight } = this.#messages;
    if (always || scrollHeight - scrollTop - clientHeight < 160) this.#messages.scrollTop = scrollHeight;
  }
}

const isAbout = (news, utterance) => news.utterance === undefined || news.utterance === utterance;

function asText(item) {
  const [name, text] = item.children;
  const { interrupted } = item.dataset;
  return `${name.textContent}: ${interrupted === undefined ? text.textContent.trim() : `${interrupted}…`}`;
}
