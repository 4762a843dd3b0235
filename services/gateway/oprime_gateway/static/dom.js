// Elements. Text from the API reaches the page only as text: there is no way from a string to markup here, and the page's policy
// (require-trusted-types-for 'script') forbids it everywhere.

export const byId = (id) => document.getElementById(id);

// make("td", {class: "number", title: "sum"}, "1.5", node): attributes, `on` with listeners, and children; null children are left out.
export function make(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

// Changes nothing where nothing changed: what is selected, focused or read aloud stays.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setHidden(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}

export function setAttribute(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, String(value));
}

// Make the children of `parent` those of `items`, one each by key, keeping the nodes that stay.
export function keep(parent, items, keyOf, create, update) {
  const nodes = (parent.kept ??= new Map());
  const wanted = items.map((item) => [String(keyOf(item)), item]);
  const keys = new Set(wanted.map(([key]) => key));
  for (const [key, node] of nodes) if (!keys.has(key)) { node.remove(); nodes.delete(key); }
  wanted.forEach(([key, item], place) => {
    let node = nodes.get(key);
    if (!node) { node = create(item); nodes.set(key, node); }
    if (parent.children[place] !== node) parent.insertBefore(node, parent.children[place] ?? null);
    update?.(node, item);
  });
}

// A body of a table whose rows are arrays of texts; only cells that changed are touched.
export function fillRows(body, rows, {words = false} = {}) {
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((cells, i) => {
    const row = body.rows[i] ?? body.insertRow();
    cells.forEach((text, j) => {
      let cell = row.cells[j];
      if (!cell) {
        cell = make(j === 0 ? "th" : "td", {scope: j === 0 ? "row" : null, class: j === 0 || words ? null : "number"});
        row.append(cell);
      }
      setText(cell, text);
    });
  });
}

// `numbers` are the places of columns of numbers; all but the first where it is not given.
export function table(caption, heads, {numbers = heads.map((_, i) => i).slice(1)} = {}) {
  const body = make("tbody");
  const head = make("tr", {}, heads.map((text, i) => make("th", {scope: "col", class: numbers.includes(i) ? "number" : null}, text)));
  const node = make("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": caption},
    make("table", {}, make("caption", {class: "hidden-text"}, caption), make("thead", {}, head), body));
  return {node, body};
}

export function announce(text) {
  setText(byId("announce"), text);
}

export function note(text, bad = false) {
  setText(byId("note"), text);
  byId("note").className = bad ? "bad" : "";
}

const MINUS = "\u2212";
export const NONE = "\u2013";
export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

export function number(value, digits = 3) {
  if (!isNumber(value)) return NONE;
  const rounded = Number(value.toFixed(digits));
  const size = Math.abs(rounded);
  const text = size !== 0 && size < 0.001 ? size.toExponential(1) : size.toLocaleString("en-US", {maximumFractionDigits: digits});
  return rounded < 0 ? MINUS + text : text;
}

// A metric: a learning rate of 5e-7 is not 0.
export const measured = (value) => (isNumber(value) && value !== 0 && Math.abs(value) < 0.001 ? (value < 0 ? MINUS : "") + Math.abs(value).toExponential(1) : number(value, 4));

export function signed(value, digits = 2) {
  if (!isNumber(value)) return NONE;
  const text = Math.abs(value).toFixed(digits);
  return Number(text) === 0 ? "0" : (value < 0 ? MINUS : "+") + text;
}

// "1 rollout", "2 rollouts".
export const count = (value, noun) => `${number(value, 0)} ${noun}${value === 1 ? "" : "s"}`;

// The ends of a long name are what tells it from others.
export function shortened(text, most) {
  if (text.length <= most) return text;
  const half = Math.floor((most - 1) / 2);
  return text.slice(0, half) + "\u2026" + text.slice(text.length - half);
}

export const percent = (value) => (isNumber(value) ? (100 * value).toFixed(1) + " %" : NONE);

// Characters that cannot be seen, or that would move their neighbours (direction of text), by name.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu;
export function visible(text, {keepLines = false} = {}) {
  return text.replace(UNSEEN, (character) => {
    if (character === "\n") return keepLines ? "\n" : "\u21b5";
    if (character === "\t") return "\u2192";
    return "\u27e8U+" + character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") + "\u27e9";
  });
}
