// The pages of a board: table, filters, submissions, comparisons. Data files call moemix.take, so the pages also work
// when they are opened from a disk. Every number, interval and verdict comes from these files; the pages sort, filter,
// format and draw. Whatever a submission says becomes a text node: there is no innerHTML here.
"use strict";

const moemix = (() => {
  const PAGE = 50, FACTS = ["model", "strategy", "size", "licence", "date"];
  const SIZES = [["all sizes", 0, Infinity], ["under 100M", 1, 1e8], ["100M to 1B", 1e8, 1e9], ["1B to 10B", 1e9, 1e10],
    ["10B and more", 1e10, Infinity]];
  const loaded = new Map(), waiting = new Map();
  const view = { suite: 0, sort: "", descending: true, query: "", strategy: "", size: 0, page: 0, task: null };
  const START = { ...view };
  const chosen = new Set();
  let board = null, names = [], rowOf = new Map();

  // --- data -------------------------------------------------------------------------------------------

  function take(name, value) {
    loaded.set(name, value);
    if (name === "board") board = value;
    for (const ready of waiting.get(name) || []) ready(value);
    waiting.delete(name);
  }

  function load(name) {
    if (loaded.has(name)) return Promise.resolve(loaded.get(name));
    return new Promise((resolve, reject) => {
      waiting.set(name, [...(waiting.get(name) || []), resolve]);
      const script = document.createElement("script");
      script.src = `data/${name}.js`;
      script.onload = () => script.remove();
      script.onerror = () => { waiting.delete(name); reject(new Error(`data/${name}.js is missing`)); };
      document.head.append(script);
    });
  }

  // --- building blocks ----------------------------------------------------------------------------------

  function el(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
    return made;
  }

  function svg(tag, attributes, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function show(...content) {
    const main = document.getElementById("main");
    main.replaceChildren(...content.flat(Infinity));
    return main;
  }

  function percent(value, signed) {
    if (value === null || !Number.isFinite(value)) return "–";
    const text = (100 * value).toFixed(1).replace(/^-(0\.0)$/, "$1");
    return (signed && Number(text) > 0 ? "+" : "") + text.replace("-", "−");
  }

  // What the last line of the page explains.
  const unconfirmed = (recorded) => (recorded ? el("span", { title: "partly as submitted: its programs were not run again" }, "†") : null);

  function score(value, half, recorded) {
    if (value === null || value === undefined) return "–";
    return [percent(value), half === null || half === undefined ? null : el("small", {}, ` ± ${percent(half)}`), unconfirmed(recorded)];
  }

  function size(count) {
    if (!count) return "–";
    for (const [limit, unit] of [[1e9, "B"], [1e6, "M"], [1e3, "K"]])
      if (count >= limit) return Number((count / limit).toPrecision(3)) + unit;
    return String(count);
  }

  const sizes = (row) => [size(board.rows.parameters[row]), board.rows.active[row] ? el("small", {}, ` (${size(board.rows.active[row])} active)`) : null];
  const duration = (seconds) => (seconds < 120 ? `${Number(seconds.toPrecision(2))} s` : seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`);
  const rank = (best, worst) => (best === worst ? `${best}` : `${best}–${worst}`);
  const suiteOf = () => board.suites[view.suite];
  const columnOf = (suite, name) => suite.columns.find((column) => column.name === name);
  const modelLink = (row) => el("a", { href: `#s/${board.rows.id[row]}`, title: board.rows.model[row] }, board.rows.model[row]);
  const seedOf = (row) => (board.rows.seed[row] === null ? null : el("small", {}, ` seed ${board.rows.seed[row]}`));
  const nameOf = (id) => board.rows.model[rowOf.get(id)] + (board.rows.seed[rowOf.get(id)] === null ? "" : ` seed ${board.rows.seed[rowOf.get(id)]}`);
  const strategyOf = (row) => board.strategies[board.rows.strategy[row]];

  function safeLink(address) {
    try {
      const url = new URL(address);
      if (url.protocol === "https:" || url.protocol === "http:")
        return el("a", { href: url.href, rel: "noopener noreferrer nofollow ugc" }, address);
    } catch { /* not an address, so it stays text */ }
    return address;
  }

  // --- the address: it holds all that a reader has chosen -------------------------------------------------

  // Take the choices from the part of the address after "?".
  function recall(text) {
    const given = new URLSearchParams(text);
    for (const key of ["sort", "query", "strategy"]) view[key] = given.get(key) || START[key];
    view.descending = given.has("order") ? given.get("order") === "down" : suiteOf() ? suiteOf().higher : true;
    for (const key of ["size", "page"]) view[key] = Math.max(0, Number.parseInt(given.get(key), 10) || 0);
    view.size = Math.min(view.size, SIZES.length - 1);
    document.body.classList.toggle("embed", given.has("embed"));
    chosen.clear();
    for (const id of (given.get("compare") || "").split(",")) if (rowOf.has(id)) chosen.add(id);
  }

  function choices(standard) {
    const given = new URLSearchParams();
    for (const key of ["query", "strategy", "size", "page"]) if (view[key] !== START[key]) given.set(key, view[key]);
    if (view.sort !== standard) given.set("sort", view.sort);
    if (view.descending !== suiteOf().higher) given.set("order", view.descending ? "down" : "up");
    if (chosen.size) given.set("compare", [...chosen].join(","));
    if (document.body.classList.contains("embed")) given.set("embed", "");
    return given.size ? `?${given}` : "";
  }

  function remember(standard) {
    const path = location.hash.slice(1).split("?")[0];
    history.replaceState(null, "", `#${path || `b/${suiteOf().key}`}${choices(standard)}`);
  }

  const tableLink = () => el("a", { href: suiteOf() ? `#b/${suiteOf().key}` : "#" }, "← the table");

  // --- the table ----------------------------------------------------------------------------------------

  // Positions in the suite's rows that pass the filters, in the chosen order.
  function selection(suite, values) {
    const query = view.query.trim().toLowerCase(), [, low, high] = SIZES[view.size];
    const found = [];
    for (let i = 0; i < suite.rows.length; i++) {
      const row = suite.rows[i], count = board.rows.parameters[row] || 0;
      if (view.strategy !== "" && strategyOf(row) !== (view.strategy === "-" ? "" : view.strategy)) continue;
      if (view.size && !(count >= low && count < high)) continue;
      if (query && !names[row].includes(query)) continue;
      found.push(i);
    }
    const key = { model: (i) => names[suite.rows[i]], strategy: (i) => strategyOf(suite.rows[i]),
      size: (i) => board.rows.parameters[suite.rows[i]] || 0, licence: (i) => board.rows.licence[suite.rows[i]], date: (i) => board.rows.date[suite.rows[i]] }[view.sort]
      || ((i) => { const v = values(view.sort)[i]; return v === null ? -Infinity : v; });
    const keys = new Array(suite.rows.length);
    for (const i of found) keys[i] = key(i);
    const sign = view.descending ? -1 : 1;
    return found.sort((a, b) => {
      const x = keys[a], y = keys[b];
      return x < y ? -sign : x > y ? sign : a - b;
    });
  }

  function heading(name, label, redraw, extra) {
    const sorted = view.sort === name ? (view.descending ? "descending" : "ascending") : null;
    const text = ["model", "strategy", "licence", "date"].includes(name);
    return el("th", { scope: "col", "aria-sort": sorted, class: `${text ? "text " : ""}${extra || ""}` },
      el("button", { type: "button", "data-sort": name, onclick: () => {
        view.descending = view.sort === name ? !view.descending : !text;
        view.sort = name;
        view.page = 0;
        redraw();
        const again = document.querySelector(`button[data-sort="${CSS.escape(name)}"]`);
        if (again) again.focus();
      } }, label));
  }

  // A sortable table of submissions with some columns: [name, title, values, halves, positions that are as recorded].
  function submissions(suite, columns, ranks, redraw) {
    const values = (name) => (columns.find(([key]) => key === name) || columns[0])[2];
    const order = selection(suite, values);
    const pages = Math.max(1, Math.ceil(order.length / PAGE));
    view.page = Math.min(view.page, pages - 1);
    const shown = columns.some(([name]) => name === view.sort) ? view.sort : columns[0][0]; // the one that a phone shows
    const head = el("tr", {}, el("th", { scope: "col" }, el("span", { class: "note" }, "⇄")),
      el("th", { scope: "col" }, "Rank"), heading("model", "Model", redraw),
      heading("strategy", "Strategy", redraw, "wide"), heading("size", "Size", redraw, "wide"),
      columns.map(([name, title]) => heading(name, title, redraw, name === shown ? "" : "wide")),
      heading("licence", "Licence", redraw, "wide"), heading("date", "Date", redraw, "wide"));
    const recorded = new Map(columns.map(([name, , , , r]) => [name, new Set(r)]));
    const body = order.slice(view.page * PAGE, (view.page + 1) * PAGE).map((i) => {
      const row = suite.rows[i], id = board.rows.id[row];
      const box = el("input", { type: "checkbox", "aria-label": `Compare ${board.rows.model[row]}`, "data-id": id,
        onchange: (event) => { event.target.checked ? chosen.add(id) : chosen.delete(id); compareButton(); remember(suite.main); } });
      box.checked = chosen.has(id);
      return el("tr", { class: ranks && ranks.b[i] === 1 ? "top" : null }, el("td", {}, box),
        el("td", { class: "rank" }, ranks ? rank(ranks.b[i], ranks.w[i]) : "–"),
        el("td", { class: "text name" }, modelLink(row), seedOf(row), board.rows.badges[row].map((badge) => [" ", el("span", { class: "badge good" }, badge)])),
        el("td", { class: "text wide" }, strategyOf(row) || "–"),
        el("td", { class: "wide" }, sizes(row)),
        columns.map(([name, , v, h]) => el("td", { class: name === shown ? null : "wide" }, score(v[i], h[i], recorded.get(name).has(i)))),
        el("td", { class: "text wide" }, board.rows.licence[row]), el("td", { class: "text wide" }, board.rows.date[row]));
    });
    if (!body.length) body.push(el("tr", {}, el("td", { colspan: columns.length + 7, class: "text" }, "No submission matches these filters. ", el("a", { href: `#b/${suite.key}` }, "Show all"))));
    const turn = (by) => () => { view.page += by; redraw(); };
    return [
      el("div", { class: "scroll", tabindex: 0 }, el("table", { id: "table" }, el("thead", {}, head), el("tbody", {}, body))),
      el("div", { class: "pager" },
        el("button", { type: "button", disabled: view.page === 0, onclick: turn(-1) }, "Previous"),
        el("span", { id: "count" }, `${order.length.toLocaleString("en")} of ${suite.rows.length.toLocaleString("en")} submissions, page ${view.page + 1} of ${pages}`),
        el("button", { type: "button", disabled: view.page >= pages - 1, onclick: turn(1) }, "Next")),
    ];
  }

  function compareButton() {
    const button = document.getElementById("compare");
    if (!button) return;
    button.disabled = chosen.size < 2;
    button.textContent = chosen.size < 2 ? `Compare (tick two or more)` : `Compare these ${chosen.size}`;
  }

  function option(value, label, current) {
    return el("option", { value, selected: String(value) === String(current) }, label);
  }

  function filters(redraw, columnSelect, kind = "b") {
    const change = (key, number) => (event) => { view[key] = number ? Number(event.target.value) : event.target.value; view.page = 0; redraw(); };
    return el("div", { class: "filters" },
      el("label", { class: "grow" }, "Model", el("input", { id: "query", type: "search", value: view.query, placeholder: "press / to search",
        autocomplete: "off", oninput: change("query") })),
      el("label", {}, "Strategy", el("select", { id: "strategy", onchange: change("strategy") }, option("", "all strategies", view.strategy),
        board.strategies.map((name) => option(name || "-", name || "(trained elsewhere)", view.strategy)))),
      el("label", {}, "Size", el("select", { id: "size", onchange: change("size", true) }, SIZES.map(([label], i) => option(i, label, view.size)))),
      el("label", {}, "Suite", el("select", { id: "suite", onchange: (event) => { location.hash = `${kind}/${event.target.value}${choices(suiteOf().main)}`; } },
        board.suites.map((suite, i) => option(suite.key, suite.key, suiteOf().key)))),
      columnSelect,
      kind === "b" ? el("button", { type: "button", id: "compare", disabled: true, onclick: () => { location.hash = `c/${[...chosen].join("/")}`; } }, "Compare") : null);
  }

  // For a phone, which shows one column at a time.
  function sortSelect(columns, redraw) {
    return el("label", { class: "narrow" }, "Column", el("select", { id: "column", onchange: (event) => { view.sort = event.target.value; view.page = 0; redraw(); } },
      columns.map(([name, title]) => option(name, title, view.sort))));
  }

  function columnLinks(suite) {
    return el("p", { class: "note" }, "Pages: ", suite.columns.map((column, i) => [i ? " · " : "",
      el("a", { href: `#t/${suite.key}/${column.name}` }, column.title)]).flat());
  }

  const scored = (name, title, { v, h, r }) => [name, title, v, h, r];

  function table() {
    const suite = suiteOf();
    if (!suite) return void show(el("p", {}, "The board pins no suite yet. Its owner adds one: ", el("code", {}, "moemix board pin DIR EVALUATION --version 1")));
    if (!suite.scores[view.sort] && !FACTS.includes(view.sort)) view.sort = suite.main;
    const ranked = suite.scores[view.sort] ? view.sort : suite.main;
    const columns = suite.columns.filter((column) => suite.scores[column.name])
      .map((column) => scored(column.name, column.title, suite.scores[column.name]));
    const place = el("div", { id: "place" });
    const redraw = () => {
      const by = suite.scores[view.sort] ? view.sort : ranked;
      place.replaceChildren(...(suite.rows.length ? submissions(suite, columns, suite.scores[by], redraw) : [el("p", {}, "No submission yet. The last lines of this page say how to send the first.")]));
      compareButton();
      remember(suite.main);
    };
    show(board.description ? el("p", { class: "lead" }, board.description) : [], tabs("table"), filters(redraw, sortSelect(columns, redraw)), place, columnLinks(suite),
      board.refused ? el("p", { class: "note" }, `${board.refused} submissions fail their checks and are not shown.`) : []);
    redraw();
  }

  // --- strategies: the first view ------------------------------------------------------------------------

  function tabs(current) {
    const suite = suiteOf(), sized = board.sizes.ticks.length > 0, compared = board.suites.some((one) => one.models.length);
    if (!suite || !(sized || compared)) return [];
    const link = (name, target, label) => el("a", { href: target, "aria-current": name === current ? "page" : null }, label);
    return el("nav", { class: "tabs", "aria-label": "Views" }, compared ? link("strategies", `#v/${suite.key}`, "Strategies") : null,
      link("table", `#b/${suite.key}`, "Submissions"), sized ? link("sizes", `#z/${suite.key}`, "Score and size") : null);
  }

  // Dots with whiskers on one axis for all rows: [difference, low, high].
  function whiskers(found, bound) {
    const width = 240, x = (value) => (width / 2) * (1 + Math.max(-1, Math.min(1, value / bound)));
    const [d, low, high] = found;
    return svg("svg", { viewBox: `0 0 ${width} 20`, class: "whisker", role: "img", "aria-label": `${percent(d, true)}, 95 % interval ${percent(low, true)} to ${percent(high, true)}` },
      svg("path", { class: "zero", d: `M${width / 2} 0V20` }), svg("path", { class: "bar", d: `M${x(low)} 10H${x(high)}` }), svg("circle", { cx: x(d), cy: 10, r: 4.5 }));
  }

  function strategies(name) {
    const suite = suiteOf(), columns = suite.columns.filter((column) => suite.scores[column.name]);
    const column = columns.find((one) => one.name === name) || columnOf(suite, suite.main);
    const pick = (id, label, values, current) => el("label", {}, label, el("select", { id, onchange: (event) => {
      location.hash = id === "suite" ? `v/${event.target.value}` : `v/${suite.key}/${event.target.value}`;
    } }, values.map(([value, text]) => option(value, text, current))));
    const parts = suite.models.map((model) => {
      const c = model.columns[column.name];
      const bound = Math.max(0.005, ...[...c.l, ...c.u].filter((value) => value !== null).map(Math.abs));
      const order = [...model.strategies.keys()].sort((a, b) => (suite.higher ? c.v[b] - c.v[a] : c.v[a] - c.v[b]));
      return [el("h2", {}, model.model || "Models", " ", el("small", {}, [model.recipe && `recipe ${model.recipe}`, model.owner].filter(Boolean).join(", "))),
        el("div", { class: "scroll", tabindex: 0 }, el("table", { class: "strategies" }, el("thead", {}, el("tr", {},
          [["Strategy", "text"], [column.title, ""], ["Difference to uniform", ""], ["Chart", "plot"], ["95 % interval", "wide"], ["Sure?", ""], ["Cost", "wide"], ["Seeds", "wide"], ["Compare", "wide"]]
            .map(([title, kind]) => el("th", { scope: "col", class: kind }, title)))),
        el("tbody", {}, order.map((k) => el("tr", { "data-strategy": model.strategies[k] },
          el("td", { class: "text name" }, el("a", { href: `#b/${suite.key}?strategy=${encodeURIComponent(model.strategies[k])}` }, model.strategies[k])),
          el("td", {}, percent(c.v[k]), unconfirmed(c.r[k])), el("td", {}, c.d[k] === null ? c.n[k] : percent(c.d[k], true)),
          el("td", { class: "plot" }, k && c.d[k] !== null && c.l[k] !== null ? whiskers([c.d[k], c.l[k], c.u[k]], bound) : ""),
          el("td", { class: "wide" }, k ? interval(c.l[k], c.u[k], true) : ""),
          el("td", { class: c.m[k] === "*" ? { better: "pass", worse: "fail" }[c.s[k]] : null }, c.s[k] ? `${c.s[k]} ${c.m[k]}` : c.d[k] === null ? "" : c.n[k]),
          el("td", { class: "wide" }, model.seconds[k] === null ? "–" : duration(model.seconds[k])),
          el("td", { class: "wide" }, String(model.seeds[k])),
          el("td", { class: "wide" }, model.ids[k].length > 1 && model.ids[k].length < 9 ? el("a", { href: `#c/${model.ids[k].join("/")}` }, "its seeds") : "")))))),
      model.notes.map((note) => el("p", { class: "note" }, note))];
    });
    show(board.description ? el("p", { class: "lead" }, board.description) : [], tabs("strategies"),
      el("div", { class: "filters" }, pick("suite", "Suite", board.suites.map((one) => [one.key, one.key]), suite.key),
        pick("column", "Column", columns.map((one) => [one.name, one.title]), column.name)),
      parts.length ? parts : el("p", {}, "No model here has runs of ", el("code", {}, "uniform"), " and of another strategy. Submit both, with the same seeds, to see which is better."),
      el("p", { class: "note" }, "In percentage points, all seeds together, paired by question and by seed. Each 95 % interval is of that difference alone, over questions and seeds: "
        + "with one seed it says nothing about other seeds, and among many differences some intervals miss zero by chance. "
        + "Cost is the mean time of a run, with the search for the strategy's options, on the machines that the runs name."));
  }

  // --- score against size ----------------------------------------------------------------------------------

  // Where a submission stands on the axis of sizes. All parameters of a dense model are active.
  const sizeAt = (row) => board.sizes.places[board.rows.active[row] || board.rows.parameters[row]];

  function sizesPage(name) {
    const suite = suiteOf(), columns = suite.columns.filter((column) => suite.scores[column.name]);
    const column = columns.find((one) => one.name === name) || columnOf(suite, suite.main) || columns[0];
    const place = el("div", { id: "sizes" });
    const redraw = () => {
      place.replaceChildren(...scatter(suite, column));
      remember(suite.main);
    };
    view.sort = suite.main;
    show(board.description ? el("p", { class: "lead" }, board.description) : [], tabs("sizes"),
      filters(redraw, el("label", {}, "Column", el("select", { id: "column", onchange: (event) => { location.hash = `z/${suite.key}/${event.target.value}${choices(suite.main)}`; } },
        columns.map((one) => option(one.name, one.title, column && column.name)))), "z"), place,
      el("p", { class: "note" }, "Parameters that one token uses, on a logarithmic axis (all parameters of a dense model). Submissions that state no size are left out. A click opens the nearest submission."));
    redraw();
  }

  function scatter(suite, column) {
    const found = column ? selection(suite, (key) => (suite.scores[key] || suite.scores[column.name]).v).filter((i) => sizeAt(suite.rows[i]) !== undefined) : [];
    if (!found.length) return [el("p", {}, "No submission that states its size matches these filters.")];
    const width = 720, height = 380, left = 52, right = 14, top = 12, bottom = 40, scores = suite.scores[column.name].v;
    const low = found.reduce((least, i) => Math.min(least, scores[i]), Infinity), high = found.reduce((most, i) => Math.max(most, scores[i]), -Infinity);
    const step = ([0.1, 0.2, 0.5, 1, 2, 5, 10].find((one) => 100 * (high - low) <= 6 * one) || 20) / 100;
    const bottomScore = Math.max(low < 0 ? -Infinity : 0, Math.floor(low / step - 0.25) * step), topScore = Math.ceil(high / step + 0.25) * step;
    const x = (i) => left + (width - left - right) * sizeAt(suite.rows[i]), y = (score) => top + (height - top - bottom) * (1 - (score - bottomScore) / (topScore - bottomScore));
    const groups = new Map();
    for (const i of found) {
      const strategy = strategyOf(suite.rows[i]);
      groups.set(strategy, `${groups.get(strategy) || ""}M${x(i).toFixed(1)} ${y(scores[i]).toFixed(1)}h0`);
    }
    const style = (strategy) => `dot s${board.strategies.indexOf(strategy) % 8}`;
    const lines = Array.from({ length: Math.round((topScore - bottomScore) / step) + 1 }, (_, k) => bottomScore + k * step);
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "scatter", role: "img", "aria-label": `${column.title} against active parameters of ${found.length} submissions` },
      ...lines.map((score) => svg("path", { class: "axis", d: `M${left} ${y(score)}H${width - right}` })),
      ...lines.map((score) => svg("text", { x: left - 6, y: y(score) + 4, "text-anchor": "end" }, `${Number((100 * score).toFixed(1))} %`)),
      ...board.sizes.ticks.map(([count, at]) => svg("text", { x: left + (width - left - right) * at, y: height - 20, "text-anchor": "middle" }, size(count))),
      svg("text", { x: width - right, y: height - 4, "text-anchor": "end" }, "active parameters"),
      ...[...groups].map(([strategy, d]) => svg("path", { class: style(strategy), d })));
    const named = el("p", { class: "note", id: "nearest" }, "\u00a0");
    const nearest = (event) => {
      const box = picture.getBoundingClientRect(), px = (event.clientX - box.left) * width / box.width, py = (event.clientY - box.top) * height / box.height;
      const far = (i) => (x(i) - px) ** 2 + (y(scores[i]) - py) ** 2;
      return found.reduce((best, i) => (far(i) < far(best) ? i : best));
    };
    picture.addEventListener("pointermove", (event) => {
      const i = nearest(event), row = suite.rows[i];
      named.textContent = `${nameOf(board.rows.id[row])}: ${percent(scores[i])}, ${size(board.rows.active[row] || board.rows.parameters[row])}`;
    });
    picture.addEventListener("click", (event) => { location.hash = `s/${board.rows.id[suite.rows[nearest(event)]]}`; });
    const legend = [...groups.keys()].sort().map((strategy) => el("span", {}, svg("svg", { viewBox: "0 0 24 8", "aria-hidden": "true" }, svg("path", { class: style(strategy), d: "M12 4h0" })), strategy || "(trained elsewhere)"));
    return [picture, el("div", { class: "legend" }, legend), named];
  }

  // --- tasks -------------------------------------------------------------------------------------------------

  // The scores of submissions in every task of a suite: dots with whiskers on one axis.
  function profile(suite, ids, held) {
    const parts = held.map((one) => one.tasks[suite.key]);
    if (suite.results.length < 2 || parts.some((one) => !one)) return [];
    const width = 320, line = 12, most = Math.max(...parts.flatMap((one) => [...one.v, ...one.u]), 0.01), least = Math.min(0, ...parts.flatMap((one) => [...one.v, ...one.l]));
    const x = (value) => 6 + (width - 12) * (value - least) / (most - least), height = line * ids.length + 6;
    const drawn = (k) => svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "profile", "aria-hidden": "true" }, svg("path", { class: "zero", d: `M${x(0)} 0V${height}` }),
      ...parts.flatMap((one, n) => {
        const y = line * n + line / 2 + 3;
        return [...(one.l[k] === null || one.u[k] === null ? [] : [svg("path", { class: `line s${n % 8}`, d: `M${x(one.l[k])} ${y}H${x(one.u[k])}` })]), svg("path", { class: `dot s${n % 8}`, d: `M${x(one.v[k])} ${y}h0` })];
      }));
    const several = suite.results.map(([task]) => task), title = ([task, metric, filter]) => (several.indexOf(task) === several.lastIndexOf(task) ? task : `${task} (${metric}${filter === "none" ? "" : `, ${filter}`})`);
    return [el("div", { class: "scroll", tabindex: 0 }, el("table", { class: "tasks" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col", class: "text" }, "Task"), el("th", { scope: "col", class: "plot" }, "Chart"), ids.map((id, n) => el("th", { scope: "col" },
        ids.length > 1 ? svg("svg", { viewBox: "0 0 12 8", class: "key", "aria-hidden": "true" }, svg("path", { class: `dot s${n % 8}`, d: "M6 4h0" })) : null, ids.length > 1 ? nameOf(id) : "Score")))),
      el("tbody", {}, suite.results.map((result, k) => el("tr", {}, el("td", { class: "text name" }, title(result)), el("td", { class: "plot" }, drawn(k)),
        parts.map((one) => el("td", {}, percent(one.v[k]), " ", el("small", {}, interval(one.l[k], one.u[k]))))))))) ];
  }

  // --- a column or a task --------------------------------------------------------------------------------

  async function columnPage(key, name, task) {
    const number = board.suites.findIndex((suite) => suite.key === key);
    const suite = board.suites[number], column = suite && columnOf(suite, name);
    if (!column || !suite.scores[name]) return missing();
    view.suite = number;
    const results = column.shares.map(([index, share]) => [...suite.results[index], share]);
    const tables = results.length > 1 ? (await load(`t/${number}-${name}`)).tasks : [suite.scores[name]];
    const wanted = task ? results.findIndex(([t]) => t === task) : -1;
    if (task && wanted < 0) return missing();
    let columns = results.map(([t], i) => scored(`task ${t}`, t, tables[i]));
    if (task) columns = [columns[wanted]];
    else columns = [scored(name, column.title, suite.scores[name]), ...(results.length > 1 ? columns : [])];
    if (!columns.some(([key]) => key === view.sort) && !FACTS.includes(view.sort)) view.sort = columns[0][0];
    const about = el("div", { class: "scroll", tabindex: 0 }, el("table", {}, el("thead", {}, el("tr", {},
      ["Task", "Metric", "Filter", "Shots", "Version", "Questions", "Weight", "Question set"].map((t, i) => el("th", { scope: "col", class: i < 3 ? "text" : null }, t)))),
    el("tbody", {}, results.filter((_, i) => !task || i === wanted).map(([t, metric, filter, share]) => {
      const pin = suite.tasks[t] || {};
      return el("tr", {}, el("td", { class: "text" }, el("a", { href: `#t/${key}/${name}/${t}` }, t)), el("td", { class: "text" }, metric), el("td", { class: "text" }, filter),
        el("td", {}, String(pin.shots)), el("td", {}, pin.version), el("td", {}, String(pin.questions)), el("td", {}, percent(share) + " %"),
        el("td", {}, el("code", {}, pin.hash)));
    }))));
    const place = el("div");
    const redraw = () => {
      const ranks = !task && view.sort === name ? suite.scores[name] : results.length === 1 ? suite.scores[name] : null;
      place.replaceChildren(...submissions(suite, columns, ranks, redraw));
      compareButton();
      remember(columns[0][0]);
    };
    show(el("p", {}, el("a", { href: `#b/${key}` }, "← all columns"), task ? [" · ", el("a", { href: `#t/${key}/${name}` }, column.title)] : []),
      el("h2", {}, task || column.title, " ", el("small", {}, `of ${key}`)), about, filters(redraw, sortSelect(columns, redraw)), place);
    redraw();
  }

  // --- a submission ----------------------------------------------------------------------------------------

  function terms(pairs) {
    return el("dl", {}, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]).flat());
  }

  // Commands that a reader may copy; what a submission says enters them only if no shell could read it as more than a word.
  function reproduce(s) {
    const word = (text) => (typeof text === "string" && /^[\w./@+-]+$/.test(text) && !text.startsWith("-") ? text : null);
    const recipe = word(s.recipe), strategy = word(s.strategy);
    return el("pre", { class: "commands", tabindex: 0 }, [
      recipe && strategy && s.seed !== null ? `# train it again: the run ${s.run_id} of ${recipe}, strategy ${strategy}\nmoemix bench ${recipe} --set seeds=${s.seed}` : null,
      `# recompute its scores from its answers\nmoemix board verify DIR --only ${s.submission_id}`,
      `# let its checkpoint answer again\nmoemix board verify DIR --only ${s.submission_id} --replay --checkpoint CHECKPOINT`,
    ].filter(Boolean).join("\n\n"));
  }

  async function submissionPage(id) {
    if (!rowOf.has(id)) return missing();
    const held = await load(`s/${id}`), { record, mixture, run, engine, judged } = held;
    const s = record.submission, made = s.provenance;
    const scores = Object.entries(record.scores).map(([key, columns]) => [el("h3", {}, key, " ", el("small", {}, engine[key] || "")),
      el("div", { class: "scroll", tabindex: 0 }, el("table", {}, el("thead", {}, el("tr", {}, ["Column", "Score", "95 % interval", "Questions", "Rank"].map((t) => el("th", { scope: "col", class: { Column: "text", Questions: "wide" }[t] }, t)))),
        el("tbody", {}, Object.entries(columns).map(([name, c]) => el("tr", {},
          el("td", { class: "text" }, el("a", { href: `#t/${key}/${name}` }, (columnOf(board.suites.find((x) => x.key === key) || { columns: [] }, name) || { title: name }).title)),
          el("td", {}, percent(c.value), unconfirmed(c.as_recorded)), el("td", {}, interval(c.lower, c.upper)), el("td", { class: "wide" }, String(c.n)), el("td", {}, rank(c.rank, c.rank_worst)))))))]);
    const tasks = board.suites.map((suite) => [suite.key, profile(suite, [id], [held])]).filter(([, drawn]) => drawn.length);
    const recorded = Object.values(record.scores).some((columns) => Object.values(columns).some((one) => one.as_recorded));
    const options = run && Object.entries(run.options).map(([k, v]) => `${k}=${v}`).join(", ");
    show(el("p", {}, tableLink()),
      el("h2", {}, s.model, " ", el("small", {}, s.submission_id), " ", record.status === "current" ? null : el("span", { class: "badge" }, record.status)),
      record.note ? el("p", {}, record.status + " ", record.note) : [],
      s.description ? el("p", { class: "lead" }, s.description) : [],
      el("p", { id: "confirmed" }, record.badges.map((badge) => [el("span", { class: "badge good" }, badge), " "]),
        [recorded && "programs not run again", !record.badges.includes("replayed") && "not replayed"].filter(Boolean).map((text) => [el("span", { class: "badge" }, text), " "])),
      el("p", {}, el("a", { href: `records/${id}.json`, download: `${s.model}-${id}.json`, id: "record" }, "Download the record")),
      el("h2", {}, "Scores"), scores.length ? scores.flat() : el("p", {}, "Not in the ranking."),
      tasks.map(([key, drawn]) => [el("h2", {}, "Tasks ", el("small", {}, key)), drawn]),
      judged.map((j) => [el("h2", {}, j.title, " ", el("small", {}, `judged by ${j.judges.join(", ")}`)), el("div", { class: "scroll", tabindex: 0 }, el("table", { class: "comparison" },
        el("thead", {}, el("tr", {}, ["Category", "Score", "Standard error", "Turns"].map((t) => el("th", { scope: "col" }, t)))),
        el("tbody", {}, j.scores.map(([name, value, error, n]) => el("tr", {}, el("td", { class: "text" }, name), el("td", {}, value === null ? "–" : value.toFixed(2)),
          el("td", {}, error === null ? "–" : error.toFixed(2)), el("td", {}, String(n))))))),
        j.pages ? el("p", {}, el("a", { href: `#j/${j.bench}/${id}` }, "Read the conversations and judgments")) : []]),
      mixture && mixture.names.length ? [el("h2", {}, "Mixture over time"), trajectory(mixture, run)] : [],
      el("h2", {}, "Samples"), el("p", {}, Object.keys(record.scores).map((key) => sampleLinks(key, id))),
      el("h2", {}, "Reproduce this"), reproduce(s),
      el("h2", {}, "Provenance"), terms([
        ["Strategy", s.strategy && (options ? `${s.strategy} (${options})` : s.strategy)], ["Recipe", s.recipe], ["Run", s.run_id], ["Seed", s.seed === null ? null : String(s.seed)],
        ["Started from", s.base_model], ["Architecture", s.architecture], ["Parameters", s.parameters && `${size(s.parameters)}${s.active_parameters ? `, ${size(s.active_parameters)} active for a token` : ""}`],
        ["Training", run && `${run.training.steps} steps of ${run.training.batch_examples} examples, at most ${run.training.max_length} tokens, learning rate ${run.training.learning_rate}; weights every ${run.interval} steps`],
        ["Cost", run && run.cost ? `${size(run.cost.tokens)} tokens, ${duration(run.cost.seconds)}, of which mixing ${duration(run.cost.mixing_seconds)}` : null],
        ["Checkpoint", el("code", {}, s.checkpoint_hash)], ["Licence", s.licence], ["Contact", s.contact],
        ...Object.entries(s.links).map(([kind, address]) => [kind, safeLink(address)]),
        ["Supersedes", s.supersedes && (rowOf.has(s.supersedes) ? el("a", { href: `#s/${s.supersedes}` }, s.supersedes) : s.supersedes)],
        ["Stated date", s.created], ["In the repository since", record.arrived === s.created ? null : record.arrived], ["Code", made.git_sha ? `${made.git_sha.slice(0, 12)}${made.git_dirty ? " (changed)" : ""}` : null],
        ["Machine", `${made.processor}, ${made.cpu_count} cores${made.gpus.length ? `, ${made.gpus.join(", ")}` : ""}; Python ${made.python}`],
        ["Packages", Object.entries(made.versions).map(([k, v]) => `${k} ${v}`).join(", ")]]),
      el("h2", {}, "Checks"), el("div", { class: "scroll", tabindex: 0 }, el("table", {}, el("tbody", {}, record.verdicts.map((v) => el("tr", {},
        el("td", { class: "text" }, v.check), el("td", { class: `text ${v.verdict === "skip" ? "skip-verdict" : v.verdict}` }, v.verdict), el("td", { class: "text" }, v.detail)))))),
      el("h2", {}, "Files"), el("details", {}, el("summary", {}, `${Object.keys(s.files).length} files in the board's repository`),
        terms(Object.entries(s.files).map(([path, file]) => [path, [`${size(file.bytes)} bytes `, el("code", {}, file.sha256.slice(0, 16))]]))));
  }

  function sampleLinks(key, id) {
    const suite = board.suites.find((one) => one.key === key);
    const tasks = [...new Set(suite.results.map(([task]) => task))];
    if (!suite.samples) return "This board is too large for pages of samples; they are in the submission's files.";
    return ["Read questions and answers: ", tasks.map((task, i) => [i ? " · " : "", el("a", { href: `#q/${key}/${task}/${id}` }, task)])];
  }

  // Questions with the answers of a submission, beside those of another one.
  async function samplePage(key, task, id, other, page) {
    const number = board.suites.findIndex((suite) => suite.key === key), suite = board.suites[number];
    if (!suite || !suite.samples || !suite.tasks[task] || ![id, other].every((one) => !one || suite.rows.includes(rowOf.get(one)))) return missing();
    const pages = Math.ceil(suite.tasks[task].questions / board.page), at = Math.min(Math.max(0, Number.parseInt(page, 10) || 0), pages - 1);
    const [q, ...held] = await Promise.all(["q", id, other].filter(Boolean).map((one) => load(`a/${number}-${one}-${task}-${at}`)));
    const link = (second, next) => `#q/${key}/${task}/${id}/${second || "-"}/${next}`;
    const answer = (one, k, i) => el("div", { class: "answer" }, el("p", { class: "note" }, nameOf(one), " ",
      el("span", { class: held[k].scores[i] > 0 ? "pass" : "fail" }, `scores ${Number(held[k].scores[i].toFixed(3))}`)), passage(held[k].answers[i]));
    const cards = q.numbers.map((n, i) => el("article", { class: "sample" }, el("h3", {}, `Question ${n}`), passage(q.prompts[i]),
      q.choices[i].length > 1 ? el("ul", {}, q.choices[i].map((choice) => el("li", {}, choice))) : null,
      el("p", {}, el("span", { class: "note" }, "Right answer: "), q.gold[i]),
      el("div", { class: "answers" }, [id, other].filter(Boolean).map((one, k) => answer(one, k, i)))));
    show(reader(`${task}: answers of ${nameOf(id)}`, suite.rows, id, other, at, pages, link, cards));
  }

  // A text that scrolls where it is long, and can then be reached by the keyboard.
  const passage = (text) => el("pre", { tabindex: text.length > 400 || text.split("\n").length > 10 ? 0 : null }, text);

  // A page of texts of a submission, with a choice of another one to stand beside it.
  function reader(title, rows, id, other, at, pages, link, cards) {
    const turn = (by, text) => el("button", { type: "button", disabled: at + by < 0 || at + by >= pages, onclick: () => { location.hash = link(other, at + by); } }, text);
    return [el("p", {}, el("a", { href: `#s/${id}` }, "← the submission")), el("h2", {}, title),
      el("div", { class: "filters" }, el("label", {}, "Beside", el("select", { id: "beside", onchange: (event) => { location.hash = link(event.target.value, at); } },
        option("", "nothing", other || ""), rows.map((row) => board.rows.id[row]).filter((one) => one !== id).map((one) => option(one, nameOf(one), other)))),
      pages > 2 ? el("label", {}, "Page", el("input", { id: "page", type: "number", min: 1, max: pages, value: at + 1, onchange: (event) => { location.hash = link(other, event.target.value - 1); } })) : null),
      cards, el("div", { class: "pager" }, turn(-1, "Previous"), el("span", { id: "count" }, `page ${at + 1} of ${pages}`), turn(1, "Next"))];
  }

  // Judged conversations: each turn with its answers and the judgments of them.
  async function judgedPage(bench, id, other, page) {
    const rows = board.judged[bench] || [];
    if (![id, other].every((one) => !one || rows.includes(rowOf.get(one)))) return missing();
    const { judged } = await load(`s/${id}`), { title, pages } = judged.find((one) => one.bench === bench);
    const at = Math.min(Math.max(0, Number.parseInt(page, 10) || 0), pages - 1), ids = [id, other].filter(Boolean);
    const held = await Promise.all(ids.map((one) => load(`j/${one}-${bench}-${at}`).catch(() => ({ questions: [] }))));
    const side = (one, k, question, turn) => {
      const found = held[k].questions.find((each) => each.id === question.id), { answers, judgments } = (found && found.turns[turn]) || { answers: [], judgments: [] };
      return el("div", { class: "answer" }, answers.length ? null : el("p", { class: "note" }, nameOf(one), " no answer"),
        answers.map(([model, text]) => [el("p", { class: "note" }, model || nameOf(one)), passage(text)]),
        judgments.map(([judge, verdict, words]) => [el("p", { class: "note judgment" }, `${judge}: `, el("strong", {}, verdict)), passage(words)]));
    };
    const cards = held[0].questions.map((question) => el("article", { class: "sample" }, el("h3", {}, `Question ${question.id} `, el("small", {}, question.category)),
      question.turns.map(({ asked }, turn) => [el("p", { class: "note" }, `Turn ${turn + 1}`), passage(asked), el("div", { class: "answers" }, ids.map((one, k) => side(one, k, question, turn)))])));
    show(reader(`${title}: conversations of ${nameOf(id)}`, rows, id, other, at, pages, (second, next) => `#j/${bench}/${id}/${second || "-"}/${next}`,
      [el("p", { class: "note" }, "As the submitter recorded them; the scores are computed from these judgments. Long texts are cut."), cards]));
  }

  function trajectory(mixture, run) {
    const width = 720, height = 260, left = 44, bottom = 32, top = 10;
    const last = Math.max(mixture.steps.at(-1), (run && run.training.steps) || 0, 1);
    const most = Math.max(...mixture.weights.flat(), 0.01), step = ([0.5, 1, 2, 5, 10, 20].find((one) => 100 * most <= 4 * one) || 25) / 100;
    const highest = Math.min(1, Math.ceil(most / step) * step);
    const x = (step) => left + (width - left - 10) * step / last, y = (w) => top + (height - top - bottom) * (1 - w / highest);
    const style = (k) => `line s${k % 8} dash${Math.floor(k / 8) % 4}`;
    const lines = mixture.names.map((name, k) => {
      const points = mixture.steps.map((step, u) => `${u ? `H${x(step).toFixed(1)}V` : `M${x(step).toFixed(1)} `}${y(mixture.weights[u][k]).toFixed(1)}`);
      return svg("path", { class: style(k), d: `${points.join("")}H${x(last).toFixed(1)}` }, svg("title", {}, name));
    });
    const ticks = Array.from({ length: Math.round(highest / step) + 1 }, (_, i) => i * step)
      .map((w) => svg("text", { x: left - 6, y: y(w) + 4, "text-anchor": "end" }, `${Number((100 * w).toFixed(1))} %`));
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Sampling weights of ${mixture.names.join(", ")} over ${last} steps` },
      svg("path", { class: "axis", d: `M${left} ${top}V${height - bottom}H${width - 10}` }), ...ticks,
      svg("text", { x: left, y: height - 10 }, "0"), svg("text", { x: width - 10, y: height - 10, "text-anchor": "end" }, `step ${last}`), ...lines);
    return [picture, el("div", { class: "legend" }, mixture.names.map((name, k) => el("span", {},
      svg("svg", { viewBox: "0 0 24 8", "aria-hidden": "true" }, svg("path", { class: style(k), d: "M0 4H24" })), `${name} ${percent(mixture.weights.at(-1)[k])} %`)))];
  }

  // --- two submissions --------------------------------------------------------------------------------------
  // Differences, intervals and verdicts come from `moemix board build`; this page only looks them up.

  // Whether the submission at position i is significantly better than the one at j, from a row of packed bits.
  function bit(packed, j) {
    return (atob(packed).charCodeAt(j >> 3) >> (7 - (j & 7))) & 1;
  }

  // The pair as seen from the first submission. Files hold each pair once, under the one that comes first in the suite.
  async function pairColumns(number, i, j) {
    if (!board.suites[number].pairs || i === j) return null;
    const columns = await load(`p/${number}-${Math.min(i, j)}`), at = Math.abs(i - j) - 1, sign = i < j ? 1 : -1;
    const signed = (values) => (values[at] === null ? null : sign * values[at]);
    return Object.fromEntries(Object.entries(columns).map(([name, c]) => [name, {
      difference: signed(c.d), low: signed(i < j ? c.l : c.u), high: signed(i < j ? c.u : c.l), p: c.p[at], corrected: c.q[at],
      better: (i < j ? c.m : c.w)[at], worse: (i < j ? c.w : c.m)[at] }]));
  }

  // The weights of several runs over each other: a drawing for each source, with a line for each run.
  function overlaid(ids, held) {
    const runs = ids.map((id, k) => [id, held[k].mixture]).filter(([, mixture]) => mixture && mixture.names.length);
    const drawing = (source) => {
      const with_it = runs.filter(([, mixture]) => mixture.names.includes(source));
      const steps = [...new Set(with_it.flatMap(([, mixture]) => mixture.steps))].sort((a, b) => a - b);
      const weight = (mixture, step) => mixture.weights[mixture.steps.findLastIndex((one) => one <= step)][mixture.names.indexOf(source)];
      return [el("h3", {}, source), trajectory({ names: with_it.map(([id]) => nameOf(id)), steps, weights: steps.map((step) => with_it.map(([, mixture]) => weight(mixture, step))) }, null)];
    };
    const sources = [...new Set(runs.flatMap(([, mixture]) => mixture.names))];
    return sources.length ? [el("h2", {}, "Mixture over time"), el("div", { id: "mixtures" }, sources.map(drawing).flat(2))] : [];
  }

  const profiles = (ids, held) => board.suites.map((suite) => profile(suite, ids, held)).filter((drawn) => drawn.length).map((drawn) => [el("h2", {}, "Tasks"), drawn]);

  // Three or more: each column's scores side by side, with the verdict of each against the first.
  async function manyPage(ids) {
    const held = await Promise.all(ids.map((id) => load(`s/${id}`)));
    const label = (id) => [modelLink(rowOf.get(id)), seedOf(rowOf.get(id))];
    const parts = board.suites.filter((suite) => ids.every((id) => suite.rows.includes(rowOf.get(id)))).map((suite) => {
      const at = ids.map((id) => suite.rows.indexOf(rowOf.get(id)));
      const verdict = (name, k) => (bit(held[k].beats[suite.key][name], at[0]) ? "better" : bit(held[0].beats[suite.key][name], at[k]) ? "worse" : "undecided");
      const cell = (name, k) => {
        const c = held[k].record.scores[suite.key][name], said = k ? verdict(name, k) : null;
        return el("td", { "data-verdict": said }, percent(c.value), unconfirmed(c.as_recorded), " ", el("small", {}, interval(c.lower, c.upper)), said && said !== "undecided" ? el("span", { class: said === "better" ? "pass" : "fail" }, ` ${said}`) : null);
      };
      return [el("h2", {}, suite.key), el("div", { class: "scroll", tabindex: 0 }, el("table", { class: "comparison" },
        el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Column"), ids.map((id) => el("th", { scope: "col" }, label(id))))),
        el("tbody", {}, suite.columns.filter((column) => suite.scores[column.name]).map((column) => el("tr", {}, el("td", { class: "text" }, column.title), ids.map((_, k) => cell(column.name, k)))))))];
    });
    show(el("p", {}, tableLink()), el("h2", {}, `${ids.length} submissions`), parts.length ? parts : el("p", {}, "They were not evaluated on the same suite version."),
      el("p", { class: "note" }, "Better and worse: than the first one, paired by question, at 5 % after correction for all pairs of submissions in all columns."),
      profiles(ids, held), el("p", {}, "In pairs: ", ids.slice(1).map((id) => [el("a", { href: `#c/${id}/${ids[0]}` }, "the first and ", board.rows.model[rowOf.get(id)], seedOf(rowOf.get(id)) || ""), " "])),
      overlaid(ids, held));
  }

  async function comparePage(ids) {
    if (ids.length > 2 && ids.every((id) => rowOf.has(id))) return manyPage(ids);
    if (ids.length !== 2 || !ids.every((id) => rowOf.has(id))) return missing();
    const [one, two] = await Promise.all(ids.map((id) => load(`s/${id}`)));
    const label = (s) => `${s.record.submission.model} ${s.record.submission.seed === null ? "" : `seed ${s.record.submission.seed}`}`.trim();
    const parts = [];
    for (const [number, suite] of board.suites.entries()) {
      const [i, j] = ids.map((id) => suite.rows.indexOf(rowOf.get(id)));
      if (i < 0 || j < 0) continue;
      const pairs = await pairColumns(number, i, j);
      const cells = (column) => {
        const [a, b] = [one, two].map((s) => s.record.scores[suite.key][column.name]);
        const verdict = bit(one.beats[suite.key][column.name], j) ? "better" : bit(two.beats[suite.key][column.name], i) ? "worse" : "undecided";
        const mark = el("td", { class: { better: "pass", worse: "fail" }[verdict], "data-verdict": verdict }, verdict);
        const scores = [a, b].map((c) => el("td", {}, percent(c.value), unconfirmed(c.as_recorded), " ", el("small", {}, interval(c.lower, c.upper))));
        if (!pairs) return [mark, ...scores];
        const d = pairs[column.name];
        return [mark, ...scores, el("td", { class: mark.className || null, "data-difference": d.difference, "data-low": d.low, "data-high": d.high, "data-p": d.p, "data-corrected": d.corrected },
          percent(d.difference, true) + (verdict === "undecided" ? "" : " *")), el("td", {}, interval(d.low, d.high, true)),
        el("td", {}, small(d.p)), el("td", {}, small(d.corrected)), el("td", {}, `${d.better} / ${d.worse}`)];
      };
      const titles = pairs ? ["Difference", "95 % interval", "p (alone)", "p (corrected)", "Better / worse"] : [];
      parts.push(el("h2", {}, suite.key), one.engine[suite.key] !== two.engine[suite.key]
        ? el("p", { class: "warn" }, `Evaluated by different engines: ${one.engine[suite.key]} and ${two.engine[suite.key]}.`) : [],
      el("div", { class: "scroll", tabindex: 0 }, el("table", { class: "comparison" }, el("thead", {}, el("tr", {},
        ["Column", "Verdict", label(one), label(two), ...titles].map((t) => el("th", { scope: "col" }, t)))),
      el("tbody", {}, suite.columns.filter((column) => suite.scores[column.name]).map((column) => el("tr", {}, el("td", { class: "text" }, column.title), cells(column)))))),
      pairs || i === j ? [] : el("p", { class: "note" }, "This board is too large for a page of every pair. For the paired differences with their intervals, run ",
        el("code", {}, `moemix board compare DIR ${ids[0]} ${ids[1]}`)));
    }
    show(el("p", {}, tableLink(), " · ", el("a", { href: `#c/${ids[1]}/${ids[0]}` }, "swap")),
      el("h2", {}, el("a", { href: `#s/${ids[0]}` }, label(one)), " minus ", el("a", { href: `#s/${ids[1]}` }, label(two))),
      parts.length ? parts : el("p", {}, "They were not evaluated on the same suite version."),
      el("p", { class: "note" }, "Paired by question. A verdict (and the *) holds at 5 % after correction for all pairs of submissions in all columns of the suite; "
        + "p (alone) and the interval are of this pair only. Better / worse: number of questions on which the first scores higher / lower."),
      profiles(ids, [one, two]), overlaid(ids, [one, two]));
  }

  const interval = (low, high, signed) => (low === null || high === null ? "–" : `${percent(low, signed)} to ${percent(high, signed)}`);
  const small = (p) => (p === null ? "–" : p < 0.001 ? "< 0.001" : p.toFixed(3));

  // --- the rest ------------------------------------------------------------------------------------------------

  function historyPage() {
    const rows = board.history.map(([row, status, note]) => el("tr", {}, el("td", { class: "text" }, board.rows.date[row]), el("td", { class: "text name" }, modelLink(row)),
      el("td", { class: "text" }, status), el("td", { class: "text" }, note)));
    show(el("p", {}, tableLink()), el("h2", {}, "Superseded and withdrawn"),
      rows.length ? el("div", { class: "scroll", tabindex: 0 }, el("table", {}, el("tbody", {}, rows))) : el("p", {}, "No submission was superseded or withdrawn."));
  }

  function missing() {
    show(el("h2", {}, "There is no such page"), el("p", {}, el("a", { href: "#" }, "Back to the table")));
  }

  async function route() {
    const [path, given] = location.hash.slice(1).split(/\?(.*)/s);
    const parts = path.split("/").map((part) => { try { return decodeURIComponent(part); } catch { return part; } });
    if (parts[0] === "main") return;
    const named = board.suites.findIndex((suite) => suite.key === parts[1]);
    if (named >= 0) view.suite = named;
    recall(given || "");
    try {
      if (parts[0] === "s") await submissionPage(parts[1]);
      else if (parts[0] === "c") await comparePage(parts.slice(1));
      else if (parts[0] === "t") await columnPage(parts[1], parts[2], parts[3]);
      else if (parts[0] === "q") await samplePage(parts[1], parts[2], parts[3], parts[4] === "-" ? null : parts[4], parts[5]);
      else if (parts[0] === "j") await judgedPage(parts[1], parts[2], parts[3] === "-" ? null : parts[3], parts[4]);
      else if (parts[0] === "history") historyPage();
      else {
        if (parts[1] && named < 0) return void missing();
        const first = suiteOf() && (parts[0] === "v" || (!parts[0] && suiteOf().models.length));
        if (parts[0] === "z" && suiteOf()) sizesPage(parts[2]);
        else if (first) strategies(parts[2]);
        else table();
      }
    } catch (error) {
      show(el("h2", {}, "This page could not be loaded"), el("p", {}, error.message));
    }
    const heading = ["s", "c", "t", "q", "j", "history"].includes(parts[0]) && document.querySelector("#main h2");
    document.title = heading ? `${heading.textContent.trim()} · ${board.title}` : board.title;
  }

  function theme() {
    let stored = null;
    try { stored = localStorage.getItem("theme"); } catch { /* a page opened from a disk may have no storage */ }
    if (stored === "dark" || stored === "light") document.documentElement.dataset.theme = stored;
    document.getElementById("theme").addEventListener("click", () => {
      const root = document.documentElement;
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
      try { localStorage.setItem("theme", root.dataset.theme); } catch { /* then the choice is lost when the page is closed */ }
    });
  }

  // The first rows are in the page: they are painted before the whole table is read.
  function start() {
    theme();
    requestAnimationFrame(() => setTimeout(() => load("board").then(begin, (error) => show(el("p", {}, error.message))), 0));
  }

  function begin() {
    names = board.rows.model.map((name, row) => `${name} ${board.rows.id[row]}`.toLowerCase());
    rowOf = new Map(board.rows.id.map((id, row) => [id, row]));
    view.suite = Math.max(0, board.suites.map((suite) => suite.rows.length > 0).lastIndexOf(true));
    document.getElementById("built").append(`Built ${board.built.slice(0, 16).replace("T", " ")} UTC`,
      ...(board.repository ? [" from ", safeLink(board.repository)] : []), ". To submit: ",
      el("code", {}, "moemix submit RUN_OR_CHECKPOINT --board DIR --pr"), " in a copy of the board's repository, then open a pull request.",
      board.licence ? ` Licence of this board: ${board.licence}.` : "");
    addEventListener("hashchange", () => { route().then(() => { if (location.hash !== "#main") scrollTo(0, 0); }); });
    addEventListener("keydown", (event) => {
      const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "checkbox";
      const query = document.getElementById("query");
      if (event.key === "/" && !typing && query) { event.preventDefault(); query.focus(); }
      else if (event.key === "Escape" && typing) event.target.blur();
    });
    route().then(() => performance.mark("moemix-ready"));
  }

  return { take, start };
})();

document.addEventListener("DOMContentLoaded", moemix.start);
