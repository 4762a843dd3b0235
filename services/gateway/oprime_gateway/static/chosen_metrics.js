// Metrics that a person adds to those that a page shows by itself; they stand in the address.

import {keep, make} from "./dom.js";
import {change, current} from "./route.js";

const MOST = 20;

export const own = () => [...new Set(current().values.getAll("metric"))].filter(Boolean).slice(0, MOST);

export function leaveOut(metric) {
  change({metric: own().filter((one) => one !== metric)}, {push: true});
}

// A choice of the metrics that are not shown yet.
export function offer(pick, names, shown) {
  const more = [...new Set(names)].filter((metric) => !shown.includes(metric)).sort();
  keep(pick, ["", ...more], (metric) => metric, (metric) => make("option", {value: metric}, metric || "choose"));
  pick.value = "";
}
