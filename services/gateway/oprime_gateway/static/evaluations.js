// What evaluations found, benchmark by benchmark, and two of them compared problem by problem.

import {ask, query} from "./api.js";
import {fillRows, isNumber, keep, make, NONE, note, setAttribute, setHidden, setText, table} from "./dom.js";
import {Poll} from "./poll.js";
import {change, current} from "./route.js";

const POLL_MS = 10000;
const MINUS = "\u2212";

export const title = () => "Evaluations";

const percent = (value, sign = false) => {
  if (!isNumber(value)) return NONE;
  const text = Math.abs(100 * value).toFixed(1);
  return (value < 0 && Number(text) !== 0 ? MINUS : sign && Number(text) !== 0 ? "+" : "") + text;
};
const interval = (score, sign = false) => `${percent(score.value, sign)} [${percent(score.low, sign)}, ${percent(score.high, sign)}]`;

function lines(card) {
  return card.results.map((result) => ({
    key: card.id + " " + result.benchmark,
    card,
    cells: [result.title, result.problems.toLocaleString("en-US"),
      result.temperature === 0 ? "greedy" : `T = ${result.temperature.toLocaleString("en-US", {maximumFractionDigits: 2})}`,
      Object.entries(result.scores).map(([name, score]) => `${name} ${interval(score)}`).join("\n"),
      result.paper ? interval(result.paper) : NONE, String(result.unjudged), String(result.cut)],
  }));
}

export function open(main) {
  const list = table("Evaluations", ["compare", "evaluated", "benchmark", "problems", "decoding", "scores, %", "paper's grading, %", "unjudged", "cut"], {numbers: [3, 7, 8]});
  const none = make("p", {hidden: true}, "There are no evaluations yet: oprime eval makes them, and so does a run with run.evaluate_on.");
  const compared = make("section", {hidden: true}, make("h2", {}, "Compared"));
  const result = table("Difference between the two evaluations", ["benchmark", "score", "first, %", "second, %", "difference, % [95 % interval]", "better on", "worse on"], {numbers: [1, 2, 3, 4, 5, 6]});
  const said = make("p", {class: "soft"});
  compared.append(said, result.node);
  const some = make("div", {hidden: true}, make("p", {class: "soft"}, "Tick two evaluations to compare the second with the first, problem by problem. In brackets: 95 % intervals."),
    make("div", {class: "card"}, list.node));
  main.append(none, some, compared);
  let cards = [];
  let shown = "";

  const chosen = () => current().values.getAll("with").filter((id) => cards.some((card) => card.id === id)).slice(0, 2);

  function line(row) {
    const box = make("input", {type: "checkbox", on: {change: () => {
      const names = current().values.getAll("with").filter((id) => id !== row.card.id);
      change({with: box.checked ? [...names, row.card.id] : names}, {push: true});
    }}});
    const node = make("tr", {}, make("td", {}, box), make("th", {scope: "row"}), ...row.cells.map((_, i) => make("td", {class: [1, 5, 6].includes(i) ? "number" : i === 3 ? "lines" : null})));
    node.box = box;
    return node;
  }

  function fillLine(node, row) {
    const names = chosen();
    const ticked = names.includes(row.card.id);
    const text = row.card.name + (row.card.during_training ? " (during training)" : "");
    setAttribute(node.box, "aria-label", `Compare ${text}, ${row.cells[0]}`);
    if (node.box.checked !== ticked) node.box.checked = ticked;
    setAttribute(node.box, "disabled", !ticked && names.length >= 2 ? "" : null);
    setAttribute(node, "class", ticked ? "chosen" : null);
    [text, ...row.cells].forEach((cell, i) => setText(node.cells[i + 1], cell));
  }

  function fill() {
    setHidden(none, cards.length > 0);
    setHidden(some, cards.length === 0);
    keep(list.body, cards.flatMap(lines), (row) => row.key, line, fillLine);
  }

  async function compare(signal) {
    const names = chosen();
    setHidden(compared, names.length === 0);
    if (names.length === 0) { shown = ""; return; }
    setHidden(result.node, names.length < 2);
    const pair = names.map((id) => cards.find((card) => card.id === id));
    const wanted = JSON.stringify(pair.map((card) => [card.id, card.changed_at]));
    if (wanted === shown) return;
    if (names.length < 2) { shown = wanted; setText(said, "Tick a second evaluation."); return; }
    const [first, second] = pair.map((card) => card.name);
    const found = await ask(`/v1/evaluations/compare${query({first: names[0], second: names[1]})}`, {signal});
    const left = Object.entries(found.left_out).map(([name, reason]) => `${name} is left out: ${reason}.`);
    const prompts = found.data.every((row) => row.same_prompts) ? [] : ["They were asked with different prompts."];
    setText(said, [`First: ${first}. Second: ${second}.`, ...left, ...prompts, ...(found.data.length ? [] : ["They have no problems in common."])].join(" "));
    shown = wanted;
    fillRows(result.body, found.data.map((row) => [row.title, row.score, percent(row.first), percent(row.second), interval(row.difference, true), String(row.better), String(row.worse)]));
  }

  const poll = new Poll(async (signal) => {
    cards = (await ask("/v1/evaluations", {signal})).data;
    fill();
    await compare(signal);
    note("");
    return POLL_MS;
  });
  return {changed: () => { fill(); poll.now(); }, leave: () => poll.stop()};
}
