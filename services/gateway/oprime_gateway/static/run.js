// One run, live: how it goes, who waits for whom, and where its rollouts are.

import {ask, askFile, needsKey, query} from "./api.js";
import {Lines} from "./charts.js";
import {leaveOut, offer, own} from "./chosen_metrics.js";
import {announce, fillRows, keep, make, NONE, isNumber, note, number, percent, setHidden, setText, table} from "./dom.js";
import {Poll} from "./poll.js";
import {change, current, href} from "./route.js";

const POLL_MS = 2000;
const CHARTS = [
  {name: "Outcome reward", kind: "step", high: 1, lines: [["outcome_reward_mean", "all verified rollouts"], ["trained_outcome_reward_mean", "trained rollouts"]]},
  {name: "Held-out accuracy", kind: "evaluation", high: 1, lines: [["heldout_accuracy", "sampled"], ["heldout_greedy_accuracy", "greedy"]]},
  {name: "PRM accuracy", kind: "step", high: 1, ofPrm: true, lines: [["prm_accuracy", "right or wrong response"], ["prm_pairwise_accuracy", "right sibling above wrong"]]},
  {name: "Staleness, weight versions", kind: "step", whole: true, lines: [["staleness_max", "largest"], ["staleness_mean", "mean"]]},
  {name: "Seconds of a train step", kind: "step", logarithmic: true, lines: [["seconds_prm", "PRM at work"], ["seconds_learner", "learner at work"], ["wait_s_prm", "PRM waits"], ["wait_s_learner", "learner waits"]]},
  {name: "Response length, tokens", kind: "step", lines: [["response_tokens_mean", "sampled responses"], ["trained_tokens_mean", "trained responses"]]},
  {name: "Entropy of the policy, nats", kind: "step", lines: [["policy_entropy_nats", "mean over tokens"]]},
  {name: "Gradient norms", kind: "step", logarithmic: true, lines: [["policy_gradient_norm", "policy"], ["prm_gradient_norm", "PRM"]]},
  {name: "Tokens per second", kind: "step", lines: [["tokens_per_second", "tokens per second"]]},
];
const BUSY = ["generator", "verifier", "prm", "learner"];
const METRICS = [...new Set([...CHARTS.flatMap((chart) => chart.lines.map(([metric]) => metric)), "acceptance_rate",
  ...BUSY.map((service) => "busy_" + service)])];

export const title = (route) => route.parts[1];

