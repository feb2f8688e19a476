// The page of a hesscomp service. It asks /v1 as any client does, and holds no secret: the token
// arrives in the address's fragment and becomes a cookie that scripts cannot read.
"use strict";

const SHOWN = 50; // jobs that are listed at first
const LOOK = 3000; // milliseconds between two looks at the status
const ROWS = 500; // of a history, as many as the service keeps
const FACTOR = "factor.h5"; // the file of a job that has one
const ENDED = ["done", "failed", "cancelled"];
const CURVES = [
  ["objective", "Objective", false],
  ["gradient_norm", "Norm of the gradient", true],
  ["test_loss", "Loss of the test rows", false],
];

const jobs = new Map(); // by id
const lines = new Map(); // the last line that a job said
const results = new Map(); // numbers and files of jobs that are done
const rows = new Map(); // the table's rows of jobs
const whole = new Map(); // by job, when it started: its history here has all of its rows
let showAll = false;
let events = null;
let looking = 0;

const at = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function put(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

// What the service is asked

async function ask(method, path, body, headers = {}) {
  const changes = method === "GET" ? {} : { "X-Hesscomp": "1" };
  const given = { "X-Hesscomp-Client": "page", ...changes, ...headers };
  const answer = await fetch(path, { method, body, headers: given, credentials: "same-origin" });
  const text = await answer.text();
  if (answer.ok) return text ? JSON.parse(text) : null;
  let why = `the service answered with status ${answer.status}`;
  try {
    why = JSON.parse(text).error;
  } catch {
    // it is no message of the service's
  }
  throw Object.assign(new Error(why), { status: answer.status });
}

async function enter(token) {
  await ask("POST", "/v1/session", undefined, { Authorization: `Bearer ${token}` });
  at("enter").hidden = true;
  await start();
}

async function arrive() {
  const found = /^#token=([0-9a-f]+)$/.exec(location.hash);
  if (!found) return start();
  history.replaceState(null, "", location.pathname);
  return enter(found[1]);
}

async function start() {
  events?.close();
  await load();
  at("content").hidden = false;
  listen();
}

async function load() {
  const [status, every, points] = await Promise.all(
    ["/v1/status", "/v1/jobs", "/v1/points"].map((path) => ask("GET", path)),
  );
  jobs.clear();
  whole.clear();
  for (const job of every) jobs.set(job.id, job);
  showStatus(status);
  showPoints(points);
  showJobs();
  showJob();
}

async function look() {
  clearTimeout(looking);
  if (!document.hidden && events) {
    try {
      showStatus(await ask("GET", "/v1/status"));
      showPoints(await ask("GET", "/v1/points"));
    } catch (why) {
      if (why.status) complain(why);
    }
  }
  looking = setTimeout(look, LOOK);
}

function listen() {
  events = new EventSource("/v1/events");
  events.onopen = () => {
    put(at("connection"), "Live: what happens is shown as it happens.");
    attempt(load);
  };
  events.onerror = () => {
    put(at("connection"), "The service does not answer. The page tries again until it does.");
    if (events.readyState === EventSource.CLOSED) setTimeout(() => attempt(start), LOOK);
  };
  const heard = {
    job: hearJob,
    row: hearRow,
    line: ({ job, text }) => lines.set(job, text) && showJob(),
    reset: () => attempt(load),
    ranks: () => attempt(look),
    point: () => attempt(look),
  };
  for (const [name, hear] of Object.entries(heard)) {
    events.addEventListener(name, (event) => hear(JSON.parse(event.data)));
  }
}

function hearJob(job) {
  const before = jobs.get(job.id);
  if (before && before.started === job.started) job.history = before.history; // it comes by rows
  jobs.set(job.id, job);
  if (before?.state !== job.state) put(at("news"), `Job ${job.id}, ${job.kind}, is ${job.state}.`);
  showJobs();
  showJob(job.id);
}

function hearRow({ job, row }) {
  const known = jobs.get(job);
  if (!known) return;
  known.history = [...known.history.slice(-ROWS), row];
  showJob(job);
}

async function attempt(what) {
  try {
    await what();
    at("alert").hidden = true;
  } catch (why) {
    complain(why);
  }
}

function complain(why) {
  if (why.status === 401) {
    at("enter").hidden = false;
    at("content").hidden = true;
    put(at("connection"), "Not connected.");
    events?.close();
    events = null;
  }
  put(at("alert"), why.status ? why.message : "The service does not answer.");
  at("alert").hidden = false;
  if (!why.status && !events) setTimeout(() => attempt(start), LOOK);
}

// What is shown

function bytes(count) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return `${unit && count < 100 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

function seconds(count) {
  if (count < 100) return `${count.toFixed(count < 10 ? 1 : 0)} s`;
  const minutes = Math.floor(count / 60);
  if (minutes < 100) return `${minutes} min ${Math.round(count % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function number(value) {
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(2);
  return Number(value.toPrecision(4)).toString();
}

function moment(stamp) {
  const date = new Date(1000 * stamp);
  return element("time", { datetime: date.toISOString() }, date.toLocaleString());
}

const took = (job) =>
  job.started === null ? "" : seconds((job.ended ?? Date.now() / 1000) - job.started);

const told = (options) =>
  Object.entries(options)
    .map(([name, value]) => `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`)
    .join(", ");

function showFacts(place, facts) {
  const known = new Map([...place.children].map((each) => [each.firstChild.textContent, each]));
  const wanted = Object.entries(facts).filter(([, value]) => value !== "");
  const made = wanted.map(([name, value]) => {
    const each = known.get(name) ?? element("div", {}, element("dt", {}, name), element("dd"));
    put(each.lastChild, value);
    return each;
  });
  if (made.length !== known.size || made.some((each) => !each.parentNode)) {
    place.replaceChildren(...made);
  }
}

function showStatus(status) {
  const memory = status.ranks.reduce((sum, rank) => sum + rank.resident_bytes, 0);
  put(at("problem"), status.problem);
  document.title = status.problem ? `hesscomp: ${status.problem}` : "hesscomp service";
  showFacts(at("facts"), {
    State: status.state,
    Parameters: status.n === null ? "" : number(status.n),
    Rows: status.rows === null ? "" : number(status.rows),
    Ranks: String(status.ranks.length),
    Memory: bytes(memory),
    "Requests waiting": number(status.waiting),
    "Jobs queued": number(status.jobs.queued),
    Restarts: status.restarts ? number(status.restarts) : "",
  });
  at("ranks-none").hidden = status.ranks.length > 0;
  at("ranks-scroll").hidden = status.ranks.length === 0;
  const most = Math.max(...status.ranks.map((rank) => rank.resident_bytes));
  at("ranks").replaceChildren(
    ...status.ranks.map((rank) => {
      const bar = element("progress", { max: most, value: rank.resident_bytes, "aria-hidden": "true" });
      return element(
        "tr",
        {},
        element("th", { scope: "row" }, String(rank.rank)),
        element("td", {}, rank.host),
        element("td", { class: "number" }, String(rank.pid)),
        element("td", { class: "number" }, String(rank.threads)),
        element("td", { class: "nowrap" }, bar, bytes(rank.resident_bytes)),
      );
    }),
  );
  at("failure").hidden = !status.last_failure;
  put(at("failure"), `The ranks ended last because: ${status.last_failure}`);
}

function showPoints(points) {
  at("points-none").hidden = points.length > 0;
  at("points-scroll").hidden = points.length === 0;
  at("points").replaceChildren(
    ...points.map((point) =>
      element(
        "tr",
        {},
        element("th", { scope: "row", class: "code", title: point.id }, `${point.id.slice(0, 16)}…`),
        element("td", { class: "number" }, bytes(point.bytes)),
        element("td", {}, moment(point.used)),
      ),
    ),
  );
}

function showJobs() {
  const every = [...jobs.values()].reverse(); // the newest first
  const shown = showAll ? every : every.slice(0, SHOWN);
  at("jobs-none").hidden = every.length > 0;
  at("jobs-scroll").hidden = every.length === 0;
  at("more").hidden = shown.length === every.length;
  const chosen = location.hash.slice(1);
  const made = shown.map((job) => {
    if (!rows.has(job.id)) rows.set(job.id, newRow(job.id, job.kind));
    fillRow(rows.get(job.id), job, job.id === chosen);
    return rows.get(job.id).row;
  });
  const now = [...at("jobs").children];
  if (made.length !== now.length || made.some((row, i) => row !== now[i])) {
    const focused = document.activeElement;
    at("jobs").replaceChildren(...made);
    if (made.some((row) => row.contains(focused))) focused.focus();
  }
}

function newRow(id, kind) {
  const parts = {
    link: element("a", { href: `#${id}` }, id),
    state: element("span", { class: "tag" }),
    bar: element("progress", { "aria-label": `Progress of ${id}` }),
    columns: element("span"),
    time: element("td", { role: "cell", class: "number" }),
    options: element("td", { role: "cell", class: "code" }),
    cancel: element("button", { type: "button", "aria-label": `Cancel ${id}` }, "Cancel"),
    again: element("button", { type: "button", "aria-label": `Submit ${id} again` }, "Submit again"),
  };
  parts.cancel.addEventListener("click", () => attempt(() => cancel(id)));
  parts.again.addEventListener("click", () => attempt(() => again(id)));
  // The roles are said because on a narrow screen the rows are no table for the browser.
  parts.row = element(
    "tr",
    { role: "row", "data-job": id },
    element("th", { role: "rowheader" }, parts.link, ` ${kind}`),
    element("td", { role: "cell" }, parts.state),
    element("td", { role: "cell", class: "nowrap" }, parts.bar, parts.columns),
    parts.time,
    parts.options,
    element("td", { role: "cell", class: "nowrap" }, parts.cancel, parts.again),
  );
  return parts;
}

function fillRow(parts, job, chosen) {
  put(parts.state, job.state);
  parts.state.className = `tag ${job.state}`;
  const running = job.state === "running";
  parts.bar.hidden = !running;
  if (job.total === null) parts.bar.removeAttribute("value");
  else {
    parts.bar.max = Math.max(job.total, 1);
    parts.bar.value = job.done;
  }
  const last = job.history.at(-1);
  const steps = last?.step === undefined ? "" : `step ${number(last.step)}`;
  const columns = job.done ? `${number(job.done)}${job.total ? ` of ${number(job.total)}` : ""} columns` : "";
  put(parts.columns, columns || steps);
  put(parts.time, took(job));
  put(parts.options, [job.point ? `at ${job.point.slice(0, 12)}` : "", told(job.options)].filter(Boolean).join(", "));
  const ended = ENDED.includes(job.state);
  if (ended && document.activeElement === parts.cancel) parts.link.focus(); // the button goes
  parts.cancel.hidden = ended;
  parts.again.hidden = !ended;
  if (chosen) parts.row.setAttribute("aria-current", "true");
  else parts.row.removeAttribute("aria-current");
}

async function cancel(id) {
  hearJob(await ask("DELETE", `/v1/jobs/${id}`));
}

async function again(id) {
  const { kind, options } = jobs.get(id);
  await queue({ kind, options, point_of: id }); // its point, though it may have left the memory
}

async function queue(body) {
  const key = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random().toString(36).slice(2)}`;
  const job = await ask("POST", "/v1/jobs", JSON.stringify({ ...body, key }));
  hearJob(job);
  put(at("news"), `Job ${job.id}, ${job.kind}, is ${job.state}.`);
  return job;
}

// One job

async function showJob(changed) {
  const job = jobs.get(location.hash.slice(1));
  at("job").hidden = !job;
  if (!job || (changed && changed !== job.id)) return;
  put(at("job-heading"), `Job ${job.id}: ${job.kind}`);
  showFacts(at("job-facts"), {
    State: job.state,
    Point: job.point ? job.point.slice(0, 16) : "the command's own",
    Time: took(job),
    Columns: job.done ? `${number(job.done)}${job.total ? ` of ${number(job.total)}` : ""}` : "",
    "Attempts ended by a dead rank": job.attempts ? number(job.attempts) : "",
  });
  put(at("job-options"), told(job.options));
  at("job-error").hidden = !job.error;
  put(at("job-error"), job.error);
  at("job-warnings").hidden = job.warnings.length === 0;
  at("job-warnings").replaceChildren(...job.warnings.map((text) => element("li", {}, text)));
  at("job-line").hidden = !lines.has(job.id);
  put(at("job-line"), lines.get(job.id) ?? "");
  const found = job.state === "done" ? await resultOf(job) : null;
  if (location.hash.slice(1) !== job.id) return; // another one was chosen meanwhile
  if (!found?.numbers?.history?.length && job.history.length) await completeHistory(job);
  if (location.hash.slice(1) !== job.id) return;
  const history = found?.numbers?.history?.length ? found.numbers.history : job.history;
  at("job-curves").replaceChildren(...curvesOf(history));
  showReport(job, found);
}

// Lists and events have the last row of a history alone; the job itself has all.
async function completeHistory(job) {
  if (whole.get(job.id) === job.started) return;
  whole.set(job.id, job.started);
  try {
    const all = await ask("GET", `/v1/jobs/${job.id}`);
    const now = jobs.get(job.id);
    if (now.started !== all.started) return;
    const last = all.history.at(-1)?.step ?? Infinity;
    const newer = now.history.filter((row) => row.step > last); // they came meanwhile
    job.history = now.history = [...all.history, ...newer];
  } catch (why) {
    whole.delete(job.id);
    complain(why);
  }
}

async function resultOf(job) {
  if (!results.has(job.id)) {
    try {
      results.set(job.id, await ask("GET", `/v1/jobs/${job.id}/result`));
    } catch (why) {
      complain(why);
      return null;
    }
  }
  return results.get(job.id);
}

function showReport(job, found) {
  const place = at("job-report");
  const mark = found ? job.id : "";
  if (place.dataset.job === mark) return; // it stands there already, perhaps with the focus in it
  place.dataset.job = mark;
  if (!found) {
    place.replaceChildren();
    at("job-files").replaceChildren();
    return;
  }
  const { numbers, files } = found;
  const path = (name) => `/v1/jobs/${job.id}/result/${encodeURIComponent(name)}`;
  const parts = [];
  if (files.includes(FACTOR)) {
    parts.push(
      element("h3", {}, "Spectrum"),
      pictureOf(`/v1/jobs/${job.id}/picture`, spectrumInWords(job, numbers), "What hesscomp plot draws of the factor"),
      element(
        "p",
        {},
        element(
          "a",
          { href: `/v1/jobs/${job.id}/report`, target: "_blank", rel: "noopener" },
          "Report of the factor (opens in a new tab)",
        ),
      ),
    );
  }
  for (const name of files.filter((each) => each.endsWith(".png"))) {
    parts.push(pictureOf(path(name), `${name} of job ${job.id}, ${job.kind}`, name));
  }
  const flat = Object.entries(numbers ?? {}).filter(([, value]) => typeof value !== "object");
  if (flat.length) {
    const text = element("details", {}, element("summary", {}, "Numbers"), tableOf(Object.fromEntries(flat)));
    parts.push(text);
  }
  place.replaceChildren(...parts);
  const links = files.map((name) => element("li", {}, element("a", { href: path(name), download: name }, name)));
  at("job-files").replaceChildren(element("h3", {}, "Files"), element("ul", {}, ...links));
}

function pictureOf(path, words, caption) {
  const line = element("figcaption", {}, caption);
  const image = element("img", { src: path, alt: words });
  image.addEventListener("error", async () => {
    try {
      await ask("GET", path); // an image does not tell what the service said
    } catch (why) {
      put(line, `It could not be drawn${why.status ? `: ${why.message}` : "."}`);
    }
  });
  return element("figure", {}, image, line);
}

function spectrumInWords(job, numbers) {
  const values = numbers?.eigenvalues ?? [];
  const words = `Spectrum of the factor of job ${job.id}`;
  if (!values.length) return words;
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return `${words}: ${number(values.length)} eigenvalues from ${number(low)} to ${number(high)}`;
}

function tableOf(facts) {
  const lines = Object.entries(facts).map(([name, value]) =>
    element("tr", {}, element("th", { scope: "row" }, name.replaceAll("_", " ")), element("td", {}, number(value))),
  );
  return element("div", { class: "scroll" }, element("table", {}, element("tbody", {}, ...lines)));
}

// Pictures

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 420;
const HEIGHT = 230;
const EDGE = { left: 58, right: 10, top: 10, bottom: 34 };

function svg(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Round numbers between two bounds, about as many as asked; where the bounds are logarithms,
// powers of ten, or a few of their multiples.
function ticks(low, high, log, count = 4) {
  if (log) {
    const [first, last] = [Math.ceil(low - 1e-9), Math.floor(high + 1e-9)];
    const step = Math.max(1, Math.ceil((last - first) / count));
    const powers = [];
    for (let power = first; power <= last; power += step) powers.push(power);
    if (powers.length > 1) return powers.map((power) => [power, `1e${power}`]);
    const between = [];
    for (let power = Math.floor(low); power <= high; power += 1) {
      for (const part of [1, 2, 3, 5]) between.push(part * 10 ** power);
    }
    const found = between.map((each) => [Math.log10(each), number(each)]);
    return found.filter(([tick]) => low <= tick && tick <= high);
  }
  const rough = (high - low) / count;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 5, 10].find((each) => each * unit >= rough);
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step / 1e6; tick += step) {
    found.push([tick, number(Math.abs(tick) < step / 1e6 ? 0 : tick)]);
  }
  return found;
}

function bounds(values, log) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = (high - low) * 0.05 || (log ? 0.5 : Math.abs(high) * 0.05 || 1);
  return [low - room, high + room];
}

// A chart of a curve through pairs (x, y).
function chart(pairs, { title, across, log }) {
  const height = (y) => (log ? Math.log10(Math.abs(y)) : y);
  const kept = pairs.filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y) && Number.isFinite(height(y)));
  if (!kept.length) return null;
  const [left, right] = bounds(kept.map(([x]) => x), false);
  const [low, high] = bounds(kept.map(([, y]) => height(y)), log);
  const X = (x) => EDGE.left + ((x - left) / (right - left)) * (WIDTH - EDGE.left - EDGE.right);
  const Y = (y) => HEIGHT - EDGE.bottom - ((y - low) / (high - low)) * (HEIGHT - EDGE.top - EDGE.bottom);
  const [first, last] = [kept[0], kept.at(-1)];
  const summary = `${title}: from ${number(first[1])} at ${across} ${number(first[0])} to ${number(last[1])} at ${across} ${number(last[0])}`;
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": summary });
  for (const [tick, text] of ticks(low, high, log)) {
    picture.append(
      svg("line", { class: "axis", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: Y(tick), y2: Y(tick) }),
      svg("text", { x: EDGE.left - 6, y: Y(tick) + 4, "text-anchor": "end" }, text),
    );
  }
  for (const [tick, text] of ticks(left, right, false)) {
    if (!Number.isInteger(tick)) continue;
    picture.append(svg("text", { x: X(tick), y: HEIGHT - EDGE.bottom + 16, "text-anchor": "middle" }, text));
  }
  picture.append(
    svg("text", { x: (EDGE.left + WIDTH - EDGE.right) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, across),
  );
  const way = kept.map(([x, y]) => `${X(x).toFixed(1)},${Y(height(y)).toFixed(1)}`).join(" ");
  picture.append(
    svg("polyline", { class: "curve", points: way }),
    svg("circle", { class: "mark", cx: X(last[0]), cy: Y(height(last[1])), r: 3 }),
  );
  return element("figure", {}, picture, element("figcaption", {}, title));
}

function curvesOf(history) {
  const made = CURVES.map(([name, title, log]) => {
    const pairs = history.map((row, i) => [row.step ?? i, row[name]]).filter(([, y]) => typeof y === "number");
    return pairs.length ? chart(pairs, { title: `${title}, ${number(pairs.at(-1)[1])} now`, across: "step", log }) : null;
  });
  return made.filter(Boolean);
}

// What the user does

at("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = at("token").value.trim();
  at("token").value = "";
  attempt(() => enter(token));
});

at("submit").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    const options = {};
    for (const line of at("options").value.split("\n").filter((each) => each.trim())) {
      const [name, ...rest] = line.split("=");
      const text = rest.join("=").trim();
      if (!rest.length) throw Object.assign(new Error(`${line.trim()}: write name=value`), { status: 422 });
      try {
        options[name.trim()] = JSON.parse(text);
      } catch {
        options[name.trim()] = text;
      }
    }
    const point = at("point").value.trim() || null;
    const job = await queue({ kind: at("kind").value, options, point });
    location.hash = job.id;
  });
});

at("more").addEventListener("click", () => {
  showAll = true;
  showJobs();
  at("jobs-heading").focus();
});

window.addEventListener("hashchange", () => {
  if (location.hash.startsWith("#token=")) {
    attempt(arrive);
    return;
  }
  showJobs();
  showJob().then(() => jobs.has(location.hash.slice(1)) && at("job-heading").focus());
});

setInterval(() => {
  for (const job of jobs.values()) {
    if (job.state === "running" && rows.has(job.id)) put(rows.get(job.id).time, took(job));
  }
}, 1000);

attempt(arrive).then(look);
