// What stands above a page when there is no news.

import { el, say } from "./dom.js";

/** The line; `node` belongs at the top of the page. */
export function createBanner() {
  const words = el("span", {});
  // The same address shows the form to whoever is not logged in.
  const login = el("a", { href: location.href, hidden: true }, "Log in again");
  const node = el("p", { class: "banner", role: "status", "aria-live": "polite", hidden: true }, words, " ", login);
  let lostAt = null;
  let ended = "";

  return {
    node,
    /** News came. */
    clear() {
      lostAt = null;
      ended = "";
      node.hidden = true;
      say(words, "");
    },
    /** None came. The page shows what it knew. */
    lost(error) {
      lostAt ??= new Date();
      node.hidden = false;
      login.hidden = error.status !== 401;
      const reason = error.status ? error.message : "the coordinator does not answer";
      say(words, ended || `No news since ${lostAt.toLocaleTimeString()}: ${reason}. This page shows what it knew, and goes on when there is news.`);
    },
    /** The coordinator says that it ends. */
    end({ results, finished, ended: all }) {
      lostAt ??= new Date();
      const told = all ? "The coordinator has ended." : "The coordinator has ended before its runs; started again, it goes on with them.";
      const place = finished ? ` The report is ${results}/report.html.` : ` What there is lies in ${results}.`;
      ended = `${lostAt.toLocaleTimeString()}: ${told}${results ? place : ""}`;
      node.hidden = false;
      say(words, ended);
    },
  };
}
