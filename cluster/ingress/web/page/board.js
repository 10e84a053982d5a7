// The cluster's view: its parts, each of which draws what it shows of the picture.

import { Autopilot } from "./autopilot.js";
import { byId } from "./dom.js";
import { Events } from "./events.js";
import { Grid } from "./grid.js";
import { Plots } from "./plots.js";
import { Pools } from "./pools.js";
import { Streams } from "./streams.js";
import { Tiles } from "./tiles.js";
import { Troubles } from "./troubles.js";
import { Workers } from "./workers.js";

export class ClusterBoard {
  constructor(picture) {
    this.picture = picture;
    const workers = new Workers(byId("workers"));
    const grid = new Grid(byId("grid"), (name) => workers.find(name));
    const pools = new Pools(byId("pools"), (role) => workers.only(role));
    this.parts = [
      new Troubles(byId("troubles")),
      new Tiles(byId("tiles")),
      new Plots(byId("plots"), byId("plots-table"), byId("plots-rows")),
      pools,
      grid,
      workers,
      new Streams(byId("streams"), byId("streams-note")),
      new Events(byId("events"), byId("events-kind")),
      new Autopilot(byId("autopilot")),
    ];
  }

  draw() {
    for (const part of this.parts) part.draw(this.picture);
  }

  recolour() {
    for (const part of this.parts) part.recolour?.();
  }
}
