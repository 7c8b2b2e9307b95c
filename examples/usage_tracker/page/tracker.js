// Shows what /events tells. Events change the data below, and draw() makes the page of it, once per frame at most.

const HOUR = 3_600_000;
const SILENCE = 40_000; // The ledger gives a sign of life about every 15 s.
const RECENT = 6;

const tracker = document.querySelector("[data-testid=usage-tracker]");
const part = (id) => document.getElementById(id);

let account = null; // As in a snapshot, and as changed since.
let state = "connecting"; // live, lost, unopened
let heardAt = null;
let midnight = midnightOf(Date.now());
let hours = new Map(); // Credits by operation, by the time at which the hour begins.

// ── Events ──────────────────────────────────────────────────────────────────────────────────────────────────────────

let source;
let cursor = ""; // After the last event; where the next connection goes on.
let timer;

function connect() {
  source?.close();
  const query = new URLSearchParams(location.search);
  if (cursor) query.set("cursor", cursor);
  source = new EventSource(`events?${query}`);
  on("snapshot", (told) => {
    account = told;
    outdate(midnight);
  });
  on("change", change);
  on("alive", () => {});
  on("unopened", () => {}, "unopened");
  source.onerror = () => {
    if (state !== "unopened") lost();
    // Browsers connect again by themselves, unless they got an error, as from a proxy while the backend restarts.
    if (source.readyState === EventSource.CLOSED) again(2_000);
  };
  again(SILENCE);
}

function on(name, handle, becomes = "live") {
  source.addEventListener(name, (event) => {
    handle(JSON.parse(event.data));
    cursor = event.lastEventId;
    state = becomes;
    heardAt = Date.now();
    again(SILENCE);
    redraw();
  });
}

function change({ entry, balance, limits }) {
  if (entry.revision <= account.revision) return; // A snapshot has told it already.
  account.revision = entry.revision;
  account.balance = balance;
  for (const limit of limits) {
    const at = account.limits.findIndex((old) => old.operation === limit.operation && old.period === limit.period);
    account.limits.splice(at < 0 ? account.limits.length : at, 1, limit);
  }
  account.recent = [entry, ...account.recent].slice(0, RECENT);
  outdate(Date.parse(entry.time));
}

function lost() {
  state = "lost";
  redraw();
}

function again(delay) {
  clearTimeout(timer);
  timer = setTimeout(() => {
    if (state === "live") lost();
    connect();
  }, delay);
}

// ── The day ─────────────────────────────────────────────────────────────────────────────────────────────────────────

let outdated = Infinity; // The first hour whose sums have changed.
let refreshing = false;

function midnightOf(time) {
  return new Date(time).setHours(0, 0, 0, 0);
}

function outdate(time) {
  outdated = Math.min(outdated, midnight + Math.max(0, Math.floor((time - midnight) / HOUR)) * HOUR);
  refresh();
}

// Asks for the outdated hours, once a second at most.
async function refresh() {
  if (refreshing) return;
  refreshing = true;
  while (outdated < Infinity) {
    const since = outdated;
    outdated = Infinity;
    try {
      await load(since);
    } catch {
      outdated = Math.min(outdated, since);
    }
    redraw();
    await new Promise((resolve) => setTimeout(resolve, 1_000));
  }
  refreshing = false;
}

async function load(since) {
  const query = new URLSearchParams(location.search);
  query.set("since", new Date(since).toISOString());
  const answer = await fetch(`usage?${query}`);
  if (!answer.ok) throw new Error(answer.statusText);
  for (const hour of await answer.json()) hours.set(Date.parse(hour.start), hour.credits);
}

// A new day has an empty chart, and limits may have begun anew.
function tick() {
  if (midnightOf(Date.now()) !== midnight) {
    midnight = midnightOf(Date.now());
    hours = new Map();
    outdate(midnight);
  }
  redraw();
}

// ── The page ────────────────────────────────────────────────────────────────────────────────────────────────────────

let frame = null;

function redraw() {
  frame ??= requestAnimationFrame(() => {
    frame = null;
    draw();
  });
}

function draw() {
  tracker.dataset.state = state;
  write("state", stateText());
  if (!account) return;
  const day = sums();
  drawBalance(account.balance, [...day.values()].reduce((sum, credits) => sum + credits, 0));
  drawLimits();
  drawDay(day);
  part("recent").replaceChildren(...account.recent.map(recentItem));
  part("level").hidden = false;
  write("level", name(account.level));
  tracker.dataset.revision = account.revision;
}

function stateText() {
  if (state === "live") return "Live";
  if (state === "unopened") return "You have no credits yet";
  return heardAt ? `Connecting again … as of ${clock(heardAt)}` : "Connecting …";
}

function drawBalance({ available, reserved }, spent) {
  if (part("available").textContent !== credits(available)) {
    write("available", credits(available));
    flash(part("available"));
    announce(`${credits(available)} credits left`);
  }
  write("reserved", credits(reserved));
  write("spent", credits(spent));
  const all = Math.max(1, available + reserved + Math.max(0, spent));
  const bar = part("balance-bar");
  bar.ariaValueMax = all;
  bar.ariaValueNow = available;
  bar.ariaValueText = `${credits(available)} credits left, ${credits(spent)} spent today, ${credits(reserved)} reserved`;
  bar.querySelector(".available").style.width = `${(available / all) * 100}%`;
  bar.querySelector(".reserved").style.width = `${(reserved / all) * 100}%`;
}

