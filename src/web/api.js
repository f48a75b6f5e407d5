// Requests to the API of the service, and the token that they need.

const STORED = "itwin-syncd-token";

let onLocked = () => {};
let token = null;

/** Takes the token from the address, and out of it, or else from the storage of the browser. */
export function openToken(locked) {
  onLocked = locked;
  const address = new URL(location.href);
  const hash = new URLSearchParams(address.hash.slice(1));
  const given = hash.get("token") || address.searchParams.get("token");
  if (hash.has("token") || address.searchParams.has("token")) {
    hash.delete("token");
    address.searchParams.delete("token");
    address.hash = hash.toString();
    history.replaceState(null, "", address.pathname + address.search + address.hash);
  }
  if (given) setToken(given);
  else if (token === null) token = stored();
  return token;
}

// A browser may forbid storage; the token then lasts as long as the tab.
function stored() {
  try {
    return localStorage.getItem(STORED);
  } catch {
    return null;
  }
}

/** Uses this token from now on; null: none. */
export function setToken(next) {
  token = next;
  try {
    if (next === null) localStorage.removeItem(STORED);
    else localStorage.setItem(STORED, next);
  } catch {
    // See above.
  }
}

/** Whether the token of this browser has changed in another tab. */
export function tokenChanged() {
  const next = stored();
  if (next === token) return false;
  token = next;
  return true;
}

export const currentToken = () => token;

/** Sends a request, and returns the JSON of the answer. */
async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (token !== null) headers.Authorization = "Bearer " + token;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch {
    throw new Error("no connection to the service");
  }
  if (answer.ok) return answer.json();
  const problem = await answer.json().catch(() => ({ error: "HTTP " + answer.status, hint: null }));
  if (answer.status === 401 || answer.status === 429) onLocked(problem.error, answer.status);
  throw new Error(problem.error + (problem.hint ? "; hint: " + problem.hint : ""));
}

export const get = (path) => request(path);

export const post = (path, body) =>
  request(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