export function open(main, route) {
  const name = route.parts[1];
  const path = "/v1/runs/" + encodeURIComponent(name);
  const ways = make("p", {}, make("a", {href: href(["runs", name, "rollouts"])}, "Rollouts, token by token"));
  const alarm = make("p", {class: "card alarm", role: "alert", hidden: true});
  const tiles = make("div", {class: "grid tiles"});
  const charts = make("div", {class: "grid"});
  const pick = make("select", {on: {change: () => change({metric: [...own(), pick.value]}, {push: true})}});
  const queues = table("Queues", ["queue", "waiting", "on loan", "oldest, s"]);
  const ledger = table("Ledger of rollouts", ["state", "rollouts"]);
  const waits = table("Who works and who waits", ["service", "busy", "waited in the last step, s"]);
  const balance = make("p", {class: "soft small"});
  const bottleneck = make("p", {class: "soft small"});
  const idle = make("p", {class: "soft"}, "Nothing recorded yet.");
  const live = make("div", {class: "grid"},
    card("Queues", queues.node), card("Who works, who waits", waits.node, idle, bottleneck), card("Ledger of rollouts", ledger.node, balance));
  main.append(ways, alarm, tiles, charts, make("div", {class: "bar"}, make("label", {class: "field"}, "One more metric", pick)), live);
  const drawn = new Map();
  let cursor = null, curves = null, asked = "", state = "", summary = {};

  async function about(signal) {
    const {summary: ended, has_report: report} = await ask(path + "/settings", {signal});
    summary = ended;
    if (!report) return;
    ways.append(" \u00b7 ", needsKey() ? make("button", {on: {click: () => download(path + "/report", name + "-report.html")}}, "Download the report")
      : make("a", {href: (path + "/report").slice(1), target: "_blank", rel: "noopener"}, "Report"));
  }

  async function readCurves(signal) {
    const more = own();
    curves = await ask(path + "/curves" + query({metric: [...METRICS, ...more], points: 600}), {signal});
    asked = more.join();
    offer(pick, [...curves.step.names, ...curves.evaluation.names], more);
    const kindOf = (metric) => (curves.step.names.includes(metric) ? "step" : "evaluation");
    const wanted = [...CHARTS.filter((chart) => !chart.ofPrm || hasPrm()), ...more.map((metric) => ({name: metric, kind: kindOf(metric), own: true, lines: [[metric, metric]]}))];
    for (const [key, chart] of drawn) if (!wanted.some((one) => one.name === key)) { chart.gone(); drawn.delete(key); }
    keep(charts, wanted, (one) => one.name, (one) => {
      drawn.set(one.name, new Lines(one.name, {heading: "h2", description: one.logarithmic ? "logarithmic" : null, remove: one.own ? () => leaveOut(one.name) : null}));
      return drawn.get(one.name).node;
    });
    for (const one of wanted) {
      const {steps, values} = curves[one.kind];
      const lines = one.lines.filter(([metric]) => values[metric]?.some(isNumber)).map(([metric, label]) => ({label, steps, values: values[metric]}));
      drawn.get(one.name).show({lines, high: one.high, whole: one.whole, logarithmic: one.logarithmic});
    }
  }

  const newest = (metric, kind = "step") => curves?.[kind].values[metric]?.findLast(isNumber);
  const hasPrm = () => newest("seconds_learner") === undefined || newest("prm_accuracy") !== undefined;

  function fillTiles(status) {
    const last = curves?.step.steps.at(-1);
    const entries = [
      ["State", status ? status.state : summary.result === "ok" ? "finished" : summary.result ?? "not running"],
      ["Train step", status ? `${status.step} of ${status.total_steps}` : number(last, 0)],
      ["Outcome reward", number(newest("outcome_reward_mean"))],
      ["Held-out accuracy", percent(newest("heldout_accuracy", "evaluation"))],
      ...(hasPrm() ? [["PRM accuracy", percent(newest("prm_accuracy"))]] : []),
      ["Largest staleness", number(newest("staleness_max"), 0)],
      ["Prompts that pass the filter", percent(status ? status.acceptance_rate : newest("acceptance_rate"))],
      ["Tokens per second", number(newest("tokens_per_second"), 0)],
    ];
    keep(tiles, entries, ([label]) => label, ([label]) => make("div", {class: "card tile"}, make("div", {class: "soft small"}, label), make("div", {class: "value"})),
      (node, [, value]) => setText(node.lastChild, value));
  }

  function fillTables(status) {
    for (const card of [live.firstChild, live.lastChild]) setHidden(card, !status);
    if (status) {
      fillRows(queues.body, status.queues.map((queue) => [queue.stream, number(queue.waiting, 0), number(queue.pending, 0), number(queue.oldest_seconds, 1)]));
      const states = Object.entries(status.ledger).sort();
      fillRows(ledger.body, states.map(([one, count]) => [one, number(count, 0)]));
      const known = states.filter(([one]) => one !== "issued").reduce((sum, [, count]) => sum + count, 0);
      setText(balance, `${number(known, 0)} of ${number(status.ledger.issued ?? 0, 0)} issued rollouts accounted for`);
    }
    const services = BUSY.filter((service) => isNumber(newest("busy_" + service)) || isNumber(newest("wait_s_" + service)));
    setHidden(waits.node, services.length === 0);
    setHidden(idle, services.length > 0);
    fillRows(waits.body, services.map((service) => [service, percent(newest("busy_" + service)), isNumber(newest("wait_s_" + service)) ? number(newest("wait_s_" + service), 2) : NONE]));
    setText(bottleneck, status?.bottleneck ? "The others wait for: " + status.bottleneck : "");
  }

  // Read aloud: a standstill, and the end of the run. Numbers that change every two seconds are not.
  function alarms(status) {
    const text = status?.stalled ?? "";
    setHidden(alarm, !text);
    setText(alarm, text);
    if (status && state && status.state !== state) announce(`Run ${name}: ${status.state}, train step ${status.step}`);
    state = status?.state ?? "";
  }

  const begun = new AbortController();
  const ready = about(begun.signal).catch((error) => { if (error.name !== "AbortError") note(error.message, true); });
  const poll = new Poll(async (signal) => {
    await ready;
    const answer = await ask(path + query({tail: 0, cursor}), {signal});
    if (answer.reset || answer.rows.length || !curves || asked !== own().join()) await readCurves(signal);
    cursor = answer.cursor;
    fillTiles(answer.status);
    fillTables(answer.status);
    alarms(answer.status);
    note(answer.active ? answer.status_error || "updated " + new Date().toLocaleTimeString() : "", Boolean(answer.active && answer.status_error));
    return answer.active ? POLL_MS : 10 * POLL_MS;
  });
  return {changed: () => poll.now(), leave: () => { begun.abort(); poll.stop(); for (const chart of drawn.values()) chart.gone(); }};
}

function card(heading, ...children) {
  return make("section", {class: "card"}, make("h2", {}, heading), ...children);
}

async function download(path, file) {
  try {
    const address = URL.createObjectURL(await askFile(path));
    make("a", {href: address, download: file}).click();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
  } catch (error) {
    note(error.message, true);
  }
}