function drawLimits() {
  const none = make("li", "quiet", "None but your credits");
  part("limits").replaceChildren(...(account.limits.length ? account.limits.map(limitItem) : [none]));
}

function limitItem({ operation, period, limit, used, reset }) {
  // The ledger has begun to count from 0 again, and tells so with the next use.
  const past = reset && Date.parse(reset) <= Date.now();
  const uses = past ? 0 : used;
  const when = period === "lifetime" ? "in all" : `this ${period}`;
  const text = limit < 0 ? `${number(uses)} ${when}` : `${number(uses)} of ${number(limit)} ${when}`;
  const item = make("li", "", make("p", "", make("span", "", name(operation)), make("small", "", text)));
  if (limit < 0) return item;
  const bar = make("div", uses >= limit ? "bar full" : "bar", make("i"));
  bar.firstChild.style.width = `${limit ? Math.min(1, uses / limit) * 100 : 100}%`;
  Object.assign(bar, { role: "meter", ariaLabel: name(operation), ariaValueMin: 0, ariaValueMax: limit });
  Object.assign(bar, { ariaValueNow: Math.min(uses, limit), ariaValueText: text });
  if (reset && !past) item.title = `Begins anew on ${date(reset)}`;
  item.append(bar);
  return item;
}

// What each operation has cost today.
function sums() {
  const day = new Map();
  for (const [operation, amount] of [...hours.values()].flatMap(Object.entries)) {
    day.set(operation, (day.get(operation) ?? 0) + amount);
  }
  return new Map([...day].sort(([one], [other]) => (one < other ? -1 : 1)));
}

function drawDay(day) {
  const colours = new Map([...day.keys()].map((operation, index) => [operation, `var(--operation-${index % 6})`]));
  const starts = [];
  for (let start = midnight; midnightOf(start) === midnight; start += HOUR) starts.push(start);
  const totals = starts.map((start) => total(hours.get(start)));
  const highest = Math.max(1, ...totals);
  const bars = starts.map((start, index) => hourBar(start, totals[index], highest, colours));
  part("chart").replaceChildren(make("div", "top", credits(highest)), ...bars);
  const peak = starts[totals.indexOf(highest)];
  part("chart").ariaLabel = peak ? `Credits by hour; most at ${clock(peak)}: ${credits(highest)}` : "Nothing spent yet";
  const items = [...day].map(([operation, amount]) => operationItem(operation, amount, colours.get(operation)));
  part("operations").replaceChildren(...items);
}

function hourBar(start, sum, highest, colours) {
  const bar = make("div", "hour");
  for (const [operation, colour] of colours) {
    const amount = hours.get(start)?.[operation] ?? 0;
    if (amount <= 0) continue; // Refunded more than charged.
    const piece = make("i");
    piece.style = `background: ${colour}; height: ${(amount / highest) * 100}%`;
    bar.append(piece);
  }
  if (new Date(start).getHours() % 6 === 0) bar.append(make("span", "", clock(start)));
  bar.title = `${clock(start)}: ${credits(sum)}`;
  return bar;
}

function operationItem(operation, amount, colour) {
  const swatch = make("i", "swatch");
  swatch.style.background = colour;
  return make("li", "", swatch, name(operation), " ", make("b", "", credits(amount)));
}

const KINDS = {
  opened: "Account opened",
  granted: "Credits added",
  grant_started: "Credits added",
  grant_expired: "Credits expired",
  grant_voided: "Credits taken back",
  adjusted: "Correction",
};

const REMARKS = { reserved: "reserved", released: "released", reservation_expired: "released", refunded: "refund" };

function recentItem({ revision, kind, operation, cost, amount, time, failed }) {
  const what = make("span", "what", operation ? name(operation) : (KINDS[kind] ?? name(kind)));
  const remark = failed ? "failed" : REMARKS[kind];
  if (remark) what.append(make("span", "quiet", ` · ${remark}`));
  const moved = kind === "committed" ? -cost : amount; // Its credits had been reserved before.
  const how = make("span", moved > 0 ? "gain" : "", moved ? credits(moved, "exceptZero") : "0");
  const item = make("li", "", make("time", "", clock(time)), what, how);
  item.dataset.revision = revision;
  return item;
}

// For those who listen to the page: what came of it, not every step.
let saying = null;

function announce(text) {
  clearTimeout(saying);
  saying = setTimeout(() => write("said", text), 1_000);
}

function flash(element) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  element.animate({ color: ["var(--main)", "var(--ink)"] }, 900);
}

// ── Small things ────────────────────────────────────────────────────────────────────────────────────────────────────

function make(tag, className = "", ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

function write(id, text) {
  if (part(id).textContent !== text) part(id).textContent = text;
}

function total(spent = {}) {
  return Object.values(spent).reduce((sum, amount) => sum + Math.max(0, amount), 0);
}

function credits(amount, signDisplay = "negative") {
  const { decimals } = account;
  const text = (amount / 10 ** decimals).toLocaleString("en", { minimumFractionDigits: decimals, signDisplay });
  return text.replace("-", "−");
}

function number(count) {
  return count.toLocaleString("en");
}

function name(id) {
  const words = id.replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

function clock(time) {
  return new Date(time).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
}

function date(time) {
  return new Date(time).toLocaleDateString("en-GB", { day: "numeric", month: "long" });
}

setInterval(tick, 30_000);
connect();
