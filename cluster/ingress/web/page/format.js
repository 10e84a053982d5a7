// Numbers as people read them: three digits and a unit.

const SIZES = ["B", "kB", "MB", "GB", "TB", "PB"];
const COUNTS = ["", "k", "M", "G", "T"];

function scaled(value, units, base) {
  let place = 0;
  while (Math.abs(value) >= base && place < units.length - 1) {
    value /= base;
    place += 1;
  }
  return [digits(value), units[place]];
}

export function digits(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 100) return Math.round(value).toString();
  if (size >= 10) return Number(value.toFixed(1)).toString();
  return Number(value.toFixed(2)).toString();
}

export function count(value) {
  if (value === null || value === undefined) return "–";
  return scaled(value, COUNTS, 1000).join("");
}

export function bytes(value) {
  return scaled(value, SIZES, 1000).join(" ");
}

export function perSecond(value) {
  return value === null || value === undefined ? "–" : `${count(value)}/s`;
}

export function ms(value) {
  if (value === null || value === undefined) return "–";
  return value >= 1000 ? `${digits(value / 1000)} s` : `${digits(value)} ms`;
}

export function percent(share) {
  return share === null || share === undefined ? "–" : `${digits(share * 100)} %`;
}

export function clock(atSeconds) {
  return new Date(atSeconds * 1000).toLocaleTimeString([], { hour12: false });
}

export function grouped(value) {
  return Math.round(value).toLocaleString("en");
}
