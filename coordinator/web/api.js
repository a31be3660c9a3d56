// What the coordinator is asked.

/** An answer that is an error, with what the coordinator says to do. */
export class Refusal extends Error {
  constructor(status, { error, hint }) {
    super(error || `the coordinator answers ${status}`);
    this.status = status;
    this.hint = hint;
  }
}

async function answer(response) {
  if (!response.ok) throw new Refusal(response.status, await response.json().catch(() => ({})));
  return response.json();
}

export const get = async (path) => answer(await fetch(path));

/** Asks for a change; the body is JSON, which no page from elsewhere can send. */
export async function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  return answer(await fetch(path, { method: "POST", headers, body: JSON.stringify(body) }));
}

export const runPath = (run, what = "") => `/api/v1/runs/${encodeURIComponent(run)}${what && `/${what}`}`;
export const blobPath = (sha256) => `/api/v1/blobs/${sha256}`;
export const runPage = (run) => `/runs/${encodeURIComponent(run)}`;
