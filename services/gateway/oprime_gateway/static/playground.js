// Type a prompt and one or two responses; the PRM that runs now scores every token.

import {ask} from "./api.js";
import {announce, count, keep, make, note, number, setText, signed} from "./dom.js";
import {change, current} from "./route.js";
import {Controls, TokenView} from "./tokens.js";

const NAMES = {logprob: "PRM log-prob", ratio: "PRM to reference ratio", advantage: null, version: null};
// Longer ones are not kept in the address.
const KEPT_CHARS = 4000;

export const title = () => "Playground";

export function open(main) {
  const prompt = make("textarea", {id: "prompt", required: true});
  const first = make("textarea", {id: "a", required: true});
  const second = make("textarea", {id: "b"});
  const go = make("button", {class: "main"}, "Score");
  const form = make("form", {on: {submit: (event) => { event.preventDefault(); score(); }, keydown: (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) score(); }}},
    make("label", {class: "field"}, "Prompt", prompt), make("div", {class: "grid"}, make("label", {class: "field"}, "Response A", first), make("label", {class: "field"}, "Response B (may be empty)", second)),
    make("div", {class: "bar"}, go, make("span", {class: "soft small"}, "or ", make("kbd", {}, "Ctrl"), " ", make("kbd", {}, "Enter"), " in a field")));
  const failed = make("p", {class: "bad", role: "alert", hidden: true});
  const told = make("p", {class: "soft"});
  const controls = new Controls((values) => change(values));
  const result = make("section", {hidden: true, "aria-label": "Scores"}, told, controls.node, controls.keys, make("h2", {class: "hidden-text"}, "Responses"));
  const grid = make("div", {class: "views"});
  result.append(grid);
  main.append(make("p", {class: "soft"}, "How much more likely the reward model finds each token than its reference does: beta times the log-ratio."), form, failed, result);
  const views = new Map();
  let scored = [], asking = null;

  async function score() {
    if (!form.reportValidity()) return;
    asking?.abort();
    const mine = (asking = new AbortController());
    const texts = {a: first.value, b: second.value};
    const names = texts.b ? ["a", "b"] : ["a"];
    setText(go, "Scoring\u2026");
    failed.hidden = true;
    try {
      const answer = await ask("/v1/rewards", {signal: mine.signal, body: {inputs: names.map((id) => ({id, prompt: prompt.value, response: texts[id]})),
        granularity: ["token", "sequence"], include: ["tokens", "logprobs", "ref_logprobs"]}});
      const wrong = answer.data.find((item) => item.error);
      if (wrong) throw new Error(`Response ${wrong.id.toUpperCase()}: ${wrong.error.detail}`);
      scored = answer.data.map((item) => ({id: item.id, sum: item.sequence.reward, columns: columnsOf(item.tokens, answer.beta)}));
      const sums = scored.map((one) => `response ${one.id.toUpperCase()} ${signed(one.sum)}`).join(", ");
      setText(told, `${answer.model_revision}, beta ${number(answer.beta)}, reference ${answer.reference_model.split("/").at(-1)}. Sum of process rewards: ${sums}.`);
      announce("Scored: " + sums);
      const all = prompt.value.length + texts.a.length + texts.b.length;
      change(all <= KEPT_CHARS ? {prompt: prompt.value, a: texts.a, b: texts.b, token: null, of: null} : {prompt: null, a: null, b: null, token: null, of: null});
      paint();
      note("");
    } catch (error) {
      if (error.name === "AbortError") return;
      failed.hidden = false;
      setText(failed, error.message);
    } finally {
      if (mine === asking) setText(go, "Score");
    }
  }

  function paint() {
    result.hidden = scored.length === 0;
    if (!scored.length) return;
    const values = current().values;
    const how = controls.show(scored.map((one) => one.columns), values, NAMES);
    for (const [id, view] of views) if (!scored.some((one) => one.id === id)) { view.gone(); views.delete(id); }
    keep(grid, scored, (one) => one.id, (one) => {
      const text = "Response " + one.id.toUpperCase();
      const view = new TokenView({id: "p" + one.id, heading: text, chosen: (token) => change({of: one.id, token}), leave: (by) => views.get(by > 0 ? "b" : "a")?.list.focus()});
      view.head.append(make("h3", {}, text), make("span", {class: "soft small"}));
      views.set(one.id, view);
      return view.node;
    }, (_, one) => {
      const view = views.get(one.id);
      setText(view.head.lastChild, `${count(one.columns.texts.length, "token")} \u00b7 process rewards sum to ${signed(one.sum)}`);
      view.show(one.columns, how);
      const own = values.get("of") === one.id && values.has("token") ? Number(values.get("token")) : null;
      if (view.selected !== own) view.select(own);
    });
  }

  const values = current().values;
  [[prompt, "prompt"], [first, "a"], [second, "b"]].forEach(([field, name]) => { field.value = values.get(name) ?? ""; });
  if (prompt.value && first.value) score();
  return {changed: paint, leave: () => { asking?.abort(); for (const view of views.values()) view.gone(); }};
}

// reward = beta * (log-prob of the PRM - log-prob of the reference).
function columnsOf(tokens, beta) {
  return {texts: tokens.text, reward: tokens.rewards, logprob: tokens.logprobs, reference: tokens.ref_logprobs, ratio: tokens.rewards.map((reward) => Math.exp(reward / beta))};
}
