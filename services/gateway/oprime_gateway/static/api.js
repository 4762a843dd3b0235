// Questions to the gateway. The key is typed once and stays in this tab (sessionStorage).

const KEY = "oprime-key";
export const needsKey = () => document.body.dataset.needsKey === "yes";
export const setKey = (key) => sessionStorage.setItem(KEY, key);

export class ApiError extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export async function ask(path, {body, signal} = {}) {
  const answer = await request(path, {body, signal});
  return answer.json();
}

export async function askFile(path) {
  return (await request(path)).blob();
}

async function request(path, {body, signal} = {}) {
  const headers = {};
  const key = needsKey() ? sessionStorage.getItem(KEY) : null;
  if (key) headers.Authorization = "Bearer " + key;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path.replace(/^\//, ""), {
      method: body === undefined ? "GET" : "POST", headers, body: body === undefined ? undefined : JSON.stringify(body), cache: "no-store", signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "the gateway does not answer");
  }
  if (answer.ok) return answer;
  if (answer.status === 401) document.dispatchEvent(new CustomEvent("key-wanted", {detail: key !== null}));
  let detail = answer.statusText;
  try { detail = (await answer.json()).detail ?? detail; } catch { /* no problem document */ }
  throw new ApiError(answer.status, detail);
}

// "a=1&b=2" of what is set; lists repeat their name.
export function query(values) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== undefined && one !== null && one !== "") search.append(name, one);
    }
  }
  const text = search.toString();
  return text ? "?" + text : "";
}
