import { element } from "./dom.js";
import { say, t } from "./i18n.js";

const LEVELS = ["refuse", "warn", "ok"];
const RANGES_SHOWN = 3;
const RANGE_S = 0.1;

/** What was found in a video, the worst first, and what to do about it; `open`: without being asked. */
export function reportCard({ used, seconds, findings }, open) {
  const worstFirst = LEVELS.flatMap((level) => findings.filter((finding) => finding.level === level));
  const wrong = findings.filter(({ level }) => level !== "ok").length;
  const head = element("summary");
  say(head, wrong ? "report.wrong" : "report.fine", { n: wrong, all: findings.length });
  return element(
    "details",
    { class: "report", open },
    head,
    element("ul", {}, ...worstFirst.map(line), ...(used[1] > used[0] ? [usedLine(used, seconds)] : [])),
  );
}

function usedLine([start, end], seconds) {
  const told = element("li", { class: "soft" });
  say(told, "report.used", { start: start.toFixed(1), end: end.toFixed(1), seconds: seconds.toFixed(1) });
  return told;
}

function line({ check, level, value, unit, where, advice }) {
  const name = element("span");
  say(name, `report.${check}`);
  const todo = advice[document.documentElement.lang.slice(0, 2)];
  const when = level === "ok" ? "" : ranges(where);
  return element(
    "li",
    { "data-level": level },
    element("span", { class: "row spread" }, name, element("span", { class: "soft" }, shown(value, unit))),
    ...(todo ? [element("span", { class: "small" }, todo)] : []),
    ...(when ? [element("span", { class: "soft small" }, when)] : []),
  );
}

function ranges(where) {
  const told = where.filter(([start, end]) => end - start > RANGE_S);
  const texts = told.slice(0, RANGES_SHOWN).map(([start, end]) => `${start.toFixed(1)}–${end.toFixed(1)} s`);
  return texts.join(", ") + (told.length > RANGES_SHOWN ? " …" : "");
}

function shown(value, unit) {
  if (unit === "share") return `${Math.round(value * 100)} %`;
  if (unit === "flag") return t(value ? "report.yes" : "report.no");
  if (unit === "grey") return `${Math.round(value)} / 255`;
  if (unit === "contrast") return value.toFixed(2);
  if (unit === "count") return `${value}`;
  return `${unit === "s" ? value.toFixed(1) : Math.round(value)} ${unit}`;
}
