// The vectors from another language: node check.mjs FILE.json [naive]
// Checks a float64 loss and gradient on the cases of hard targets without options; exit code 1 where one is wrong.
// With "naive" it checks lse - x_t instead, which loses the losses of confident targets.
import { readFileSync } from "node:fs";

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

// -tau + log1p(others + expm1(tau)): nothing is added that has to be taken away again.
function careful(x, t) {
  const max = Math.max(...x);
  if (max === -Infinity) return [NaN, x.map(() => NaN)]; // NaN and +inf come out as NaN by themselves
  const tau = x[t] - max;
  const e = x.map((value) => Math.exp(value - max));
  const others = sum(e.filter((_, j) => j !== t));
  const total = others + e[t];
  const loss = tau === -Infinity ? Infinity : -tau + Math.log1p(others + Math.expm1(tau));
  return [loss, e.map((value, j) => (j === t ? -others : value) / total)];
}

function naive(x, t) {
  const max = Math.max(...x);
  const lse = max + Math.log(sum(x.map((value) => Math.exp(value - max))));
  return [lse - x[t], x.map((value, j) => Math.exp(value - lse) - (j === t ? 1 : 0))];
}

const [file, which] = process.argv.slice(2);
const implementation = which === "naive" ? naive : careful;
let checked = 0;
const faults = [];
for (const item of JSON.parse(readFileSync(file, "utf8")).cases) {
  const plain = Object.keys(item.options).join() === "reduction" && item.options.reduction === "none";
  if (!plain || item.dtype !== "float64" || item.repeat?.rows || item.targets_dtype === "float64") continue;
  const V = item.classes;
  const of = (list, i) => repeated(list.slice(i * V, (i + 1) * V), item.repeat?.columns);
  checked += 1;
  item.targets.forEach((target, i) => {
    const [loss, gradient] = implementation(of(item.logits, i).map(number), Number(target));
    const exact = of(item.d_logits, i).map(number);
    const allowed = of(item.d_logits_allowed, i);
    if (wrong(loss, number(item.loss[i]), item.loss_allowed[i], item.eps))
      faults.push(`${item.id}: loss[${i}] is ${loss}, not ${item.loss[i]}`);
    gradient.forEach((value, j) => {
      if (wrong(value, exact[j], allowed[j], item.eps))
        faults.push(`${item.id}: d_logits[${i}, ${j}] is ${value}, not ${exact[j]}`);
    });
  });
}
faults.slice(0, 10).forEach((fault) => console.log(fault));
console.log(`${checked} cases, ${faults.length} wrong values`);
process.exit(faults.length || !checked ? 1 : 0);
