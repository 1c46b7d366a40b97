"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const FIELDS = {id: "run", status: "status", step: "step", pipeline: "pipeline", started: "started (UTC)", seconds: "took", error: "error", sweep: "sweep"};
  const ROWS = 100, MOST = 4, LONG = 40; // rows of a page; columns of results, and of arguments; characters of a cell
  const get = (id) => document.getElementById(id);
  const make = (tag, text, attributes) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text; // never as HTML: it comes from runs
    for (const name in attributes) made.setAttribute(name, attributes[name]);
    return made;
  };

  // The runs, newest first. A column of the data is a list of values, {all: value}, or {of: values, at: places in them}.
  const known = {arguments: new Set(), results: new Set()};
  const runs = [];
  for (const group of data.groups) {
    const reader = ([name, column]) => [name, Array.isArray(column) ? (i) => column[i] : "all" in column ? () => column.all : (i) => column.of[column.at[i]]];
    const fields = group.fields.map(reader), values = {arguments: group.arguments.map(reader), results: group.results.map(reader)};
    for (let i = 0; i < group.count; i++) {
      const run = {arguments: new Map(), results: new Map()};
      for (const [name, read] of fields) run[name] = read(i);
      for (const kind in values) for (const [name, read] of values[kind]) run[kind].set(name, read(i));
      runs.push(run);
    }
    for (const kind in values) for (const [name] of values[kind]) known[kind].add(name);
  }
  runs.sort((a, b) => (a.started === b.started ? (a.id < b.id ? 1 : -1) : a.started < b.started ? 1 : -1));
  const textOf = (run) => (run.text ??= [run.id, run.status, run.step, run.pipeline, run.sweep, run.error, ...Array.from(run.arguments, ([name, value]) => `${name}=${value}`)].join("\n").toLowerCase());

  // A name means a field, a result or an argument; `results.x` and `arguments.x` mean that alone.
  const meant = (name) => {
    const kind = name.startsWith("results.") ? "results" : name.startsWith("arguments.") ? "arguments" : "";
    if (kind) return known[kind].has(name.slice(kind.length + 1)) ? [(run) => run[kind].get(name.slice(kind.length + 1))] : [];
    const found = Object.hasOwn(FIELDS, name) ? [(run) => run[name]] : [];
    for (const each of ["results", "arguments"]) if (known[each].has(name)) found.push((run) => run[each].get(name));
    return found;
  };
  const compare = (value, sign, text) => {
    const number = Number(text), numeric = typeof value === "number" && !Number.isNaN(number);
    const a = numeric ? value : String(value).toLowerCase(), b = numeric ? number : text.toLowerCase();
    if (sign === "=") return a === b || (!numeric && /^\d{4}-\d\d/.test(b) && a.startsWith(b)); // a day is each moment of it
    if (sign === "!=") return a !== b;
    if (typeof value === "number" && !numeric) return false;
    return sign === "<" ? a < b : sign === "<=" ? a <= b : sign === ">" ? a > b : a >= b;
  };
  const tests = (query) => {
    const found = [], strange = [];
    for (const word of query.match(/(?:[^\s"]|"[^"]*"?)+/g) ?? []) {
      const [, name, sign, rest] = word.match(/^("[^"]+"|[^"<>=!]+)(<=|>=|!=|=|<|>)(.*)$/) ?? [];
      const bare = (text) => text.replace(/"/g, "");
      if (!name) found.push((run) => textOf(run).includes(bare(word).toLowerCase()));
      else if (!meant(bare(name)).length) strange.push(bare(name));
      else if (bare(rest)) {
        const readers = meant(bare(name));
        found.push((run) => readers.some((read) => { const value = read(run); return value !== undefined && value !== null && compare(value, sign, bare(rest)); }));
      }
    }
    return [found, strange];
  };

  // What is shown is what the URL's fragment says.
  const EMPTY = {q: "", status: "", step: "", pipeline: "", sort: "started", up: "", page: "1"};
  const state = {...EMPTY};
  const read = () => { const asked = new URLSearchParams(location.hash.slice(1)); for (const name in EMPTY) state[name] = asked.get(name) ?? EMPTY[name]; };
  const write = () => {
    const asked = new URLSearchParams(Object.entries(state).filter(([name, value]) => value !== EMPTY[name]));
    history.replaceState(null, "", asked.size ? `#${asked}` : location.pathname + location.search);
  };

  const number = (value) => (typeof value === "number" ? (Number.isInteger(value) ? String(value) : String(+value.toPrecision(5))) : String(value));
  const took = (s) => (s === null ? "" : s < 60 ? `${s.toFixed(1)} s` : `${Math.floor(s / 60)} min ${String(Math.floor(s % 60)).padStart(2, "0")} s`);
  const short = (text) => (text.length > LONG ? text.slice(0, LONG - 1) + "…" : text);
  const firsts = (run) => { const found = [...run.results].filter(([, value]) => typeof value === "number"); return found.slice(0, 3).map(([name, value]) => `${name} ${number(value)}`).join(", ") + (found.length > 3 ? ", …" : ""); };
  const title = (key) => (Object.hasOwn(FIELDS, key) ? FIELDS[key] : key.slice(key.indexOf(".") + 1));

  function chosen() {
    const [found, strange] = tests(state.q);
    for (const name of ["status", "step", "pipeline"]) if (state[name]) found.push((run) => run[name] === state[name]);
    const rows = runs.filter((run) => found.every((test) => test(run)));
    const [read] = meant(state.sort);
    if (read && (state.sort !== "started" || state.up)) {
      const sign = state.up ? 1 : -1, rank = (value) => (value === undefined || value === null || value === "" ? 2 : typeof value === "number" ? 0 : 1);
      const keys = new Map(rows.map((run) => { const value = read(run); return [run, [rank(value), typeof value === "number" ? value : String(value)]]; }));
      rows.sort((one, other) => { const [a, b] = [keys.get(one), keys.get(other)]; return a[0] - b[0] || (a[0] === 2 ? 0 : sign * (a[1] < b[1] ? -1 : a[1] > b[1] ? 1 : 0)); });
    }
    return [rows, strange];
  }

  function columns(rows) {
    const counts = new Map(), values = new Map();
    for (const run of rows) {
      for (const [name, value] of run.results) if (typeof value === "number") counts.set(name, (counts.get(name) ?? 0) + 1);
      for (const [name, value] of run.arguments) { const seen = values.get(name) ?? values.set(name, new Set()).get(name); if (seen.size < 2) seen.add(value); }
    }
    const one = new Set(rows.map((run) => `${run.step}/${run.pipeline}`)).size === 1; // else few runs have what others have
    const results = [...counts].sort((a, b) => b[1] - a[1]).slice(0, MOST).map(([name]) => `results.${name}`);
    const varied = [...values].filter(([, seen]) => seen.size > 1).slice(0, MOST).map(([name]) => `arguments.${name}`);
    const fixed = ["id", "status", ...(data.pipelines.length > 1 ? ["pipeline"] : []), "started", "seconds"];
    const all = [...fixed, ...(one ? [...results, ...varied] : ["results"])];
    return all.includes(state.sort) || !meant(state.sort).length ? all : [...fixed, state.sort, ...all.slice(fixed.length)];
  }

  function head(keys) {
    const focused = document.activeElement?.dataset?.key;
    get("head").replaceChildren(...keys.map((key) => {
      const sorted = key === state.sort, cell = make("th", undefined, {scope: "col", role: "columnheader", "aria-sort": !sorted ? "none" : state.up ? "ascending" : "descending"});
      if (key === "results") { cell.textContent = key; return cell; }
      const button = make("button", title(key), {type: "button", "data-key": key, title: key.startsWith("arguments.") ? "an argument that differs" : key.startsWith("results.") ? "a result" : ""});
      if (sorted) button.append(make("span", state.up ? " ▲" : " ▼", {"aria-hidden": "true"}));
      button.addEventListener("click", () => sortBy(key, sorted ? !state.up : key === "step" || key.startsWith("arguments.")));
      cell.append(button);
      return cell;
    }));
    if (focused) get("head").querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  function row(run, keys) {
    const made = make("tr", undefined, {role: "row"});
    for (const key of keys) {
      const value = key === "results" ? firsts(run) : meant(key)[0](run), cell = make("td", undefined, {role: "cell", "data-label": title(key)});
      if (key === "id") {
        cell.append(make("a", value.replace(/^\d{8}T\d{6}-/, ""), {href: `runs/${encodeURIComponent(value)}.html`, title: value}));
        if (run.error) cell.append(make("div", run.error, {class: "error"}));
      } else if (key === "status") cell.append(make("span", value, {class: `chip ${value}`}));
      else if (value === undefined || value === null) cell.className = "none";
      else {
        const text = key === "seconds" ? took(value) : number(value);
        cell.textContent = key === "results" ? text : short(text);
        if (text.length > LONG) cell.title = text;
        if (key === "results") cell.className = "words";
      }
      made.append(cell);
    }
    return made;
  }

  function show() {
    const [rows, strange] = chosen(), keys = columns(rows), pages = Math.max(1, Math.ceil(rows.length / ROWS));
    const page = Math.min(pages, Math.max(1, Math.floor(Number(state.page)) || 1));
    head(keys);
    get("rows").replaceChildren(...rows.slice((page - 1) * ROWS, page * ROWS).map((run) => row(run, keys)));
    get("count").textContent = (rows.length === runs.length ? `${runs.length.toLocaleString("en")} runs` : `${rows.length.toLocaleString("en")} of ${runs.length.toLocaleString("en")} runs`) +
      (strange.length ? `. No run has an argument or a result called ${strange.map((name) => `“${name}”`).join(", ")}.` : "");
    get("where").textContent = `page ${page} of ${pages}`;
    get("pager").hidden = pages === 1;
    get("before").disabled = page === 1;
    get("after").disabled = page === pages;
    get("clear").disabled = !["q", "status", "step", "pipeline"].some((name) => state[name]);
    get("way").textContent = state.up ? "▲ ascending" : "▼ descending";
    for (const name of ["q", "status", "step", "pipeline", "sort"]) if (get(name).value !== state[name]) get(name).value = state[name];
  }

  const change = (what) => { Object.assign(state, {page: "1"}, what); write(); show(); };
  const sortBy = (key, up) => change({sort: key, up: up ? "1" : ""});
  const turn = (by) => { change({page: String((Number(state.page) || 1) + by)}); get("count").scrollIntoView(); };
  const options = (id, values) => get(id).append(...values.map((value) => make("option", value, {value})));
  options("status", data.statuses); options("step", data.steps); options("pipeline", data.pipelines);
  get("pipeline").parentElement.hidden = data.pipelines.length < 2;
  for (const [label, keys] of [["fields", ["started", "id", "status", "step", "pipeline", "seconds"]], ...["results", "arguments"].map((kind) => [kind, [...known[kind]].map((name) => `${kind}.${name}`)])]) {
    const group = make("optgroup", undefined, {label});
    group.append(...keys.map((key) => make("option", title(key), {value: key})));
    get("sort").append(group);
  }
  get("q").addEventListener("input", () => change({q: get("q").value}));
  for (const name of ["status", "step", "pipeline"]) get(name).addEventListener("change", () => change({[name]: get(name).value}));
  get("sort").addEventListener("change", () => sortBy(get("sort").value, state.up));
  get("way").addEventListener("click", () => sortBy(state.sort, !state.up));
  get("clear").addEventListener("click", () => { change({q: "", status: "", step: "", pipeline: ""}); get("q").focus(); });
  get("before").addEventListener("click", () => turn(-1));
  get("after").addEventListener("click", () => turn(1));
  get("filters").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", () => { read(); show(); });
  addEventListener("keydown", (event) => { if (event.key === "/" && !/INPUT|SELECT|TEXTAREA/.test(document.activeElement?.tagName)) { event.preventDefault(); get("q").focus(); } });
  read();
  show();
  get("all").hidden = false;
})();
