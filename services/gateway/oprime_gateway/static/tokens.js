// Responses token by token: colours for a quantity, a keyboard, reasoning steps as bars, and all numbers as a table.

import {Bars} from "./charts.js";
import {isNumber, make, number, setAttribute, setHidden, setText, signed, table, visible} from "./dom.js";

// `scale`: diverging colours say on which side of 0 a number lies, sequential ones how far from 0; `centre` is what counts as 0.
export const QUANTITIES = {
  reward: {label: "process reward", scale: "diverging", low: "worse than the reference", high: "better"},
  advantage: {label: "advantage", scale: "diverging", low: "made less likely", high: "made more likely"},
  logprob: {label: "log-prob", scale: "sequential", low: "sure", high: "surprised"},
  reference: {label: "reference log-prob", scale: "sequential", low: "sure", high: "surprised"},
  ratio: {label: "importance ratio", scale: "diverging", centre: 1, low: "less likely now", high: "more likely now"},
  version: {label: "weight version", scale: "sequential", fromLowest: true, low: "oldest", high: "newest"},
};
const ADDS = ["reward", "logprob", "reference"];
const ROWS = 250;
// Characters in which the end of a reasoning step is looked for.
const TAIL = 64;
const JUMP = 50;
export const STEPS = {auto: "automatically", blank: "at blank lines", line: "at ends of lines", sentence: "at ends of sentences", token: "every token"};

// The number of full colour: one for all responses on the page, so that they compare; 1 in 50 tokens may lie beyond it.
export function limitOf(columns, quantity) {
  const zero = base(columns, quantity);
  const sizes = columns.flatMap((one) => (one[quantity] ?? []).filter(isNumber).map((value) => Math.abs(value - zero))).sort((a, b) => a - b);
  return sizes[Math.max(0, Math.ceil(0.98 * sizes.length) - 1)] || 1;
}

// What has no colour.
function base(columns, quantity) {
  const {centre = 0, fromLowest} = QUANTITIES[quantity];
  if (!fromLowest) return centre;
  return columns.reduce((least, one) => (one[quantity] ?? []).reduce((a, b) => (isNumber(b) ? Math.min(a, b) : a), least), Infinity);
}

export const shown = (value, quantity) => (quantity === "version" ? number(value, 0) : QUANTITIES[quantity].scale === "diverging" && quantity !== "ratio" ? signed(value) : number(value, 2));

