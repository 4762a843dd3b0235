// What is shown stands in the address: #/runs/demo/rollouts?step_from=10. A link shows the same to everybody who may see it.

import {query} from "./api.js";

export function current() {
  const [path, search = ""] = location.hash.replace(/^#/, "").split(/\?(.*)/s);
  return {parts: path.split("/").filter(Boolean).map(decoded), values: new URLSearchParams(search)};
}

export function href(parts, values = {}) {
  return "#/" + parts.map(encodeURIComponent).join("/") + query(values);
}

// Changes the values of the page that is shown. `push` makes a step that the Back button undoes.
export function change(values, {push = false} = {}) {
  const route = current();
  const all = {};
  for (const name of new Set(route.values.keys())) all[name] = route.values.getAll(name);
  const address = href(route.parts, {...all, ...values});
  if (address === location.hash) return;
  if (push) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
  document.dispatchEvent(new Event("route-changed"));
}

function decoded(part) {
  try { return decodeURIComponent(part); } catch { return part; }
}
