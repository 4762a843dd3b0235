// Asks again and again while a page is open and visible. One question at a time; a page that was left gets no answer.

import {ApiError} from "./api.js";
import {byId, make, note} from "./dom.js";

export class Poll {
  // `ask(signal)` returns after how many milliseconds to ask again, or undefined for never.
  constructor(ask) {
    this.ask = ask;
    this.timer = 0;
    this.stopped = false;
    this.asking = null;
    this.seen = () => { if (!document.hidden && this.waiting) this.now(); };
    document.addEventListener("visibilitychange", this.seen);
    this.now();
  }

  async now() {
    clearTimeout(this.timer);
    this.asking?.abort();
    const mine = (this.asking = new AbortController());
    this.waiting = false;
    let again;
    try {
      again = await this.ask(mine.signal);
      if (mine.signal.aborted) return;
    } catch (error) {
      if (mine.signal.aborted || error.name === "AbortError") return;
      if (!(error instanceof ApiError)) throw error;
      if (error.status === 401) return;
      if (error.status === 404) { this.stop(); nothing(error.message); return; }
      note(error.message, true);
      again = error.status === 422 ? undefined : 5000;
    }
    if (this.stopped || again === undefined) return;
    this.waiting = true;
    if (!document.hidden) this.timer = setTimeout(() => this.now(), again);
  }

  stop() {
    this.stopped = true;
    clearTimeout(this.timer);
    this.asking?.abort();
    document.removeEventListener("visibilitychange", this.seen);
  }
}

// Of a page whose subject is not there, the heading stays.
function nothing(why) {
  const main = byId("page");
  main.replaceChildren(main.firstChild, make("p", {class: "bad", role: "alert"}, why));
}