// First token of each reasoning step.
export function stepStarts(texts, mode) {
  const whole = texts.join("");
  if (mode === "auto") {
    if (/\n\s*\n/.test(whole.trim())) mode = "blank";
    else if (whole.trim().includes("\n")) mode = "line";
    else mode = texts.length <= 64 ? "token" : "sentence";
  }
  if (mode === "token") return texts.map((_, i) => i);
  const ends = {blank: /\n[^\S\n]*\n\s*$/, line: /\n\s*$/, sentence: /[.!?\u3002]["')\]]?\s*$/}[mode];
  const starts = [0];
  let tail = "", written = false;
  texts.forEach((token, i) => {
    tail = (tail + token).slice(-TAIL);
    written ||= /\S/.test(token);
    // A step ends where its end is complete: the next token is not more of it.
    if (i + 1 < texts.length && written && /\S/.test(texts[i + 1]) && ends.test(tail)) {
      starts.push(i + 1);
      tail = "";
      written = false;
    }
  });
  return texts.length ? starts : [];
}

// What a reasoning step has of a quantity: the sum where parts add up, else the mean.
function stepValues(columns, starts, quantity) {
  return starts.map((start, i) => {
    const own = (columns[quantity] ?? []).slice(start, starts[i + 1]).filter(isNumber);
    const sum = own.reduce((a, b) => a + b, 0);
    return own.length ? (ADDS.includes(quantity) ? sum : sum / own.length) : null;
  });
}

export class TokenView {
  // `chosen(token)` is called when a person selects a token; `leave(by)` when the keys [ and ] ask for another response, `turn(by)`, where
  // there is one, when p and n ask for other responses altogether.
  constructor({id, heading, chosen, leave, turn}) {
    this.id = id;
    this.chosen = chosen;
    this.leave = leave;
    this.turn = turn;
    this.selected = null;
    this.head = make("header");
    this.facts = make("dl", {class: "facts"});
    this.list = make("div", {class: "tokens", role: "listbox", tabindex: 0, "aria-label": "Tokens of " + heading, on: {
      click: (event) => this.click(event), keydown: (event) => this.key(event), focus: () => { if (this.selected === null && this.columns?.texts.length) this.pick(0); },
    }});
    this.marks = make("p", {class: "small marks", hidden: true});
    this.bars = new Bars("Reasoning steps", (step) => this.pick(this.starts[step]));
    this.page = 0;
    this.numbers = make("details", {on: {toggle: () => this.fillTable()}}, make("summary", {}, "All numbers"));
    this.node = make("article", {class: "card view", "aria-label": heading}, this.head, this.marks, this.list, this.facts, this.bars.node, this.numbers);
  }

  // `columns`: texts, and for each quantity that is known one number per token. `firstWrong` is the token that begins the first wrong step,
  // where that is known; of a response that `isWrong` as a whole, the step that the PRM thinks least of is marked too.
  show(columns, how) {
    const same = this.columns === columns;
    if (same && this.how === how) return;
    const {quantity, limit, floor, numbered, steps, range, names = {}} = how;
    this.how = how;
    this.columns = columns;
    this.names = names;
    this.quantity = quantity;
    if (!same) this.build();
    this.starts = stepStarts(columns.texts, steps);
    this.mark();
    this.paint(limit, floor);
    setAttribute(this.list, "class", numbered ? "tokens numbered" : "tokens");
    this.showSteps(range);
    this.fillTable(true);
    this.showFacts();
  }

  label(quantity) {
    return this.names[quantity] ?? QUANTITIES[quantity].label;
  }

  known() {
    return Object.keys(QUANTITIES).filter((quantity) => this.columns[quantity]?.some(isNumber));
  }

  build() {
    this.spans = this.columns.texts.map((text, i) => make("span", {class: "token", role: "option", id: `${this.id}-${i}`, "data-at": i, "aria-selected": "false"}, visible(text) || "\u2205", make("small")));
    const pieces = [];
    this.spans.forEach((span, i) => { pieces.push(span); if (this.columns.texts[i].endsWith("\n")) pieces.push(make("br", {role: "presentation"})); });
    this.list.replaceChildren(...pieces);
    this.selected = null;
    setAttribute(this.list, "aria-activedescendant", null);
  }

  mark() {
    const {firstWrong = null, isWrong = false, texts} = this.columns;
    const sums = isWrong ? stepValues(this.columns, this.starts, "reward") : [];
    const lowest = sums.reduce((best, value, i) => (isNumber(value) && value < 0 && (best < 0 || value < sums[best]) ? i : best), -1);
    this.wrong = firstWrong;
    this.suspect = lowest < 0 ? null : this.starts[lowest];
    const place = (at) => `token ${at}, ${visible(texts[at])}`;
    const agree = this.wrong !== null && this.suspect !== null && this.stepOf(this.wrong) === lowest;
    const told = [this.wrong === null ? null : `\u2717 first wrong step: ${place(this.wrong)}`,
      this.suspect === null ? null : `\u25bc lowest step of the PRM: ${agree ? "the same" : place(this.suspect)}`].filter(Boolean);
    setText(this.marks, told.join(" \u00b7 "));
    setHidden(this.marks, !told.length);
  }

  stepOf(at) {
    return this.starts.findLastIndex((start) => start <= at);
  }

  paint(limit, floor) {
    const {scale} = QUANTITIES[this.quantity];
    const values = this.columns[this.quantity] ?? [];
    this.spans.forEach((span, i) => {
      const value = values[i];
      const distance = isNumber(value) ? value - floor : 0;
      const strength = Math.min(92, Math.round((92 * Math.abs(distance)) / limit));
      const side = strength === 0 ? "" : scale === "sequential" ? " sequential" : distance < 0 ? " negative" : " positive";
      setAttribute(span, "class", "token" + side + (i === this.wrong ? " first-wrong" : "") + (i === this.suspect ? " suspect" : ""));
      span.style.setProperty("--strength", strength + "%");
      setText(span.lastChild, shown(value, this.quantity));
      setAttribute(span, "aria-label", `${i}: ${visible(this.columns.texts[i])}, ${this.label(this.quantity)} ${shown(value, this.quantity)}${i === this.wrong ? ", first wrong step" : ""}${i === this.suspect ? ", lowest step of the PRM" : ""}`);
    });
  }

  showSteps(range) {
    const values = stepValues(this.columns, this.starts, this.quantity);
    const bars = values.map((value, i) => ({label: visible(this.columns.texts.slice(this.starts[i], this.starts[i + 1]).join("")), value}));
    this.bars.rename(`Reasoning steps: ${ADDS.includes(this.quantity) ? "sum" : "mean"} of ${this.label(this.quantity)}`);
    this.bars.show({bars, of: this.label(this.quantity), diverging: this.quantity === "reward" || this.quantity === "advantage", ...range});
  }

  select(at, {scroll = true} = {}) {
    if (this.selected !== null) setAttribute(this.spans[this.selected], "aria-selected", "false");
    this.selected = Number.isInteger(at) && at >= 0 && at < this.spans.length ? at : null;
    setAttribute(this.list, "aria-activedescendant", this.selected === null ? null : `${this.id}-${this.selected}`);
    if (this.selected !== null) {
      setAttribute(this.spans[this.selected], "aria-selected", "true");
      if (scroll) this.intoSight(this.spans[this.selected]);
    }
    this.showFacts();
  }

  // Scrolls the list alone, never the page.
  intoSight(span) {
    const top = span.offsetTop, bottom = top + span.offsetHeight;
    if (top < this.list.scrollTop) this.list.scrollTop = top - 8;
    else if (bottom > this.list.scrollTop + this.list.clientHeight) this.list.scrollTop = bottom - this.list.clientHeight + 8;
  }

  pick(at) {
    this.select(at);
    this.chosen(this.selected);
  }

  showFacts() {
    const at = this.selected;
    if (at === null || !this.columns) { this.facts.replaceChildren(make("div", {}, make("dt", {}, "Select a token for its numbers"))); return; }
    const step = this.stepOf(at);
    const facts = [["token", `${at} (0 to ${this.columns.texts.length - 1})`], ["text", visible(this.columns.texts[at])], ["reasoning step", String(step + 1)],
      ...this.known().map((quantity) => [this.label(quantity), number(this.columns[quantity][at], 4)])];
    this.facts.replaceChildren(...facts.map(([term, value]) => make("div", {}, make("dt", {}, term), make("dd", {}, value))));
  }

  click(event) {
    const span = event.target.closest(".token");
    if (span) this.pick(Number(span.dataset.at));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const last = this.spans.length - 1, at = this.selected ?? 0;
    const step = this.stepOf(at);
    const to = {ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: last, PageDown: at + JUMP, PageUp: at - JUMP,
      ArrowDown: this.starts[step + 1] ?? last, ArrowUp: at > this.starts[step] ? this.starts[step] : (this.starts[step - 1] ?? 0), l: this.lowest()}[event.key];
    if (to !== undefined && last >= 0) this.pick(Math.max(0, Math.min(last, to)));
    else if (event.key === "[" || event.key === "]") this.leave(event.key === "]" ? 1 : -1);
    else if (this.turn && (event.key === "n" || event.key === "p")) this.turn(event.key === "n" ? 1 : -1);
    else return;
    event.preventDefault();
  }

  lowest() {
    const values = this.columns[this.quantity] ?? [];
    return values.reduce((best, value, i) => (isNumber(value) && (!isNumber(values[best]) || value < values[best]) ? i : best), 0);
  }

  // Made when it is opened, a part at a time: a long response has tens of thousands of rows.
  fillTable(changed = false) {
    if (!this.numbers.open || !this.columns) return;
    const known = this.known();
    const state = JSON.stringify([this.page, known]);
    if (!changed && this.tableState === state) return;
    this.tableState = state;
    const pages = Math.max(1, Math.ceil(this.columns.texts.length / ROWS));
    this.page = Math.min(this.page, pages - 1);
    const first = this.page * ROWS;
    const made = table("All numbers of " + this.node.getAttribute("aria-label"), ["token", "text", ...known.map((quantity) => this.label(quantity))], {numbers: known.map((_, i) => i + 2)});
    this.columns.texts.slice(first, first + ROWS).forEach((text, k) => made.body.append(make("tr", {}, make("th", {scope: "row"}, String(first + k)), make("td", {class: "long"}, visible(text)),
      ...known.map((quantity) => make("td", {class: "number"}, number(this.columns[quantity][first + k], 4))))));
    const turn = (by) => { this.page += by; this.fillTable(); };
    const pager = pages > 1 ? make("div", {class: "pages"}, make("button", {disabled: this.page === 0, on: {click: () => turn(-1)}}, "Previous"), `part ${this.page + 1} of ${pages}`,
      make("button", {disabled: this.page + 1 === pages, on: {click: () => turn(1)}}, "Next")) : null;
    this.numbers.replaceChildren(this.numbers.firstChild, made.node, ...(pager ? [pager] : []));
  }

  gone() {
    this.bars.gone();
  }
}

// The controls above responses: quantity, reasoning steps, numbers under tokens, and what the colours mean.
export class Controls {
  constructor(change) {
    this.change = change;
    this.quantities = make("div", {class: "choices"});
    this.steps = make("select", {on: {change: () => change({steps: this.steps.value === "auto" ? null : this.steps.value})}},
      Object.entries(STEPS).map(([value, label]) => make("option", {value}, label)));
    this.numbered = make("input", {type: "checkbox", on: {change: () => change({numbers: this.numbered.checked ? "yes" : "no"})}});
    this.scale = make("div", {class: "legend"});
    this.node = make("div", {class: "bar"}, make("fieldset", {}, make("legend", {}, "Colour of a token"), this.quantities), make("label", {class: "field"}, "A reasoning step ends", this.steps),
      make("label", {class: "check"}, this.numbered, "numbers under tokens"), this.scale);
    this.keys = make("details", {}, make("summary", {}, "Keyboard"), make("p", {class: "soft"}, make("kbd", {}, "Tab"), " to the tokens, then ", make("kbd", {}, "\u2190"), " ", make("kbd", {}, "\u2192"),
      " one token, ", make("kbd", {}, "\u2191"), " ", make("kbd", {}, "\u2193"), " one reasoning step, ", make("kbd", {}, "Page Up"), " ", make("kbd", {}, "Page Down"), ` ${JUMP} tokens, `,
      make("kbd", {}, "Home"), " ", make("kbd", {}, "End"), ", ", make("kbd", {}, "l"), " the lowest number, ", make("kbd", {}, "["), " ", make("kbd", {}, "]"), " the response before and after."));
  }

  // Returns what the views need, the same object while nothing changed: a selected token changes nothing here. `columns` are those of all
  // responses that are shown.
  show(columns, asked, names = {}) {
    const asks = JSON.stringify(["q", "steps", "numbers"].map((name) => asked.get(name)));
    const same = this.last && this.asks === asks && this.last.columns.length === columns.length && this.last.columns.every((one, i) => one === columns[i]);
    if (!same) {
      this.asks = asks;
      this.last = {columns, how: this.decide(columns, asked, names)};
    }
    return this.last.how;
  }

  decide(columns, asked, names) {
    const known = Object.keys(QUANTITIES).filter((quantity) => columns.some((one) => one[quantity]?.some(isNumber)));
    const offered = Object.keys(QUANTITIES).filter((quantity) => names[quantity] !== null);
    const quantity = known.includes(asked.get("q")) ? asked.get("q") : (known[0] ?? "reward");
    const tokens = Math.max(0, ...columns.map((one) => one.texts.length));
    const numbered = (asked.get("numbers") ?? (tokens <= 400 ? "yes" : "no")) === "yes";
    const steps = asked.get("steps") in STEPS ? asked.get("steps") : "auto";
    const limit = limitOf(columns, quantity), floor = base(columns, quantity);
    if (!this.quantities.childElementCount) {
      this.quantities.append(...offered.map((one) => make("label", {}, make("input", {type: "radio", name: "quantity", value: one, on: {change: () => this.change({q: one})}}), names[one] ?? QUANTITIES[one].label)));
    }
    for (const label of this.quantities.children) {
      const box = label.firstChild;
      setAttribute(box, "disabled", known.includes(box.value) ? null : "");
      setAttribute(label, "title", known.includes(box.value) ? null : "not recorded in this run");
      box.checked = box.value === quantity;
    }
    this.steps.value = steps;
    this.numbered.checked = numbered;
    this.legend(quantity, limit, Number.isFinite(floor) ? floor : 0);
    // One scale for the bars of all responses, so that they compare.
    const values = columns.flatMap((one) => stepValues(one, stepStarts(one.texts, steps), quantity)).filter(isNumber);
    const range = {low: values.reduce((a, b) => Math.min(a, b), 0), high: values.reduce((a, b) => Math.max(a, b), 0)};
    return {quantity, limit, floor, numbered, steps, range, names};
  }

  legend(quantity, limit, floor) {
    const {scale, low, high, fromLowest} = QUANTITIES[quantity];
    const ends = scale === "diverging" ? [floor - limit, floor + limit] : fromLowest ? [floor, floor + limit] : [0, -limit];
    const text = (value) => (quantity === "reward" || quantity === "advantage" ? signed(value) : number(value, 2));
    this.scale.replaceChildren(make("span", {}, `${text(ends[0])} ${low}`), make("span", {class: "scale " + scale, "aria-hidden": "true"}), make("span", {}, `${high} ${text(ends[1])}`));
  }
}
