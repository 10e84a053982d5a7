// What the autopilot of each fleet does now, where it is not off. Its decisions are among the events.

import { setText } from "./dom.js";

export class Autopilot {
  constructor(root) {
    this.root = root;
  }

  draw(picture) {
    const fleets = picture.fleets.filter(({ autopilot }) => autopilot && autopilot.mode !== "off");
    setText(this.root, fleets.map((fleet) => words(fleet, picture.fleets.length > 1)).join("; "));
  }
}

function words({ model, autopilot: { mode, doing } }, isOneOfSeveral) {
  return `autopilot${isOneOfSeveral ? ` of ${model}` : ""} (${mode}): ${doing || "begins"}`;
}
