/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/** A new element. A function among `attributes` listens to that event; true is an empty attribute, false none. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== false && value !== undefined) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** Let an icon's `<svg>` show another picture. */
export const redraw = (svg, name) => svg.firstElementChild.setAttribute("href", `icons.svg#${name}`);
