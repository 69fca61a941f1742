"""The forecast page's own arithmetic: the formulas of `duckweed.forecast` in JavaScript."""

SCRIPT = r"""
const ref = JSON.parse(document.getElementById("reference").textContent);
const el = id => document.getElementById(id);
const TODAY = 4, CAP = 512, SHARE = 0.5;

// duckweed.forecast.law
function makeLaw(p) {
  const N = p.ceiling > 0 ? 8 * p.ceiling : 1e9, span = p.span * TODAY / SHARE, full = 1;
  const gain = (full - p.start) / span, c = Math.LN2 * p.parallel, lf = Math.log(p.speedup);
  const far = x => -Math.log1p(-Math.min(x / N, 1 - 1e-6));
  const slope = x => x < 0 ? 0 : c * (p.start + gain * Math.min(x, span)) *
    (1 - 1 / (p.returns * Math.max(1 - x / N, 1e-6))) + (x < span ? gain * lf : 0);
  const speed = x => {
    if (x < 0) return TODAY;
    const m = Math.min(x, span), l = far(x), lm = Math.min(l, far(span));
    const share = p.start * m + gain * m * m / 2 + full * (x - m);
    const harder = N * ((p.start + gain * N) * lm - gain * m) + full * N * (l - lm);
    return TODAY * Math.exp((p.start + gain * m) * lf + c * (share - harder / p.returns));
  };
  return { slope, speed, N, top: Math.min(N * (1 - 1e-6), CAP) };
}

// where `at` stands between the points of `grid` (ascending), read off `value`
function between(grid, value, at) {
  let low = 0, high = grid.length - 1;
  if (high === 0) return value[0];
  while (high - low > 1) { const mid = (low + high) >> 1; if (grid[mid] <= at) low = mid; else high = mid; }
  const width = grid[high] - grid[low];
  const part = width > 0 ? Math.min(Math.max((at - grid[low]) / width, 0), 1) : 1;
  return value[low] + part * (value[high] - value[low]);
}

// duckweed.forecast.race for a leader and one follower; times ascending, in years
function makeRace(p, times) {
  const law = makeLaw(p), behind = p.lag / 12, delay = p.delay / 12;
  const w = [1, Math.pow(Math.pow(10, p.compute), p.parallel)];
  const x = [0, -behind * TODAY];
  let t = 0, visible = -delay * TODAY, gone = Infinity;
  const T = [0], X = [0], out = { gap: [], lag: [], front: [] };
  const seen = when => when < 0 ? TODAY * when : between(T, X, when);
  const reached = level => level < 0 ? level / TODAY : between(X, T, level);
  const stretch = z => Math.abs(z) < 1e-8 ? 1 : -Math.log1p(-z) / z;
  for (const due of times) {
    for (let guard = 0; t < due && guard < 20000 && gone === Infinity; guard++) {
      const v = x.map((xi, i) => law.speed(xi) * w[i]), k = x.map(law.slope);
      let h = Math.min(due - t, 1 / 60, p.leak > 0 ? Math.max(delay, 1 / 52) : 1);
      x.forEach((xi, i) => {
        if (xi < law.top)
          h = Math.min(h, 0.1 / (v[i] * Math.max(k[i], -0.5 * k[i], 4 / (law.N - xi))));
        if (xi < 0) h = Math.min(h, -xi / v[i] * (1 + 1e-12));
      });
      const own = x.map((xi, i) => {
        if (xi < 0) return v[i] * h;
        const half = law.slope(xi + 0.5 * v[i] * h * stretch(Math.min(k[i] * v[i] * h, 0.9)));
        return v[i] * h * stretch(Math.min(half * v[i] * h, 0.9));
      });
      if (p.leak > 0 || p.imitate > 1) {
        const after = seen(Math.min(t + h - delay, t));
        const learned = Math.min(own[1] * p.imitate + p.leak * (after - visible), after - x[1]);
        own[1] = Math.max(own[1], learned);
        visible = after;
      }
      x[0] = Math.min(x[0] + own[0], law.top);
      x[1] = Math.min(x[1] + own[1], law.top);
      t = h >= due - t ? due : t + h;
      T.push(t); X.push(Math.max(x[0], x[1]));
      if (X[X.length - 1] >= CAP) gone = t;
    }
    const front = Math.max(x[0], x[1]);
    out.gap.push(SHARE * (front - x[1]) / TODAY + (1 - SHARE) * behind);
    out.lag.push(Math.max(t - reached(x[1]), 0));
    out.front.push(SHARE * front / TODAY + (1 - SHARE) * due);
  }
  out.diverges = gone;
  return out;
}

// duckweed.forecast.trend and crossing: level + floor t + rate tau (1 - e^(-t/tau))
const level = (start, rate, tau, floor, t) =>
  start + (tau > 20 ? (rate + floor) * t : floor * t + rate * tau * -Math.expm1(-t / tau));
function crossingYear(frontier, crowd, fade, target) {
  const floor = fade > 20 ? 0 : ref.floor, rate = Math.log10(crowd) - floor;
  const gap = t => target(t) - level(ref.levels.decentralised, rate, fade, floor, t);
  if (gap(0) <= 0) return ref.now;
  for (let t = 0; t < 2100 - ref.now; t += 0.25)
    if (gap(t + 0.25) <= 0) return ref.now + t + 0.25 * gap(t) / (gap(t) - gap(t + 0.25));
  return null;
}
const frontierLevel = growth => t => ref.levels.frontier + Math.log10(growth) * t;

function read(keys) {
  const values = {};
  for (const key of keys) { values[key] = +el("in-" + key).value; el("out-" + key).textContent = values[key]; }
  return values;
}
const say = year => year === null ? "never (before 2100)" : year <= ref.now ? "now" : "in " + Math.floor(year);

function drawCompute() {
  const s = read(["frontier", "crowd", "fade"]);
  if (!("decentralised" in ref.levels) || !("frontier" in ref.levels)) return;
  el("out-fade").textContent = s.fade > 20 ? "never" : s.fade;
  const floor = s.fade > 20 ? 0 : ref.floor, rate = Math.log10(s.crowd) - floor;
  const years = [], a = [], b = [];
  for (let t = 0; ref.now + t <= 2040; t += 0.25) {
    years.push(ref.now + t);
    a.push(Math.pow(10, frontierLevel(s.frontier)(t)));
    b.push(Math.pow(10, level(ref.levels.decentralised, rate, s.fade, floor, t)));
  }
  const last = figures.compute.data.length;
  Plotly.restyle("compute", { x: [years, years], y: [a, b] }, [last - 2, last - 1]);
  const year = crossingYear(s.frontier, s.crowd, s.fade, frontierLevel(s.frontier));
  const v3 = crossingYear(s.frontier, s.crowd, s.fade, () => ref.v3);
  const days = g => Math.round(12 * Math.LN2 / Math.log(g) * 10) / 10;
  el("crossing").textContent = `decentralised training reaches the frontier ${say(year)}, ` +
    `and DeepSeek-V3's compute ${say(v3)}. The frontier doubles every ${days(s.frontier)} months.`;
  el("lake-note").textContent = `At ${s.frontier}x a year the frontier doubles every ${days(s.frontier)} months. ` +
    `Whoever is a thousandfold behind is ten doublings behind: ${(10 * days(s.frontier) / 12).toFixed(1)} years at that pace.`;
}

const RACE_KEYS = ["returns", "speedup", "parallel", "ceiling", "start", "span", "lag", "compute",
  "leak", "delay", "imitate", "horizon"];
function drawRace() {
  const p = read(RACE_KEYS), n = 120, times = [];
  el("out-compute").textContent = Math.pow(10, p.compute).toPrecision(2);
  for (let i = 1; i <= n; i++) times.push(p.horizon * i / n);
  const r = makeRace(p, times);
  Plotly.restyle("race", { x: [times, times, times], y: [r.gap, r.lag.map(v => Math.max(v, 1e-3)), r.front] }, [0, 1, 2]);
  const year = makeRace(p, Array.from({ length: 120 }, (_, i) => (i + 1) / 120));
  const peak = Math.max(...year.gap), show = v => v < 1 ? (12 * v).toFixed(1) + " months" : v.toFixed(1) + " years";
  el("race-says").textContent = `a lead of ${p.lag} month${p.lag === 1 ? "" : "s"} becomes at most ${show(peak)} of ` +
    `today's progress within a year; on the calendar the follower is ${show(r.lag[n - 1])} behind after ` +
    `${p.horizon} year${p.horizon === 1 ? "" : "s"}.` +
    (r.diverges < Infinity ? ` The leader diverges at year ${r.diverges.toFixed(2)}.` : "");
}

// the same as Python has computed, and by how much the page differs
function check() {
  let worst = 0;
  for (const race of ref.races) {
    const h = race.set.horizon, times = Array.from({ length: 12 }, (_, i) => h * (i + 1) / 12);
    const mine = makeRace(race.set, times);
    for (const key of ["gap", "lag"])
      race[key].forEach((v, i) => { worst = Math.max(worst, Math.abs(mine[key][i] - v) / Math.max(Math.abs(v), 1e-2)); });
  }
  let apart = 0;
  for (const c of ref.crossings) {
    const [f, crowd, fade] = c.set, mine = crossingYear(f, crowd, fade, frontierLevel(f));
    apart = Math.max(apart, (mine === null) !== (c.year === null) ? 99 : mine === null ? 0 : Math.abs(mine - c.year));
  }
  el("check").textContent = `This page's own arithmetic differs from the program's by at most ` +
    `${(100 * worst).toFixed(2)} % in ${ref.races.length} races and by ${apart.toFixed(3)} years in ` +
    `${ref.crossings.length} crossings.`;
}
for (const id of ["frontier", "crowd", "fade"]) el("in-" + id).addEventListener("input", drawCompute);
for (const id of RACE_KEYS) el("in-" + id).addEventListener("input", drawRace);
drawCompute(); drawRace(); check();
"""
