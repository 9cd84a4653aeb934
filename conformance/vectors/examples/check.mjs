// The vectors from another language: node check.mjs FILE.json ... [naive]
// Checks a loss in JavaScript's float64 and its gradient on the cases of float64 and float32: hard and soft targets,
// label smoothing, weights, ignored tokens, every reduction and denominator. Exit code 1 where a value is wrong or
// nothing was checked.
// With "naive" it checks lse - x_t instead, which loses the losses of confident targets.
import { readFileSync } from "node:fs";

const BEYOND = ["z_loss", "algorithm", "grad_output", "check_targets"]; // options that this loss does not have

// Number("inf") is NaN, so infinities need a word; the rest of the strings, "nan" included, do as they are.
const number = (value) => (value === "inf" ? Infinity : value === "-inf" ? -Infinity : Number(value));
const repeated = (list, counts) => list.flatMap((value, j) => Array(counts?.[j] ?? 1).fill(value));

function wrong(given, exact, allowed, eps) {
  if (Number.isNaN(exact)) return !Number.isNaN(given);
  if (!Number.isFinite(exact)) return given !== exact;
  return !(Math.abs(given - exact) <= allowed * eps);
}

// Halves by halves: one after the other, fifty thousand exponentials lose more than the contract allows.
function sum(list) {
  if (list.length < 9) return list.reduce((so_far, value) => so_far + value, 0);
  const half = list.length >> 1;
  return sum(list.slice(0, half)) + sum(list.slice(half));
}

// Of a row: what each class's logarithm lacks, its probability, and what that leaves of 1. The largest logit is kept
// apart, so that nothing is added that has to be taken away again.
function careful(x) {
  const max = Math.max(...x);
  const top = x.indexOf(max);
  const e = x.map((value) => Math.exp(value - max));
  const others = sum(e.filter((_, j) => j !== top));
  const total = 1 + others;
  return {
    surprise: x.map((value) => max - value + Math.log1p(others)),
    p: e.map((value) => value / total),
    rest: e.map((value, j) => (j === top ? others : total - value) / total),
  };
}

function naive(x) {
  const max = Math.max(...x);
  const lse = max + Math.log(sum(x.map((value) => Math.exp(value - max))));
  const p = x.map((value) => Math.exp(value - lse));
  return { surprise: x.map((value) => lse - value), p, rest: p.map((value) => 1 - value) };
}

// The target distribution: a class at -inf gets nothing of what is smoothed, and gives what it gives to all others.
function masses(x, target, { label_smoothing: share = 0, smoothing = "others" }) {
  const q = Array.isArray(target) ? target : x.map((_, j) => (j === target ? 1 : 0));
  const can = x.map((value) => value !== -Infinity);
  const n = can.filter(Boolean).length;
  if (!share || (n < 2 && smoothing === "others" && q.every((value, j) => can[j] || !value))) return q;
  if (smoothing === "uniform") return q.map((value, j) => (1 - share) * value + (can[j] ? share / n : 0));
  const given = (share * sum(q.filter((_, j) => !can[j]))) / n;
  return q.map((value, j) => {
    if (!can[j]) return (1 - share) * value;
    if (n < 2) return value + given;
    return (1 - share) * value + (share * sum(q.filter((_, i) => i !== j && can[i]))) / (n - 1) + given;
  });
}

// The loss of a row and its gradient; of each class the terms for and against it.
function row(x, mass, implementation) {
  if (!Number.isFinite(Math.max(...x))) return [NaN, x.map(() => NaN)];
  const { surprise, p, rest } = implementation(x);
  const total = sum(mass);
  const heaviest = mass.indexOf(Math.max(...mass));
  const beside = (j) => (j === heaviest ? sum(mass.filter((_, i) => i !== j)) : total - mass[j]);
  const loss = sum(mass.map((m, j) => (m === 0 ? 0 : m * surprise[j])));
  return [loss, mass.map((m, j) => beside(j) * p[j] - m * rest[j])];
}

