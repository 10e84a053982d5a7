// What keeps the cluster from being whole, in words, above everything else; nothing while it is.

import { h } from "./dom.js";

export class Troubles {
  constructor(root) {
    this.root = root;
    this.told = "[]";
  }

  draw(picture) {
    const found = troubles(picture);
    const told = JSON.stringify(found);
    if (told === this.told) return;
    this.told = told;
    this.root.replaceChildren(...found.map((text) => h("p", { class: "notice", text: `▲ ${text}` })));
  }
}

export function troubles(picture) {
  const many = picture.fleets.length > 1;
  const of = (name) => (many ? `${name}: ` : "");
  const silent = picture.fleets.filter((one) => !one.controller.answers && one.controller.error);
  return [
    ...silent.map((one) => `${of(one.model)}the controller does not answer${age(one)}: ${one.controller.error}`),
    ...picture.pools.map((one) => one.waits).filter(Boolean),
    ...picture.fleets.flatMap((one) => one.refused.map((why) => `${of(one.model)}${why}`)),
  ];
}

function age({ controller }) {
  return controller.age_s === null ? "" : ` since ${controller.age_s} s, so phases of workers may be old`;
}
