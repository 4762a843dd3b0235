// All runs, and those that are ticked beside each other: curves, and the settings in which they differ.

import {ask, query} from "./api.js";
import {Lines} from "./charts.js";
import {leaveOut, offer, own} from "./chosen_metrics.js";
import {fillRows, keep, make, note, number, percent, setAttribute, setHidden, setText, table} from "./dom.js";
import {Poll} from "./poll.js";
import {change, current, href} from "./route.js";

const USUAL = [["outcome_reward_mean", "Outcome reward", "step"], ["heldout_accuracy", "Held-out accuracy", "evaluation"],
  ["prm_accuracy", "PRM accuracy", "step"], ["staleness_max", "Largest staleness", "step"]];
const SHARES = ["outcome_reward_mean", "heldout_accuracy", "prm_accuracy"];
const MOST = 6;
const POLL_MS = 5000;

export const title = () => "Runs";

export function open(main) {
  const list = table("Runs", ["compare", "run", "state", "train step", "outcome reward", "held-out accuracy", "last metrics"], {numbers: [3, 4, 5, 6]});
  const compared = make("section", {hidden: true}, make("h2", {}, "Compared"));
  const pick = make("select", {on: {change: () => change({metric: [...own(), pick.value]}, {push: true})}});
  const charts = make("div", {class: "grid"});
  const differing = table("Settings in which the chosen runs differ", []);
  const same = make("p", {class: "soft"}, "They have the same settings.");
  compared.append(make("div", {class: "bar"}, make("label", {class: "field"}, "One more metric", pick)), charts,
    make("h2", {}, "Settings that differ"), same, differing.node);
  const none = make("p", {hidden: true}, "There are no runs yet: oprime train makes them.");
  const some = make("div", {hidden: true}, make("p", {class: "soft"}, `Tick up to ${MOST} runs to compare them.`), make("div", {class: "card"}, list.node));
  main.append(none, some, compared);
  const drawn = new Map();
  const settings = new Map();
  let cards = [];

  const chosen = () => current().values.getAll("run").filter((name) => cards.some((card) => card.name === name)).slice(0, MOST);

  function line(card) {
    const box = make("input", {type: "checkbox", "aria-label": "Compare " + card.name, on: {change: () => {
      const names = current().values.getAll("run").filter((name) => name !== card.name);
      change({run: box.checked ? [...names, card.name] : names}, {push: true});
    }}});
    const row = make("tr", {}, make("td", {}, box), make("th", {scope: "row", class: "long"}, make("a", {href: href(["runs", card.name])}, card.name)),
      make("td"), ...Array.from({length: 4}, () => make("td", {class: "number"})));
    row.box = box;
    return row;
  }

  function fillLine(row, card) {
    const names = chosen();
    const ticked = names.includes(card.name);
    if (row.box.checked !== ticked) row.box.checked = ticked;
    setAttribute(row.box, "disabled", !ticked && names.length >= MOST ? "" : null);
    setAttribute(row, "class", ticked ? "chosen" : null);
    [card.result === "ok" ? "finished" : card.active ? "active" : card.result || "not running", number(card.step, 0), number(card.outcome_reward), percent(card.heldout_accuracy),
      card.changed_at === null ? "none" : new Date(1000 * card.changed_at).toLocaleString()].forEach((text, i) => setText(row.cells[i + 2], text));
  }

  async function compare(signal) {
    const names = chosen();
    setHidden(compared, names.length === 0);
    if (!names.length) return;
    const more = own().filter((metric) => !USUAL.some(([usual]) => metric === usual));
    const metrics = [...USUAL.map(([metric]) => metric), ...more];
    const curves = await Promise.all(names.map((name) => ask(`/v1/runs/${encodeURIComponent(name)}/curves${query({metric: metrics})}`, {signal})));
    offer(pick, curves.flatMap((one) => [...one.step.names, ...one.evaluation.names]), metrics);
    const wanted = [...USUAL, ...more.map((metric) => [metric, metric, ""])];
    for (const [metric, chart] of drawn) if (!wanted.some(([name]) => name === metric)) { chart.gone(); drawn.delete(metric); }
    keep(charts, wanted, ([metric]) => metric, ([metric, text, kind]) => {
      drawn.set(metric, new Lines(text, {remove: kind ? null : () => leaveOut(metric)}));
      return drawn.get(metric).node;
    });
    for (const [metric, , kind] of wanted) {
      const of = (one) => (kind ? one[kind] : one.step.names.includes(metric) ? one.step : one.evaluation);
      drawn.get(metric).show({lines: names.map((label, i) => ({label, steps: of(curves[i]).steps, values: of(curves[i]).values[metric] ?? []})), high: SHARES.includes(metric) ? 1 : undefined, whole: metric === "staleness_max"});
    }
    await differences(names, signal);
  }

  async function differences(names, signal) {
    for (const name of names) if (!settings.has(name)) settings.set(name, (await ask(`/v1/runs/${encodeURIComponent(name)}/settings`, {signal})).settings);
    const all = [...new Set(names.flatMap((name) => Object.keys(settings.get(name))))].sort();
    const rows = all.map((key) => [key, ...names.map((name) => String(settings.get(name)[key] ?? "not set"))])
      .filter(([key, ...values]) => key !== "run.name" && new Set(values).size > 1);
    const head = differing.body.parentNode.tHead.rows[0];
    if (head.cells.length !== names.length + 1) differing.body.replaceChildren();
    keep(head, ["setting", ...names], (text) => text, (text) => make("th", {scope: "col"}, text));
    fillRows(differing.body, rows, {words: true});
    setHidden(differing.node, rows.length === 0);
    setHidden(same, rows.length > 0);
    setText(same, names.length < 2 ? "Tick a second run." : "They have the same settings.");
  }

  const poll = new Poll(async (signal) => {
    cards = (await ask("/v1/runs", {signal})).data;
    setHidden(none, cards.length > 0);
    setHidden(some, cards.length === 0);
    keep(list.body, cards, (card) => card.name, line, fillLine);
    await compare(signal);
    note("");
    return POLL_MS;
  });
  return {
    changed: () => { keep(list.body, cards, (card) => card.name, line, fillLine); poll.now(); },
    leave: () => { poll.stop(); for (const chart of drawn.values()) chart.gone(); },
  };
}