// The losses of a case, as its reduction has them, and the gradient's rows, of which repeated ones stand once.
function answer(item, implementation) {
  const { options, repeat } = item;
  const { reduction = "mean", denominator, ignore_index: ignored } = options;
  const classes = repeated([...Array(item.classes).keys()], repeat?.columns);
  const of = (list, i) => classes.map((j) => number(list[i * item.classes + j]));
  const soft = item.targets_dtype.startsWith("float");
  const weights = options.class_weights && repeated(options.class_weights.map(number), repeat?.columns);
  const rows = item.logits.length / item.classes;
  const found = [...Array(rows).keys()].map((i) => {
    const x = of(item.logits, i);
    const target = soft ? of(item.targets, i) : Number(item.targets[i]);
    const token = options.weights ? number(options.weights[i]) : 1;
    const weight = token * (weights && !soft ? weights[target] : 1);
    const times = repeat?.rows?.[i] ?? 1;
    if (weight === 0 || (ignored !== undefined && String(item.targets[i]) === String(ignored)))
      return { loss: 0, gradient: x.map(() => 0), weight: 0, times: 0 };
    const mass = masses(x, target, options).map((m, j) => m * (weights?.[j] ?? 1));
    const [loss, gradient] = row(x, mass, implementation);
    return { loss: token * loss, gradient: gradient.map((d) => token * d), weight, times };
  });
  if (reduction === "none") return [found.map(({ loss }) => loss), found.map(({ gradient }) => gradient)];
  const length = reduction === "sequence" ? item.tokens.at(-1) : rows;
  const groups = reduction === "sequence" ? item.tokens.slice(0, -1).reduce((a, b) => a * b, 1) : 1;
  const losses = [];
  const divisors = [];
  for (let g = 0; g < groups; g += 1) {
    const group = found.slice(g * length, (g + 1) * length);
    const tokens = sum(group.map(({ times }) => times));
    const all = sum(group.map(({ times, weight }) => times * weight));
    const divisor = reduction === "sum" || !tokens ? 1 : denominator === "tokens" ? tokens : denominator ?? all;
    losses.push(sum(group.map(({ times, loss }) => times * loss)) / divisor);
    divisors.push(...group.map(() => divisor));
  }
  return [losses, found.map(({ gradient }, i) => gradient.map((d) => d / divisors[i]))];
}

const words = process.argv.slice(2);
const implementation = words.includes("naive") ? naive : careful;
const cases = words
  .filter((word) => word !== "naive")
  .flatMap((file) => JSON.parse(readFileSync(file, "utf8")).cases)
  .filter(({ dtype }) => dtype === "float64" || dtype === "float32");
const asked = cases.filter(({ options }) => !BEYOND.some((name) => name in options));
const faults = [];
for (const item of asked) {
  const stored = item.dtype === "float32" ? Math.fround : (value) => value;
  const [losses, gradient] = answer(item, implementation);
  if (losses.length !== item.loss.length) faults.push(`${item.id}: ${losses.length} losses, not ${item.loss.length}`);
  losses.map(stored).forEach((loss, i) => {
    if (loss < item.loss_at_least || wrong(loss, number(item.loss[i]), item.loss_allowed[i], item.eps))
      faults.push(`${item.id}: loss[${i}] is ${loss}, not ${item.loss[i]}`);
  });
  const columns = repeated([...Array(item.classes).keys()], item.repeat?.columns);
  gradient.forEach((values, i) =>
    values.map(stored).forEach((value, j) => {
      const at = i * item.classes + columns[j];
      if (wrong(value, number(item.d_logits[at]), item.d_logits_allowed[at], item.eps))
        faults.push(`${item.id}: d_logits[${i}, ${j}] is ${value}, not ${item.d_logits[at]}`);
    }),
  );
}
faults.slice(0, 10).forEach((fault) => console.log(fault));
console.log(`${asked.length} cases, ${cases.length - asked.length} with other options, ${faults.length} wrong values`);
process.exit(faults.length || !asked.length ? 1 : 0);
