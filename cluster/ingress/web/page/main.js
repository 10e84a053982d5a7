// Which view is shown, and the one stream that feeds the cluster's.

import { ask, events, json, key, Refused } from "./api.js";
import { byId, h, perFrame, setText } from "./dom.js";
import { Picture } from "./picture.js";
import { Playground } from "./playground.js";
import { startTheme } from "./theme.js";
import { ClusterBoard } from "./board.js";

const FIRST_WAIT_MS = 500;
const MAX_WAIT_MS = 15000;
const HIDDEN_MS = 30000; // a tab that nobody sees stops listening after so long

const picture = new Picture();
const board = new ClusterBoard(picture);
const playground = new Playground();
const draw = perFrame(() => {
  const begun = performance.now();
  if (!byId("cluster").hidden) board.draw();
  header();
  performance.measure("baton-draw", { start: begun });
});
let listening = null; // an AbortController
let heard = false;
let wantsKey = false;

function header() {
  const models = names(picture.fleets.map((fleet) => fleet.model));
  setText(byId("model"), models);
  const trouble = picture.fleets.some((fleet) => !fleet.ready);
  if (wantsKey) pill("Locked", "idle");
  else pill(heard ? (trouble ? "Not whole" : "Ready") : "Connecting", heard ? (trouble ? "warn" : "good") : "idle");
  document.title = models ? `${models} · Baton` : "Baton";
}

function names(all) {
  return all.length > 3 ? `${all.slice(0, 2).join(", ")} and ${all.length - 2} more` : all.join(", ");
}

function pill(text, kind) {
  const element = byId("health");
  setText(element, text);
  element.className = `pill ${kind}`;
}

function show() {
  const view = location.hash === "#playground" ? "playground" : "cluster";
  for (const name of ["cluster", "playground"]) {
    byId(name).hidden = wantsKey || name !== view;
    const link = byId(`to-${name}`);
    if (name === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  byId("login").hidden = !wantsKey;
  byId("sign-out").hidden = !key.get();
  draw();
}

function wantKey(message) {
  listening?.abort();
  key.forget();
  wantsKey = true;
  heard = false;
  setText(byId("login-error"), message);
  show();
  byId("login-key").focus();
}

async function listen() {
  listening?.abort();
  const mine = (listening = new AbortController());
  let wait = FIRST_WAIT_MS;
  while (!mine.signal.aborted) {
    try {
      for await (const [kind, data] of events(await ask("cluster/events", { signal: mine.signal }))) {
        if (kind === "bye") break;
        picture.take(kind, JSON.parse(data));
        heard = true;
        wait = FIRST_WAIT_MS;
        notice("");
        draw();
      }
    } catch (error) {
      if (mine.signal.aborted || error.status === 401) return;
      notice(error instanceof Refused ? error.message : "The server does not answer; trying again.");
    }
    heard = false;
    draw();
    await new Promise((done) => setTimeout(done, wait * (0.5 + Math.random())));
    wait = Math.min(wait * 2, MAX_WAIT_MS);
  }
}

function notice(text) {
  byId("notices").replaceChildren(...(text ? [h("p", { class: "notice", text })] : []));
}

async function begin() {
  wantsKey = false;
  show();
  listen();
  await playground.load().catch(() => {});
}

async function login(event) {
  event.preventDefault();
  key.set(byId("login-key").value.trim());
  try {
    await json("cluster");
  } catch (error) {
    if (error.status !== 401) wantKey(error.message);
    return;
  }
  byId("login-key").value = "";
  setText(byId("login-error"), "");
  await begin();
}

let sleeping = 0;
document.addEventListener("visibilitychange", () => {
  clearTimeout(sleeping);
  if (document.hidden) sleeping = setTimeout(() => listening?.abort(), HIDDEN_MS);
  else if (listening?.signal.aborted && !wantsKey) listen();
});
addEventListener("baton-key", (event) => {
  const message = key.get() ? event.detail.message : "";
  if (message || !wantsKey) wantKey(message);
});
addEventListener("hashchange", () => {
  show();
  byId("main").focus({ preventScroll: true });
});
byId("login-form").addEventListener("submit", login);
byId("sign-out").addEventListener("click", () => wantKey(""));
startTheme(byId("theme"), () => {
  board.recolour();
  draw();
});
begin();
