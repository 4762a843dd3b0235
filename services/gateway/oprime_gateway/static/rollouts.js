// Rollouts of a run: filtered and sorted by the gateway's index, fifty at a time.

import {ask, query} from "./api.js";
import {announce, count as counted, keep, make, note, number, setAttribute, setHidden, setText, signed, table, visible} from "./dom.js";
import {Poll} from "./poll.js";
import {change, current, href} from "./route.js";

const PAGE = 50;
const FIELDS = ["step_from", "step_to", "right", "reason", "length_from", "length_to", "disagreement", "sort", "descending"];
const RIGHT_FROM = 0.5;
const INDEXING_MS = 150;
// The column of actions, which most runs have none of.
const ACTIONS = 8;

export const title = (route) => "Rollouts of " + route.parts[1];

export function open(main, route) {
  const name = route.parts[1];
  const inputs = {
    step_from: numeric("step_from", "Train step from"), step_to: numeric("step_to", "Train step to"),
    right: choice("right", "Outcome", [["", "any"], ["true", "right"], ["false", "wrong"]]),
    reason: choice("reason", "Reason", [["", "any"], ["stop", "ended by itself"], ["length", "cut at the token limit"], ["scored", "scored"], ["invalid", "could not be graded"]]),
    length_from: numeric("length_from", "Tokens from"), length_to: numeric("length_to", "Tokens to"),
    disagreement: choice("disagreement", "PRM and verifier", [["", "any"], ["prm_good", "PRM says good, verifier says wrong"], ["prm_bad", "PRM says bad, verifier says right"]]),
    sort: choice("sort", "Sort by", [["step", "train step"], ["outcome", "outcome"], ["length", "length"], ["reward", "sum of process rewards"], ["lowest", "lowest process reward"]]),
    descending: choice("descending", "Order", [["true", "largest first"], ["false", "smallest first"]]),
  };
  const form = make("form", {class: "filters", "aria-label": "Filter and sort", on: {submit: (event) => event.preventDefault(), change: () => apply()}},
    Object.values(inputs).map((input) => input.closest("label")),
    make("button", {type: "button", on: {click: () => change(Object.fromEntries([...FIELDS, "page"].map((field) => [field, null])), {push: true})}}, "Reset"));
  const count = make("p", {class: "soft", id: "count"});
  const list = table("Rollouts", ["train step", "group", "rollout", "outcome", "reason", "tokens", "process reward", "lowest", "actions", "prompt"], {numbers: [5, 6, 7]});
  const back = make("button", {on: {click: () => turn(-1)}}, "Previous page");
  const on = make("button", {on: {click: () => turn(1)}}, "Next page");
  const place = make("span", {class: "soft"});
  main.append(form, count, make("div", {class: "card"}, list.node), make("div", {class: "pages"}, back, place, on));

  function apply() {
    const values = Object.fromEntries(FIELDS.map((field) => [field, inputs[field].value === defaults(field) ? null : inputs[field].value]));
    change({...values, page: null}, {push: true});
  }

  function turn(by) {
    change({page: Number(current().values.get("page") ?? 1) + by}, {push: true});
  }

  function row(one) {
    const link = make("a", {href: href(["runs", name, "rollouts", one.step, one.group_id], {show: one.index})}, String(one.step));
    return make("tr", {}, make("th", {scope: "row"}, link), make("td"), make("td"), make("td", {}, make("span", {class: "badge"}), " ", make("span")), make("td"),
      make("td", {class: "number"}), make("td", {class: "number"}), make("td", {class: "number"}), make("td", {class: "text"}), make("td", {class: "text"}));
  }

  function fill(node, one) {
    const right = one.outcome_reward >= RIGHT_FROM;
    const badge = node.cells[3].firstChild;
    setText(badge, right ? "\u2713 right" : "\u2717 wrong");
    setAttribute(badge, "class", "badge " + (right ? "good" : "bad"));
    setText(node.cells[3].lastChild, right === (one.outcome_reward === 1) && (right || one.outcome_reward === 0) ? "" : number(one.outcome_reward));
    [[1, String(one.group_id)], [2, String(one.index)], [4, reason(one)], [5, number(one.tokens, 0)], [6, signed(one.process_reward)],
      [7, signed(one.lowest_reward)], [8, actions(one)], [9, visible(one.prompt)]].forEach(([cell, text]) => setText(node.cells[cell], text));
    setAttribute(node.cells[0].firstChild, "aria-label", `Train step ${one.step}, group ${one.group_id}, rollout ${one.index}`);
  }

  const poll = new Poll(async (signal) => {
    const values = current().values;
    for (const field of FIELDS) {
      const wanted = values.get(field) ?? defaults(field);
      if (inputs[field].value !== wanted) inputs[field].value = wanted;
    }
    const page = Math.max(1, Number.parseInt(values.get("page") ?? "1", 10) || 1);
    const asked = Object.fromEntries(FIELDS.map((field) => [field, values.get(field)]));
    const found = await ask(`/v1/runs/${encodeURIComponent(name)}/rollouts${query({...asked, offset: PAGE * (page - 1), limit: PAGE})}`, {signal});
    keep(list.body, found.data, (one) => `${one.step}:${one.group_id}:${one.index}`, row, fill);
    const acts = found.data.some((one) => actions(one));
    for (const line of [list.body.parentNode.tHead.rows[0], ...list.body.rows]) setHidden(line.cells[ACTIONS], !acts);
    const pages = Math.max(1, Math.ceil(found.total / PAGE));
    setText(place, `page ${number(page, 0)} of ${number(pages, 0)}`);
    setAttribute(back, "disabled", page <= 1 ? "" : null);
    setAttribute(on, "disabled", page >= pages ? "" : null);
    const missing = found.files - found.files_read;
    const more = missing > 0 ? ` so far; reading samples, ${counted(missing, "file")} to go` : found.files ? "" : "; this run has no samples (prm.sampled_groups)";
    setText(count, `${counted(found.total, "rollout")}${more}`);
    if (missing <= 0) announce(count.textContent);
    note("");
    return missing > 0 ? INDEXING_MS : undefined;
  });
  return {changed: () => poll.now(), leave: () => poll.stop()};
}

const defaults = (field) => ({sort: "step", descending: "true"})[field] ?? "";
const actions = (one) => one.actions.join(" \u203a ") + (one.keeps_action_form === false ? " (form broken)" : "");
const reason = (one) => (one.finish_reason === "length" ? "cut at the token limit" : one.outcome_status === "scored" ? "ended by itself" : one.outcome_status);

function numeric(id, text) {
  const input = make("input", {type: "number", min: 0, id});
  make("label", {class: "field"}, text, input);
  return input;
}

function choice(id, text, options) {
  const select = make("select", {id}, options.map(([value, label]) => make("option", {value}, label)));
  make("label", {class: "field"}, text, select);
  return select;
}
