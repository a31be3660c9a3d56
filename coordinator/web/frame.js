// What every page of a coordinator has: who is logged in, and whether there is news.

import { get } from "./api.js";
import { createBanner } from "./banner.js";
import { el } from "./dom.js";

/** The banner of the page, and what its reader may do: `{ banner, session }`. */
export async function openFrame() {
  const banner = createBanner();
  document.querySelector("main").prepend(banner.node);
  const session = await get("/api/v1/session").catch(() => ({ may_steer: false }));
  if (session.name) {
    const leave = el("form", { method: "post", action: "/logout" }, el("button", { type: "submit" }, "Log out"));
    document.getElementById("session").append(el("span", { class: "dim" }, `${session.name} (${session.role})`), leave);
  }
  if (!session.name && !session.may_steer) {
    const page = encodeURIComponent(location.pathname + location.search);
    document.getElementById("session").append(el("a", { href: `/login?page=${page}` }, "Log in to steer"));
  }
  return { banner, session };
}
