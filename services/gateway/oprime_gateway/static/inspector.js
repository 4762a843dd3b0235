// A group of siblings: its rollouts side by side, every token coloured.

import {ask, query} from "./api.js";
import {announce, count, isNumber, keep, make, note, number, setAttribute, setText, signed, visible} from "./dom.js";
import {Poll} from "./poll.js";
import {change, current, href} from "./route.js";
import {Controls, TokenView} from "./tokens.js";

const RIGHT_FROM = 0.5;
const MOST = 8;
const NAMES = {logprob: "behaviour log-prob"};
// Kept from one group to the next.
const STAYS = ["q", "steps", "numbers"];
let cameByKey = false;

export const title = (route) => `Train step ${route.parts[3]}, group ${route.parts[4]}`;

export function open(main, route) {
  const [, name, , step, group] = route.parts;
  const path = `/v1/runs/${encodeURIComponent(name)}/rollouts/${encodeURIComponent(step)}/${encodeURIComponent(group)}`;
  const about = make("p", {class: "soft"});
  const prompt = make("div", {class: "prompt", role: "region", "aria-label": "Prompt", tabindex: 0});
  const siblings = make("div", {class: "choices"});
  const controls = new Controls((values) => change(values));
  const link = make("button", {on: {click: copy}}, "Copy the link");
  controls.node.append(link);
  const grid = make("div", {class: "views"});
  const before = make("button", {disabled: true, on: {click: () => turn("before")}}, "Previous group");
  const after = make("button", {disabled: true, on: {click: () => turn("after")}}, "Next group");
  const groups = make("nav", {class: "pages", "aria-label": "Sampled groups"}, before, after);
  controls.keys.append(make("p", {class: "soft"}, "In the tokens: ", make("kbd", {}, "p"), " ", make("kbd", {}, "n"), " the group before and after."));
  main.append(about, groups, make("section", {class: "card"}, make("h2", {class: "hidden-text"}, "Prompt"), prompt),
    make("div", {class: "bar"}, make("fieldset", {}, make("legend", {}, `Siblings, up to ${MOST} side by side`), siblings)), controls.node, controls.keys,
    make("h2", {class: "hidden-text"}, "Responses"), grid);
  const views = new Map();
  const known = new Map();
  let members = [], places = {};

  // The sampled group beside this one, in the same colours.
  function turn(way, {byKey = false} = {}) {
    const to = places[way];
    if (!to) { announce(way === "after" ? "This is the newest group" : "This is the first group"); return; }
    cameByKey = byKey;
    location.hash = href(["runs", name, "rollouts", to.step, to.group_id], Object.fromEntries(STAYS.map((key) => [key, current().values.get(key)])));
  }

  const indexes = () => members.map((one) => one.index);

  // Those of the address; else the first one, with a sibling of the other outcome.
  function wanted() {
    const asked = current().values.getAll("show").map(Number).filter((index) => indexes().includes(index)).slice(0, MOST);
    if (asked.length > 1 || (asked.length && current().values.has("alone"))) return asked;
    const first = members.find((one) => one.index === (asked[0] ?? members[0]?.index));
    const other = members.find((one) => right(one) !== right(first));
    return first ? [first.index, ...(other ? [other.index] : [])] : [];
  }

  function tick(index, on) {
    const now = wanted();
    const show = on ? [...now, index] : now.filter((one) => one !== index);
    change({show, alone: show.length < 2 ? "yes" : null}, {push: true});
  }

  function sibling(one) {
    const box = make("input", {type: "checkbox", on: {change: () => tick(one.index, box.checked)}});
    return make("label", {}, box, make("span", {class: right(one) ? "good" : "bad"}, right(one) ? "\u2713" : "\u2717"), make("span", {}, `${one.index} ${right(one) ? "right" : "wrong"}, ${signed(one.process_reward)}`));
  }

  function paint() {
    const show = wanted().filter((index) => known.has(index));
    const values = current().values;
    const columns = show.map((index) => known.get(index).columns);
    const how = controls.show(columns, values, NAMES);
    keep(siblings, members, (one) => one.index, sibling, (node, one) => {
      node.firstChild.checked = show.includes(one.index);
      setAttribute(node.firstChild, "disabled", !show.includes(one.index) && show.length >= MOST ? "" : null);
    });
    for (const [index, view] of views) if (!show.includes(index)) { view.gone(); views.delete(index); }
    keep(grid, show, (index) => index, (index) => {
      const view = new TokenView({id: "r" + index, heading: `rollout ${index}`, chosen: (token) => change({of: index, token}), leave: (by) => neighbour(index, by), turn: (by) => turn(by > 0 ? "after" : "before", {byKey: true})});
      views.set(index, view);
      head(view, members.find((one) => one.index === index));
      return view.node;
    });
    const of = Number(values.get("of") ?? show[0]), token = values.has("token") ? Number(values.get("token")) : null;
    for (const [index, view] of views) {
      view.show(known.get(index).columns, how);
      const own = index === of ? token : null;
      if (view.selected !== own) view.select(own);
    }
    if (cameByKey && views.size) {
      cameByKey = false;
      views.get(show[0]).list.focus();
    }
  }

  function neighbour(index, by) {
    const show = wanted();
    const next = views.get(show[(show.indexOf(index) + by + show.length) % show.length]);
    next?.list.focus();
  }

  async function copy() {
    try {
      await navigator.clipboard.writeText(location.href);
      announce("Copied");
      setText(link, "Copied");
    } catch {
      announce("The link is in the address bar");
      setText(link, "See the address bar");
    }
    setTimeout(() => setText(link, "Copy the link"), 2000);
  }

  const poll = new Poll(async (signal) => {
    if (!members.length) {
      const answer = await ask(path, {signal});
      members = answer.siblings;
      places = {before: answer.before, after: answer.after};
      for (const [button, way] of [[before, "before"], [after, "after"]]) setAttribute(button, "disabled", places[way] ? null : "");
      prompt.textContent = visible(answer.prompt, {keepLines: true});
      about.replaceChildren(make("a", {href: href(["runs", name, "rollouts"])}, "Rollouts of " + name), ` \u00b7 ${count(members.length, "sibling")}, scored by PRM version ${answer.prm_version}`);
    }
    const missing = wanted().filter((index) => !known.has(index));
    if (missing.length) {
      const answer = await ask(path + query({index: missing}), {signal});
      for (const one of answer.rollouts) known.set(one.index, {columns: columnsOf(one)});
    }
    paint();
    note("");
    return undefined;
  });
  return {
    changed: () => (wanted().every((index) => known.has(index)) ? paint() : poll.now()),
    leave: () => { poll.stop(); for (const view of views.values()) view.gone(); },
  };
}

const right = (one) => one?.outcome_reward >= RIGHT_FROM;

function head(view, one) {
  const cut = one.finish_reason === "length" ? ", cut at the token limit" : "";
  const status = one.outcome_status === "scored" ? "" : ", " + one.outcome_status;
  view.head.append(make("h3", {}, "Rollout " + one.index), make("span", {class: "badge " + (right(one) ? "good" : "bad")}, right(one) ? "\u2713 right" : "\u2717 wrong"),
    make("span", {class: "soft small"}, `outcome ${number(one.outcome_reward)}${status}${cut} \u00b7 ${count(one.tokens, "token")} \u00b7 process rewards sum to ${signed(one.process_reward)}`));
}

function columnsOf(one) {
  const ratio = one.policy_logprobs && one.behaviour_logprobs
    ? one.policy_logprobs.map((value, i) => (isNumber(value) && isNumber(one.behaviour_logprobs[i]) ? Math.exp(value - one.behaviour_logprobs[i]) : null)) : undefined;
  return {firstWrong: one.first_wrong_token, isWrong: !right(one), texts: one.tokens, reward: one.process_rewards, advantage: one.advantages, logprob: one.behaviour_logprobs, reference: one.reference_logprobs, ratio, version: one.weight_versions};
}
