// Which page is shown, the key, and the way between pages.

import {setKey} from "./api.js";
import {announce, byId, make, note, setAttribute} from "./dom.js";
import * as evaluations from "./evaluations.js";
import * as inspector from "./inspector.js";
import * as playground from "./playground.js";
import * as rollouts from "./rollouts.js";
import {current, href} from "./route.js";
import * as run from "./run.js";
import * as runs from "./runs.js";

let shown = null;

// Where a gateway scores two models and nothing else, the playground is all there is.
const HAS_RUNS = document.body.dataset.runs === "yes";

function pageOf(parts) {
  if (parts[0] === "playground") return playground;
  if (parts[0] === "evaluations") return evaluations;
  if (parts[0] === "runs" && parts.length === 5 && parts[2] === "rollouts") return inspector;
  if (parts[0] === "runs" && parts.length === 3 && parts[2] === "rollouts") return rollouts;
  if (parts[0] === "runs" && parts.length === 2) return run;
  return HAS_RUNS ? runs : playground;
}

function show({again = false} = {}) {
  const route = current();
  const page = pageOf(route.parts);
  const place = JSON.stringify(route.parts);
  navigation(route, page);
  if (!again && shown && shown.place === place) {
    shown.view.changed?.(route);
    return;
  }
  const first = shown === null;
  shown?.view.leave?.();
  note("");
  const main = byId("page");
  const heading = make("h1", {tabindex: -1}, page.title(route));
  main.replaceChildren(heading);
  document.title = page.title(route) + " \u00b7 oprime";
  shown = {place, view: page.open(main, route)};
  if (!first) { heading.focus({preventScroll: true}); scrollTo(0, 0); }
}

function navigation(route, page) {
  const name = route.parts[0] === "runs" ? route.parts[1] : undefined;
  const links = HAS_RUNS ? [["Runs", ["runs"], page === runs]] : [];
  if (name !== undefined) links.push([name, ["runs", name], page === run], ["Rollouts", ["runs", name, "rollouts"], page === rollouts]);
  if (page === inspector) links.push(["Inspector", route.parts, true]);
  if (HAS_RUNS) links.push(["Evaluations", ["evaluations"], page === evaluations]);
  if (document.body.dataset.scores === "yes") links.push(["Playground", ["playground"], page === playground]);
  const nav = byId("nav");
  const wanted = JSON.stringify(links);
  if (nav.shown === wanted) return;
  nav.shown = wanted;
  nav.replaceChildren(...links.map(([text, parts, here]) => make("a", {href: href(parts), "aria-current": here ? "page" : null}, text)));
}

// Every answer 401 leads here: one form, whichever page asked.
function askForKey(refused) {
  if (byId("login")) {
    if (refused) setAttribute(byId("refused"), "hidden", null);
    return;
  }
  shown?.view.leave?.();
  const input = make("input", {id: "key", type: "password", autocomplete: "off", required: true});
  const form = make("form", {class: "bar", id: "login", on: {submit: (event) => {
    event.preventDefault();
    setKey(input.value.trim());
    show({again: true});
  }}}, make("label", {class: "field"}, "Key of the gateway", input), make("button", {class: "main"}, "Open"));
  const no = make("p", {id: "refused", class: "bad", role: "alert", hidden: !refused}, "The gateway does not know this key.");
  byId("page").replaceChildren(make("h1", {tabindex: -1}, "oprime"),
    make("p", {class: "soft"}, "This gateway asks for a key: one line of the file gateway.api_keys_file. It stays in this tab."), no, form);
  input.focus();
}

document.addEventListener("key-wanted", (event) => askForKey(event.detail));
document.addEventListener("route-changed", () => show());
addEventListener("hashchange", () => show());
addEventListener("popstate", () => show());
byId("skip").addEventListener("click", (event) => { event.preventDefault(); byId("page").focus(); });
announce("");
show();
