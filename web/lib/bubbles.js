import { element } from "./dom.js";
import { say } from "./i18n.js";

const AHEAD_CHARACTERS = 24;
const STEPS = ["endpointing", "asr", "llm", "tts", "render"];

/** What `who`, "user" or "presenter", says, as an item of the conversation. */
export function bubble(who, paragraph) {
  const name = element("span", { class: "hidden", "data-i18n": `chat.${who}` });
  say(name, `chat.${who}`);
  return element("li", { class: `bubble ${who}` }, name, paragraph);
}

/** An answer of the presenter's: its sentences, what it drew on, how long it took, and whether it was cut off. */
export class Answer {
  element;
  #text = element("p");
  #sources = new Set();

  constructor() {
    this.element = bubble("presenter", this.#text);
  }

  /** Append a sentence. */
  add(line) {
    this.#text.append(line.element);
  }

  /** Mark it as interrupted; `heard` is what was heard of it. */
  cut(heard) {
    if (!this.#text.textContent) this.#text.textContent = heard;
    this.element.dataset.interrupted = heard;
    const mark = element("small");
    say(mark, "chat.interrupted");
    this.#text.after(mark);
  }

  /** Take in an event that is about it, `source` or `latency`. */
  note(news) {
    if (news.event === "source") this.#name(news.name);
    else this.element.append(latency(news));
  }

  #name(source) {
    this.#sources.add(source);
    const line = this.element.querySelector(".sources") ?? element("small", { class: "sources" });
    say(line, "chat.sources", { names: [...this.#sources].join(", ") });
    this.#text.after(line);
  }
}

/** One quiet line: the time from the end of the question to the first sound of its answer, and what it was spent on. */
function latency(news) {
  const taken = STEPS.filter((step) => news[`${step}_ms`] > 0);
  const steps = taken.flatMap((step, place) => [place ? " + " : " = ", part(step, news[`${step}_ms`])]);
  const spent = element("span", { class: "steps" }, ...steps);
  return element("small", { class: "latency" }, part("total", news.total_ms), spent);
}

function part(step, milliseconds) {
  const node = element("span");
  say(node, `latency.${step}`, { s: (milliseconds / 1000).toFixed(2) });
  return node;
}

/** One sentence, whose words light up in order. Those not found soon ahead (a number read as words) are passed over. */
export class Line {
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
